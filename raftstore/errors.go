package raftstore

import (
	"errors"
	"fmt"
)

var (
	// ErrNotLeader: this server may not write; ask Leader.
	ErrNotLeader = errors.New("this manager is not the leader: try again at the leader")
	// ErrConflict: something the transaction relies on was changed meanwhile.
	ErrConflict = errors.New("the object was changed meanwhile: read it again and retry")
	// ErrUncertain: the outcome is unknown; the write may yet be applied.
	ErrUncertain = errors.New("the outcome of the write is unknown: read before trying again")
	// ErrTooLarge: the transaction exceeds a bound of the store.
	ErrTooLarge = errors.New("the transaction is too large: split it")
	// ErrNotFound: there is no object of that id.
	ErrNotFound = errors.New("no such object")
	// ErrLagged: the consumer of a Watch was too slow, or the state was replaced
	// by a snapshot; start a new Watch.
	ErrLagged = errors.New("the watch fell behind: start it again")
	// ErrClosed: the store, or the watch, was closed.
	ErrClosed = errors.New("the store is closed")
)

// DuplicateError says that another object already holds a unique key. Index is
// "id" where the object itself exists already.
type DuplicateError struct{ Table, Index, Key string }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("%s: %s %q is already in use: choose another", e.Table, e.Index, e.Key)
}
