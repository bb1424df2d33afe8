package raftstore_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// simDisk makes the files of one manager slow, before and after each write
// reaches them, so that a crash finds writes that were not begun, and others
// that were done and not yet reported. And it fails, as disks do: before
// anything was written, or after.
type simDisk struct {
	mu   sync.Mutex
	rand *rand.Rand
	slow time.Duration   // the most that each half of a write takes
	only simOp           // if set, the one kind of write that takes time
	fail map[simOp]int   // the operation of its kind, counted from now, that fails
	late bool            // it fails after it was done
	hits int             // failures there were
	lose func(id string) // if not nil, called before a snapshot is opened
	over chan struct{}   // closed when the manager's present life ends: nothing takes time any more
}

// simOp is a kind of operation.
type simOp string

// What a store asks of its disk.
const (
	opAppend, opDelete, opEntry, opFirst, opLast simOp = "append", "delete", "entry", "first", "last"
	opSet, opGet                                 simOp = "set", "get"
	opMark, opMarkSync                           simOp = "mark", "mark-sync"
	opSnapshot, opWrite, opFinish                simOp = "snapshot", "snapshot-write", "snapshot-close"
	opList, opOpen, opRead                       simOp = "snapshot-list", "snapshot-open", "snapshot-read"
)

var simOps = []simOp{opAppend, opDelete, opEntry, opFirst, opLast, opSet, opGet, opMark, opMarkSync,
	opSnapshot, opWrite, opFinish, opRead, opList, opOpen}

// simDiskFaults are what fails in a simulation. A snapshot that cannot be listed or
// opened ends the goroutine inside of what simDisk wraps: raft, given an error
// of it at its start, would go on from an older one.
var simDiskFaults = simOps[:len(simOps)-2]

// errSimDisk is what a disk fails with.
var errSimDisk = fmt.Errorf("simulated: %w", errors.Join(syscall.EIO, syscall.ENOSPC))

func newSimDisk(seed uint64) *simDisk {
	return &simDisk{rand: rand.New(rand.NewPCG(seed, 3)), fail: map[simOp]int{}, over: make(chan struct{})}
}

func (d *simDisk) setSlow(slow time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = slow
}

// setOnly says what takes time; "" is all that is written.
func (d *simDisk) setOnly(op simOp) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.only = op
}

// failAt lets the nth operation of a kind from now fail.
func (d *simDisk) failAt(op simOp, nth int, late bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[op], d.late = nth, late
}

// mend ends what was set, and returns how many failures there were.
func (d *simDisk) mend() (failures int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.fail)
	d.slow = 0
	failures, d.hits = d.hits, 0
	return failures
}

// endLife lets everything that is under way end now.
func (d *simDisk) endLife() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.fail)
	close(d.over)
	d.over = make(chan struct{})
}

func (d *simDisk) pause() {
	d.mu.Lock()
	var wait time.Duration
	if d.slow > 0 {
		wait = time.Duration(d.rand.Int64N(int64(d.slow)))
	}
	over := d.over
	d.mu.Unlock()
	if wait > 0 {
		select { // simulated time: this is the disk's own
		case <-time.After(wait):
		case <-over:
		}
	}
}

// do runs one operation; writes take time.
func (d *simDisk) do(op simOp, run func() error) error {
	d.mu.Lock()
	late, only := d.late, d.only
	failed := false
	if n := d.fail[op]; n > 0 {
		if d.fail[op] = n - 1; n == 1 {
			failed = true
			d.hits++
		}
	}
	d.mu.Unlock()
	if failed && !late {
		return errSimDisk
	}
	switch op {
	case opAppend, opDelete, opSet:
		if only == "" || only == op {
			d.pause()
			defer d.pause()
		}
	}
	if err := run(); err != nil {
		return err
	}
	if failed {
		return errSimDisk
	}
	return nil
}

func (d *simDisk) wrap(c raftstore.Config) raftstore.Config {
	c.Storage = func(open func() (*raftstore.Storage, error)) (*raftstore.Storage, error) {
		s, err := open()
		if err == nil {
			s.Log, s.Stable = &simLog{s.Log, d}, &simStable{s.Stable, d}
			s.Snapshots, s.Mark = &simSnapshots{s.Snapshots, d}, &simMark{s.Mark, d}
		}
		return s, err
	}
	return c
}

type simLog struct {
	raft.LogStore
	disk *simDisk
}

func (l *simLog) FirstIndex() (i uint64, err error) {
	err = l.disk.do(opFirst, func() (err error) { i, err = l.LogStore.FirstIndex(); return err })
	return i, err
}

func (l *simLog) LastIndex() (i uint64, err error) {
	err = l.disk.do(opLast, func() (err error) { i, err = l.LogStore.LastIndex(); return err })
	return i, err
}

func (l *simLog) GetLog(i uint64, log *raft.Log) error {
	return l.disk.do(opEntry, func() error { return l.LogStore.GetLog(i, log) })
}

func (l *simLog) StoreLogs(logs []*raft.Log) error {
	return l.disk.do(opAppend, func() error { return l.LogStore.StoreLogs(logs) })
}

func (l *simLog) DeleteRange(lo, hi uint64) error {
	return l.disk.do(opDelete, func() error { return l.LogStore.DeleteRange(lo, hi) })
}

type simStable struct {
	raft.StableStore
	disk *simDisk
}

func (s *simStable) Set(key, val []byte) error {
	return s.disk.do(opSet, func() error { return s.StableStore.Set(key, val) })
}

func (s *simStable) Get(key []byte) (val []byte, err error) {
	err = s.disk.do(opGet, func() (err error) { val, err = s.StableStore.Get(key); return err })
	return val, err
}

type simMark struct {
	raftstore.MarkFile
	disk *simDisk
}

func (m *simMark) WriteAt(b []byte, off int64) (n int, err error) {
	err = m.disk.do(opMark, func() (err error) { n, err = m.MarkFile.WriteAt(b, off); return err })
	return n, err
}

func (m *simMark) Sync() error { return m.disk.do(opMarkSync, m.MarkFile.Sync) }

type simSnapshots struct {
	raft.SnapshotStore
	disk *simDisk
}

func (s *simSnapshots) Create(v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, tr raft.Transport) (k raft.SnapshotSink, err error) {
	err = s.disk.do(opSnapshot, func() (err error) {
		k, err = s.SnapshotStore.Create(v, index, term, conf, confIndex, tr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &simSink{k, s.disk}, nil
}

func (s *simSnapshots) List() (all []*raft.SnapshotMeta, err error) {
	err = s.disk.do(opList, func() (err error) { all, err = s.SnapshotStore.List(); return err })
	return all, err
}

func (s *simSnapshots) Open(id string) (m *raft.SnapshotMeta, r io.ReadCloser, err error) {
	if s.disk.lose != nil {
		s.disk.lose(id)
	}
	err = s.disk.do(opOpen, func() (err error) { m, r, err = s.SnapshotStore.Open(id); return err })
	if err != nil {
		return nil, nil, err
	}
	return m, &simReader{r, s.disk}, nil
}

type simSink struct {
	raft.SnapshotSink
	disk *simDisk
}

func (k *simSink) Write(p []byte) (n int, err error) {
	err = k.disk.do(opWrite, func() (err error) { n, err = k.SnapshotSink.Write(p); return err })
	return n, err
}

func (k *simSink) Close() error { return k.disk.do(opFinish, k.SnapshotSink.Close) }

type simReader struct {
	io.ReadCloser
	disk *simDisk
}

func (r *simReader) Read(p []byte) (n int, err error) {
	err = r.disk.do(opRead, func() (err error) { n, err = r.ReadCloser.Read(p); return err })
	return n, err
}
