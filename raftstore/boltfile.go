package raftstore

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/boltcheck"
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
		if err := checkDatabase(path); err != nil {
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

// checkDatabase refuses a database in which bbolt would lose its way: in a tree
// that is a circle it takes memory until the process is ended. It holds bbolt's
// lock meanwhile.
func checkDatabase(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 { // bbolt would begin a new one
		return fmt.Errorf("%w: it is empty", boltcheck.ErrDamaged)
	}
	held, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: boltLockTimeout, ReadOnly: true}) // for its lock
	if err != nil {
		return err
	}
	defer held.Close()
	return boltcheck.Check(f, info.Size(), "logs", "conf")
}
