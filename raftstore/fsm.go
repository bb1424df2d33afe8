package raftstore

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// fsm is the replicated state machine. Every manager applies the same entries
// in the same order and must reach the same state, so nothing in here depends
// on the machine, on time or on chance. What it does not understand halts it:
// the state stays as it was before that entry and nothing is applied any more.
type fsm struct {
	tables map[string]Registered
	order  []Registered // by name
	hub    *hub
	halt   func(error) // told once, when the state machine stops
	// settled waits until an entry is on the local disk, and says why where it
	// never will be; see tail.go. Nil in tests of the state machine alone.
	settled func(index uint64) error
	// onConfiguration is told that a configuration was committed.
	onConfiguration func()
	reached         func(*ReadTx) // see Config; nil for none

	understood uint32 // the store level of this version: see level.go
	// archive takes over what leaves the state of the audit log. Nil: nothing does.
	archive *archive
	ahead   ahead

	// mu orders commits against snapshots: whoever holds it sees state and
	// watches that belong together. Held for as long as a commit takes, never
	// while a caller's function runs.
	mu     sync.RWMutex
	state  *state
	index  uint64
	clock  int64
	level  uint32
	halted error
	// grew is closed when the audit log has more, or this one is to be asked again.
	// Nil: nobody waits.
	grew chan struct{}
}

func newFSM(tables []Registered, halt func(error)) (*fsm, error) {
	byName, err := tablesByName(tables)
	if err != nil {
		return nil, err
	}
	return &fsm{tables: byName, order: sortedTables(tables), hub: newHub(), halt: halt, state: newState(byName),
		understood: Understood(tables), level: firstLevel}, nil
}

// read returns the current state.
func (f *fsm) read() (*ReadTx, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.readLocked()
}

func (f *fsm) readLocked() (*ReadTx, error) {
	if f.halted != nil {
		return nil, f.halted
	}
	return &ReadTx{reader{view: f.state, index: f.index, clock: f.clock, level: f.level}}, nil
}

// watch registers a watch and returns the state right before its first event.
func (f *fsm) watch(tables []Registered) (*ReadTx, *Watch, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	r, err := f.readLocked()
	if err != nil {
		return nil, nil, err
	}
	w, err := f.hub.add(tables)
	return r, w, err
}

// Apply implements raft.FSM. The response is a []error, one per transaction,
// or an error where the state machine has halted.
func (f *fsm) Apply(entry *raft.Log) any {
	f.mu.RLock()
	halted := f.halted
	f.mu.RUnlock()
	if halted != nil {
		return halted
	}
	if f.settled != nil {
		if why := f.settled(entry.Index); why != nil {
			f.refuse(why) // what comes after it must not be applied either
			return fmt.Errorf("%w: %w", ErrUncertain, why)
		}
	}
	results, err := f.apply(entry)
	if errors.Is(err, errNewer) || errors.Is(err, errArchive) {
		return f.stop(err)
	}
	if err != nil {
		return f.stop(fmt.Errorf("log entry %d cannot be applied: %w: "+
			"this manager has stopped so as not to diverge; is its version older than its neighbours'?", entry.Index, err))
	}
	f.tell()
	return results
}

// tell tells a test of the state.
func (f *fsm) tell() {
	if f.reached == nil {
		return
	}
	if r, err := f.read(); err == nil {
		f.reached(r)
	}
}

// stop halts the state machine at its present state and tells the store.
func (f *fsm) stop(err error) error {
	f.refuse(err)
	f.halt(err)
	return err
}

// refuse ends reads and watches: the first reason given stays.
func (f *fsm) refuse(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.halted == nil {
		f.halted = why
	}
	f.wakeLocked()
	f.hub.end(f.halted, true)
}

func decodeCommand(data []byte) (*raftstorepb.Command, error) {
	if len(data) > maxCommandBytes {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(data), maxCommandBytes)
	}
	cmd := &raftstorepb.Command{}
	return cmd, unmarshalStrict(data, cmd)
}

func (f *fsm) apply(log *raft.Log) ([]error, error) {
	d, err := f.take(log)
	if err != nil {
		return nil, err
	}
	index, cmd := log.Index, d.cmd
	if err := newer(cmd.Level, f.understood); err != nil {
		return nil, err
	}
	e := &entry{
		tables: f.tables, index: index, clock: max(f.clock, cmd.Now), base: f.state, objects: d.objects, audit: f.state.audit, recorded: f.level >= recordSince,
		now: make(map[objectKey]*changed, len(cmd.Transactions)), holders: map[heldKey]string{}, sums: tally{},
	}
	results, err := e.judge(cmd.Transactions)
	if err != nil {
		return nil, err
	}
	draft := f.state.draft()
	if err := e.write(draft); err != nil {
		return nil, err
	}
	if draft.audit, err = f.archived(e.audit); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.audit.Size() > f.state.audit.Size() {
		f.wakeLocked()
	}
	f.state, f.index, f.clock, f.level = draft.commit(), index, e.clock, max(f.level, cmd.Level)
	if len(e.events) > 0 {
		f.hub.publish(e.events)
	}
	return results, nil
}

// StoreConfiguration implements raft.ConfigurationStore.
func (f *fsm) StoreConfiguration(uint64, raft.Configuration) {
	if f.onConfiguration != nil { // nil in tests of the state machine alone
		f.onConfiguration()
	}
}

// Snapshot implements raft.FSM.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	r, err := f.read()
	if err != nil {
		return nil, err
	}
	return &fsmSnapshot{tables: f.order, r: &r.r}, nil
}

// Restore implements raft.FSM: it builds the new state beside the old one and
// then puts it in place. A snapshot that cannot be read halts the manager; an
// older one with a hole behind it must not be tried instead.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	if _, err := f.read(); err != nil {
		return err // raft offers an older one when the newest was refused
	}
	s, head, err := readSnapshot(rc, f.tables, f.understood)
	if errors.Is(err, errNewer) {
		return f.stop(err)
	}
	if err != nil {
		return f.stop(fmt.Errorf("the snapshot cannot be restored: %w", err))
	}
	f.mu.Lock()
	f.state, f.index, f.clock, f.level = s, head.Index, head.Clock, max(head.Level, firstLevel)
	f.hub.reset()
	f.wakeLocked()
	f.mu.Unlock()
	f.tell()
	return nil
}

// begin starts a transaction on the current state.
func (f *fsm) begin(now time.Time) (*Tx, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.halted != nil {
		return nil, f.halted
	}
	if clock := time.Unix(0, f.clock); now.Before(clock) {
		now = clock
	}
	return newTx(f.state, f.index, f.clock, f.level, now), nil
}
