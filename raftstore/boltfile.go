package raftstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// boltLockTimeout bounds the wait for the file lock another process holds.
const boltLockTimeout = 2 * time.Second

// openBolt opens the file of the log and the stable values.
//
// The free list is kept in the file. Without it the database finds the free
// pages when it is opened by walking all of them, in a goroutine of its own,
// and a damaged page there ends the process where nobody can say why.
func (s *Store) openBolt() error {
	path := filepath.Join(s.cfg.Dir, logFile)
	err := guarded(func() (err error) {
		s.bolt, err = raftboltdb.New(raftboltdb.Options{
			Path: path, BoltOptions: &bbolt.Options{Timeout: boltLockTimeout, FreelistType: bbolt.FreelistMapType},
		})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("%s is in use by another process", path)
	case err != nil:
		return fmt.Errorf("%s cannot be opened: %w", path, err)
	}
	return nil
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
			err = errors.New("the file is damaged: a part of it is missing or overwritten")
		default:
			err = fmt.Errorf("the file is damaged: %.200v", p)
		}
	}()
	return fn()
}
