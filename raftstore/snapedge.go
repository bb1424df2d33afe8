package raftstore

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// Where a snapshot of the leader meets the log, raft does less than it must
// (Ongaro and Ouster, figure 13). Told that the log may have no gap, it drops all
// of it, also what goes on behind the snapshot; it goes on by the end of the log
// that it remembers, with entries that are gone; it takes a snapshot that is
// older than its state; and it refuses entries that come after the snapshot's
// last, where they are sent once more, as it does not find that one. A leader
// whose answer was lost would send its snapshot again for ever, and a follower
// acknowledge entries that it lacks, and end by a panic. So:
//
//   - A snapshot with nothing new in it never comes to raft (receive).
//   - The entries behind a snapshot stay, where the log has the snapshot's last.
//   - Where they cannot stay, or one of them is a configuration, which raft would
//     not go by any more, the store stops: what raft remembers is wrong then, and
//     is right when it is opened.
//   - The snapshot's last entry is found, if the log begins behind it.
//   - Entries that a snapshot here has come to raft as nothing, after the
//     snapshot's last (beyond): the leader's own newest snapshot may be older, and
//     raft would refuse what it no longer finds in its log.
//
// edgeLog does the three in the midst. It knows by which term a snapshot ends.
type edgeLog struct {
	raft.LogStore
	halt func(error) error
	// applied is the last entry that was given to the state machine; nil before
	// raft runs.
	applied atomic.Pointer[func() uint64]

	mu     sync.Mutex // guards the rest; never held during I/O
	newest uint64
	terms  map[uint64]uint64 // of the last entries of snapshots, by index
}

func newEdgeLog(under raft.LogStore, halt func(error) error) *edgeLog {
	return &edgeLog{LogStore: under, halt: halt, terms: map[uint64]uint64{}}
}

// snapshotEdge is the type of the entry that stands for a snapshot's last: raft
// looks at its term, and whoever took it for an entry would stop.
const snapshotEdge = raft.LogType(255)

// note is told of a snapshot that there is.
func (e *edgeLog) note(index, term uint64) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.terms[index] = term
	e.newest = max(e.newest, index)
	for len(e.terms) > edgesKept {
		oldest := index
		for i := range e.terms {
			oldest = min(oldest, i)
		}
		delete(e.terms, oldest)
	}
}

func (e *edgeLog) term(index uint64) (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	term, ok := e.terms[index]
	return term, ok
}

// newestEdge is the last entry of the newest snapshot.
func (e *edgeLog) newestEdge() (index, term uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.newest, e.terms[e.newest]
}

func (e *edgeLog) last() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.newest
}

// IsMonotonic implements raft.MonotonicLogStore.
func (e *edgeLog) IsMonotonic() bool {
	m, ok := e.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// GetLog implements raft.LogStore. A leader never sends what stands for a
// snapshot's last entry: it looks for the one before first, and in vain.
func (e *edgeLog) GetLog(index uint64, out *raft.Log) error {
	err := e.LogStore.GetLog(index, out)
	if !errors.Is(err, raft.ErrLogNotFound) || index < 2 {
		return err
	}
	term, ok := e.term(index)
	if !ok {
		return err
	}
	first, ferr := e.FirstIndex()
	if ferr != nil {
		return ferr
	}
	if first != index+1 && (first > 0 || index != e.last()) {
		return err
	}
	*out = raft.Log{Index: index, Term: term, Type: snapshotEdge}
	return nil
}

// LastIndex implements raft.LogStore. A log that is empty behind a snapshot ends
// where that does: raft counts what a snapshot is due for from there, and with 0
// it would take one after the other of the same state.
func (e *edgeLog) LastIndex() (uint64, error) {
	last, err := e.LogStore.LastIndex()
	if err == nil && last == 0 {
		last = e.last()
	}
	return last, err
}

// errEdge is why a store stops that must be opened again.
var errEdge = errors.New("the leader's snapshot took the place of entries that raft goes on by: start this manager again, it then goes by the snapshot")

// DeleteRange implements raft.LogStore. All of the log is what raft drops when it
// has taken a snapshot of the leader, which is the newest then. (A log that is
// dropped for another one is so from an entry on that is not in any snapshot.)
func (e *edgeLog) DeleteRange(lo, hi uint64) error {
	last, err := e.LogStore.LastIndex()
	if err != nil || last == 0 { // what LastIndex says is no entry
		return err
	}
	at := e.last()
	first, err := e.FirstIndex()
	if err != nil {
		return err
	}
	if lo > min(first, at) { // not what a snapshot has: an end that the leader does not have
		if err := e.notApplied(lo); err != nil {
			return e.halt(err)
		}
	}
	if at < lo || at > hi {
		return e.LogStore.DeleteRange(lo, hi)
	}
	if lo != first || hi != last {
		return e.LogStore.DeleteRange(lo, hi)
	}
	same, err := continues(e.LogStore, at, e)
	if err != nil {
		return err
	}
	if !same {
		if err := e.LogStore.DeleteRange(lo, hi); err != nil {
			return err
		}
		return e.halt(errEdge)
	}
	if err := e.LogStore.DeleteRange(lo, at); err != nil {
		return err
	}
	var l raft.Log
	for i := at + 1; i <= hi; i++ {
		if err := e.LogStore.GetLog(i, &l); err != nil {
			return err
		}
		if l.Type == raft.LogConfiguration {
			return e.halt(fmt.Errorf("entry %d is a configuration: %w", i, errEdge))
		}
	}
	return nil
}

// continues reports whether the log has the last entry of the snapshot up to at.
func continues(log raft.LogStore, at uint64, e *edgeLog) (bool, error) {
	var l raft.Log
	if err := log.GetLog(at, &l); err != nil {
		return false, err
	}
	term, ok := e.term(at)
	return ok && l.Term == term, nil
}

// beyond is the request without the entries that a snapshot here ends with, or
// has before its end: index and term are of its last. They were committed, so a
// leader of this term has the same ones, and the request says what it said if it
// begins behind them.
func beyond(req *raft.AppendEntriesRequest, index, term uint64) *raft.AppendEntriesRequest {
	if req.PrevLogEntry >= index || req.PrevLogEntry == 0 && len(req.Entries) == 0 { // a heartbeat
		return req
	}
	out := *req
	out.PrevLogEntry, out.PrevLogTerm = index, term
	for len(out.Entries) > 0 && out.Entries[0].Index <= index {
		if l := out.Entries[0]; l.Index == index && l.Term != term {
			return req // raft refuses it
		}
		out.Entries = out.Entries[1:]
	}
	return &out
}

// receive takes one message of peer, after the one before was delivered.
func (t *transport) receive(peer string, rpc raft.RPC) {
	if !t.allowed(peer, rpc) {
		return
	}
	if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && t.rules.snapshot != nil {
		if index, term := t.rules.snapshot(); index > 0 {
			rpc.Command = beyond(req, index, term)
		}
	}
	req, ok := rpc.Command.(*raft.InstallSnapshotRequest)
	if !ok || !t.hasSnapshot(req) {
		t.deliver(rpc)
		return
	}
	t.wg.Go(func() {
		_, err := io.Copy(io.Discard, rpc.Reader) // Close ends the connection
		term, _ := t.rules.applied()
		if req.Term > term {
			err = errors.Join(err, errNewTerm)
		}
		rpc.Respond(&raft.InstallSnapshotResponse{Term: term, Success: true}, err)
	})
}

// errNewTerm is what a leader is told whose snapshot comes before all else that
// it sends.
var errNewTerm = errors.New("nothing in the snapshot is new, and nothing else was heard in its term: it must come again")

// hasSnapshot reports whether this server has applied all that a snapshot has,
// and its leader may be one. No other message of the leader is under way to raft
// meanwhile: raft is first made to answer one that says nothing, as it is of a
// term that is over.
func (t *transport) hasSnapshot(req *raft.InstallSnapshotRequest) bool {
	if t.rules.applied == nil {
		return false
	}
	if term, _ := t.rules.applied(); term == 0 {
		return false
	}
	answer := make(chan raft.RPCResponse, 1)
	t.deliver(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: req.RPCHeader}, RespChan: answer})
	select {
	case <-answer:
	case <-t.stop:
		return false
	}
	term, applied := t.rules.applied()
	return req.Term >= term && req.LastLogIndex <= applied
}
