package raftstore

import "github.com/hashicorp/raft"

// guardedLog and guardedStable make errors of the panics by which the database
// answers a page of its file that was damaged, also where that page is reached
// only by a write: the store then stops with a reason, where the process would
// have died with a stack trace.
type guardedLog struct{ raft.LogStore }

// FirstIndex implements raft.LogStore.
func (g guardedLog) FirstIndex() (i uint64, err error) {
	err = guarded(func() error {
		i, err = g.LogStore.FirstIndex()
		return err
	})
	return i, err
}

// LastIndex implements raft.LogStore.
func (g guardedLog) LastIndex() (i uint64, err error) {
	err = guarded(func() error {
		i, err = g.LogStore.LastIndex()
		return err
	})
	return i, err
}

// GetLog implements raft.LogStore.
func (g guardedLog) GetLog(index uint64, l *raft.Log) error {
	return guarded(func() error { return g.LogStore.GetLog(index, l) })
}

// StoreLogs implements raft.LogStore.
func (g guardedLog) StoreLogs(logs []*raft.Log) error {
	return guarded(func() error { return g.LogStore.StoreLogs(logs) })
}

// DeleteRange implements raft.LogStore.
func (g guardedLog) DeleteRange(lo, hi uint64) error {
	return guarded(func() error { return g.LogStore.DeleteRange(lo, hi) })
}

type guardedStable struct{ raft.StableStore }

// Set implements raft.StableStore.
func (g guardedStable) Set(key, val []byte) error {
	return guarded(func() error { return g.StableStore.Set(key, val) })
}

// Get implements raft.StableStore.
func (g guardedStable) Get(key []byte) (val []byte, err error) {
	err = guarded(func() error {
		val, err = g.StableStore.Get(key)
		return err
	})
	return val, err
}
