package raftstore_test

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// simDisk makes the log and the stable values of one manager slow, before and
// after each write reaches the file, so that a crash finds writes that were
// not begun, and others that were done and not yet reported.
type simDisk struct {
	mu   sync.Mutex
	rand *rand.Rand
	slow time.Duration // the most that each half of a write takes
}

func (d *simDisk) setSlow(slow time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = slow
}

func (d *simDisk) pause() {
	d.mu.Lock()
	var wait time.Duration
	if d.slow > 0 {
		wait = time.Duration(d.rand.Int64N(int64(d.slow)))
	}
	d.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait) // simulated time: this is the disk's own
	}
}

func (d *simDisk) do(write func() error) error {
	d.pause()
	err := write()
	d.pause()
	return err
}

func (d *simDisk) wrap(c raftstore.Config) raftstore.Config {
	return c.WithDisk(
		func(l raft.LogStore) raft.LogStore { return &simLog{l, d} },
		func(s raft.StableStore) raft.StableStore { return &simStable{s, d} })
}

type simLog struct {
	raft.LogStore
	disk *simDisk
}

func (l *simLog) StoreLogs(logs []*raft.Log) error {
	return l.disk.do(func() error { return l.LogStore.StoreLogs(logs) })
}

func (l *simLog) DeleteRange(lo, hi uint64) error {
	return l.disk.do(func() error { return l.LogStore.DeleteRange(lo, hi) })
}

type simStable struct {
	raft.StableStore
	disk *simDisk
}

func (s *simStable) Set(key, val []byte) error {
	return s.disk.do(func() error { return s.StableStore.Set(key, val) })
}
