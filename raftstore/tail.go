package raftstore

import (
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// tailLog lets a leader write its entries to its own disk while the followers
// write them to theirs (Ongaro's thesis, 10.2.1). Raft stores an entry, then
// counts this server among those that have it, then replicates it. Here an
// entry of a leader is taken into memory, where replication finds it at once,
// and a goroutine writes what has come together meanwhile. What is in memory
// alone is the tail.
//
// So raft counts what is not there yet, and what raft calls committed may not
// be. Nothing may act on that before the tail is written up to there. The rules
// follow; decision 35 has the argument.
//
//   - Only commands of a leader go into the tail. All else waits for the tail,
//     and then for its own write: the first entry of a term, configurations,
//     barriers and whatever a follower is sent. What is deleted waits for what of
//     it is in the tail: its end for all, and its beginning, under load that never
//     leaves it empty, for nothing.
//   - The state machine applies an entry when it is not in the tail any more,
//     and what is not applied is neither acknowledged, read, watched nor part of
//     a snapshot.
//   - What others are told to be committed (transport) and believed to hold for
//     good (witness) ends before the tail, and so does LastIndex of the store.
//   - Term and vote change on disk only when there is no tail: a server that
//     votes, stands for election or follows another has all it ever sent.
//   - A tail that cannot be written ends the store as any failure of the log
//     does, and stays a tail.
type tailLog struct {
	raft.LogStore // below; what it has stored is on disk
	halt          func(error) error
	// leads reports whether this server leads; nil, and so no tail, before the
	// goroutine that writes it runs.
	leads atomic.Pointer[func() bool]
	// foresee is told of the last entry that was written; nil in tests of the tail alone.
	foresee func(*raft.Log)
	work    chan struct{} // capacity 1: there is a tail
	done    chan struct{} // closed when run has returned

	mu    sync.Mutex  // guards the rest; never held during I/O
	moved *sync.Cond  // of mu: the tail became shorter, or ended is set
	tail  []*raft.Log // successive
	bytes int
	ended bool // nobody writes any more
}

func newTailLog(under raft.LogStore, halt func(error) error) *tailLog {
	t := &tailLog{LogStore: under, halt: halt, work: make(chan struct{}, 1), done: make(chan struct{})}
	t.moved = sync.NewCond(&t.mu)
	return t
}

var errTail = errors.New("entries that were sent to others could not be written here")

// run writes the tail until stop is closed, and then what is left of it: by
// then nobody may add to it. A failure of the log ends it.
func (t *tailLog) run(stop <-chan struct{}) {
	defer close(t.done)
	defer t.end()
	for open := true; open; {
		select {
		case <-t.work:
		case <-stop:
			open = false
		}
		for group := t.group(); len(group) > 0; group = t.group() {
			if err := t.LogStore.StoreLogs(group); err != nil {
				_ = t.halt(err) // does not return in a store that runs
				return
			}
			t.written(group)
			if t.foresee != nil {
				t.foresee(group[len(group)-1])
			}
		}
	}
}

func (t *tailLog) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.moved.Broadcast()
}

// group is what is written next.
func (t *tailLog) group() []*raft.Log {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clip(t.tail)
}

func (t *tailLog) written(group []*raft.Log) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range group {
		t.bytes -= len(l.Data)
	}
	if t.tail = t.tail[len(group):]; len(t.tail) == 0 {
		t.tail = nil
	}
	t.moved.Broadcast()
}

// settled waits until no entry up to index is in the tail. It is false where
// one will stay there.
func (t *tailLog) settled(index uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.tail) > 0 && t.tail[0].Index <= index {
		if t.ended {
			return false
		}
		t.moved.Wait()
	}
	return true
}

// settle waits until there is no tail. Where there will be one for ever it ends
// the goroutine, as the failure of any write of the log does.
func (t *tailLog) settle() error {
	if !t.settled(math.MaxUint64) {
		return t.halt(errTail)
	}
	return nil
}

// before is index, or where it is in the tail, the last one before the tail.
func (t *tailLog) before(index uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.tail) > 0 {
		return min(index, t.tail[0].Index-1)
	}
	return index
}

// mayFollow reports whether logs may be in the tail for a while.
func (t *tailLog) mayFollow(logs []*raft.Log) bool {
	leads := t.leads.Load()
	return leads != nil && (*leads)() &&
		!slices.ContainsFunc(logs, func(l *raft.Log) bool { return l.Type != raft.LogCommand })
}

// StoreLog implements raft.LogStore.
func (t *tailLog) StoreLog(l *raft.Log) error { return t.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Raft's main loop alone calls it.
func (t *tailLog) StoreLogs(logs []*raft.Log) error {
	if !t.mayFollow(logs) {
		if err := t.settle(); err != nil {
			return err
		}
		return t.LogStore.StoreLogs(logs)
	}
	if !t.add(logs) {
		return t.halt(errTail)
	}
	select {
	case t.work <- struct{}{}:
	default:
	}
	return nil
}

// add waits for room.
func (t *tailLog) add(logs []*raft.Log) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.bytes > maxTailBytes && !t.ended {
		t.moved.Wait()
	}
	if t.ended {
		return false
	}
	for _, l := range logs {
		t.bytes += len(l.Data)
	}
	t.tail = append(t.tail, logs...)
	return true
}

// GetLog implements raft.LogStore.
func (t *tailLog) GetLog(index uint64, out *raft.Log) error {
	t.mu.Lock()
	if n := len(t.tail); n > 0 && index >= t.tail[0].Index && index-t.tail[0].Index < uint64(n) {
		*out = *t.tail[index-t.tail[0].Index]
		t.mu.Unlock()
		return nil
	}
	t.mu.Unlock()
	return t.LogStore.GetLog(index, out)
}

// LastIndex implements raft.LogStore.
func (t *tailLog) LastIndex() (uint64, error) {
	t.mu.Lock()
	n := len(t.tail)
	if n > 0 {
		defer t.mu.Unlock()
		return t.tail[n-1].Index, nil
	}
	t.mu.Unlock()
	return t.LogStore.LastIndex()
}

// DeleteRange implements raft.LogStore.
func (t *tailLog) DeleteRange(lo, hi uint64) error {
	if !t.settled(hi) {
		return t.halt(errTail)
	}
	return t.LogStore.DeleteRange(lo, hi)
}

// IsMonotonic implements raft.MonotonicLogStore.
func (t *tailLog) IsMonotonic() bool {
	m, ok := t.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// tailStable writes term and vote when there is no tail.
type tailStable struct {
	*markedStable
	tail *tailLog
}

// Set implements raft.StableStore.
func (s *tailStable) Set(key, val []byte) error {
	if err := s.tail.settle(); err != nil {
		return err
	}
	return s.markedStable.Set(key, val)
}

// SetUint64 implements raft.StableStore.
func (s *tailStable) SetUint64(key []byte, val uint64) error {
	if err := s.tail.settle(); err != nil {
		return err
	}
	return s.markedStable.SetUint64(key, val)
}
