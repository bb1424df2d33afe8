package raftstore

import (
	"errors"
	"fmt"
	"syscall"
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

// errLost is the remedy for a directory that is not whole any more. Every refusal
// of one ends with it.
var errLost = errors.New("restore the directory whole, or leave and join again")

// lost adds the remedy to an error of reading what is damaged. What the system
// refused is no damage, except where there is no file, or it would have to be
// larger than any file: a damaged database says so of itself.
func lost(err error) error {
	if errors.Is(err, errLost) || ofSystem(err) {
		return err
	}
	return fmt.Errorf("%w: %w", err, errLost)
}

func ofSystem(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && errno != syscall.ENOENT && errno != syscall.EFBIG
}

// unopened is said of a sealed record that does not open: what was found, what
// that means, and the remedy.
func unopened(err error) error {
	const means = "does not open: it was damaged, exchanged or sealed under another key"
	switch {
	case err == nil:
		return fmt.Errorf(means+": %w", errLost)
	case errors.Is(err, errLost), ofSystem(err):
		return fmt.Errorf("cannot be read: %w", err)
	}
	return fmt.Errorf(means+" (%w): %w", err, errLost)
}

// DuplicateError says that another object already holds a unique key. Index is
// "id" where the object itself exists already.
type DuplicateError struct{ Table, Index, Key string }

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("%s: %s %q is already in use: choose another", e.Table, e.Index, e.Key)
}
