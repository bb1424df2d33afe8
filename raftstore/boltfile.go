package raftstore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// boltLockTimeout bounds the wait for the file lock another process holds.
const boltLockTimeout = 2 * time.Second

// openBolt opens the file of the stable values and, by kind, of the log.
//
// The free list is kept in the file. Without it the database finds the free
// pages when it is opened by walking all of them, in a goroutine of its own,
// and a damaged page there ends the process where nobody can say why.
func openBolt(path string) (db *raftboltdb.BoltStore, err error) {
	err = guarded(func() (err error) {
		if err := checkMetaPages(path); err != nil {
			return err
		}
		db, err = raftboltdb.New(raftboltdb.Options{
			Path: path, BoltOptions: &bbolt.Options{Timeout: boltLockTimeout, FreelistType: bbolt.FreelistMapType},
		})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s is in use by another process", path)
	case err != nil:
		return nil, fmt.Errorf("%s cannot be opened: %w", path, lost(err))
	}
	return db, nil
}

// guarded runs fn and makes an error of a panic, also of one for memory that
// cannot be read: the database maps its file, trusts what stands there, and a
// file that was cut short ends before the mapping does.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("the file is damaged: a part of it is missing or overwritten: %w", errLost)
		default:
			err = fmt.Errorf("the file is damaged: %.200v: %w", p, errLost)
		}
	}()
	return fn()
}

// A bbolt meta page: a header of 16 bytes, then magic, version, page size and
// flags (4 bytes each), root (16), free list, pages, transaction id and
// checksum (8 each).
const (
	metaHeader   = 16
	metaChecked  = 56 // what the checksum covers
	metaBytes    = metaHeader + metaChecked + 8
	metaMagic    = 0xED0CDAED
	metaPageSize = metaHeader + 8
	metaTxid     = metaHeader + 48
)

// checkMetaPages refuses a database of which one of the two meta pages does not
// verify, or which are not those of two successive transactions. bbolt would go
// on with the other page, which is the state before the last transaction: the
// last entries acknowledged, or the last vote, would be gone without a word. A
// crash does not do this: what counts of a meta page lies in one sector, and
// the page written is never the one in force.
func checkMetaPages(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() == 0 {
		return cmp.Or(err, errMetaPage)
	}
	held, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: boltLockTimeout, ReadOnly: true}) // for its lock
	if err != nil {
		return err
	}
	defer held.Close()
	size, first, err := metaPage(f, 0)
	if err != nil {
		return err
	}
	_, second, err := metaPage(f, int64(size))
	if err != nil {
		return err
	}
	if first-second != 1 && second-first != 1 {
		return errMetaPage
	}
	return nil
}

var errMetaPage = errors.New("the file is damaged: the last state of its database is not whole")

func metaPage(f *os.File, off int64) (size uint32, txid uint64, _ error) {
	var page [metaBytes]byte
	if _, err := f.ReadAt(page[:], off); errors.Is(err, io.EOF) {
		return 0, 0, errMetaPage
	} else if err != nil {
		return 0, 0, err
	}
	sum := fnv.New64a()
	sum.Write(page[metaHeader : metaHeader+metaChecked])
	size = binary.NativeEndian.Uint32(page[metaPageSize:])
	if binary.NativeEndian.Uint32(page[metaHeader:]) != metaMagic || sum.Sum64() != binary.NativeEndian.Uint64(page[metaHeader+metaChecked:]) {
		return 0, 0, errMetaPage
	}
	return size, binary.NativeEndian.Uint64(page[metaTxid:]), nil
}
