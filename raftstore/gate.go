package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// The files of log and values are exchanged for others while raft runs (rekey.go).
// Who seals and writes, or reads and opens, goes through the gate, so that nothing
// sealed under the key of before reaches the files of the next, and nobody reads
// from files that are closed. The gate is above the files and below all locks of
// the store: whoever holds it calls nothing that might take it again.

// through takes the gate, shared, and returns how to leave it.
func through(gate *sync.RWMutex) (leave func()) {
	if gate == nil {
		return func() {}
	}
	gate.RLock()
	return gate.RUnlock
}

// behind runs f behind the gate.
func behind[T any](gate *sync.RWMutex, f func() (T, error)) (T, error) {
	defer through(gate)()
	return f()
}

// exchangedLog is the log in use. Its field is changed by who holds the gate alone.
type exchangedLog struct {
	raft.LogStore
	// While the log is copied, the lowest entry from which on entries were taken
	// away since; 0 for none.
	mu  sync.Mutex
	cut uint64 // guarded by mu
}

// DeleteRange implements raft.LogStore.
func (l *exchangedLog) DeleteRange(lo, hi uint64) error {
	last, err := l.LastIndex()
	if err != nil {
		return err
	}
	if err := l.LogStore.DeleteRange(lo, hi); err != nil {
		return err
	}
	if hi >= last {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.cut == 0 || lo < l.cut {
			l.cut = lo
		}
	}
	return nil
}

// takeCut returns what cut was, and forgets it.
func (l *exchangedLog) takeCut() (at uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, l.cut = l.cut, 0
	return at
}

// exchangedStable are the values in use, likewise.
type exchangedStable struct{ raft.StableStore }
