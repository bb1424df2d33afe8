package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/internal/lp"
)

// A server whose disk was replaced by an older copy of itself has forgotten
// votes it gave and entries it acknowledged, and nothing on that disk says so.
// The others can: whatever a server tells them of its term, or acknowledges, it
// has on disk by then. So each server keeps of every other the highest it knows,
// and one that starts asks the others before it votes. What they keep is on
// their disks, too, with a little delay, so that it outlives a power cut.

// Reach is how far a server's disk goes at least.
type Reach struct {
	// Term is a term that it has stored.
	Term uint64
	// Index is of the last entry that it holds, itself or in a snapshot, and that
	// is committed: what is not may be taken back.
	Index uint64
}

// Beyond reports whether r goes further than o in either.
func (r Reach) Beyond(o Reach) bool { return r.Term > o.Term || r.Index > o.Index }

func (r Reach) with(o Reach) Reach { return Reach{max(r.Term, o.Term), max(r.Index, o.Index)} }

// witness is what this server knows of the others.
type witness struct {
	commit atomic.Pointer[func() uint64] // of this server; nil until raft runs

	mu    sync.Mutex // guards the rest
	known map[string]Reach
	saved map[string]Reach
	kick  chan struct{} // capacity 1: there is much to save
}

func newWitness() *witness {
	return &witness{known: map[string]Reach{}, kick: make(chan struct{}, 1)}
}

func (w *witness) note(id string, r Reach) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(id, r)
}

func (w *witness) noteLocked(id string, r Reach) {
	had, known := w.known[id]
	if id == "" || !r.Beyond(had) || !known && len(w.known) >= maxWitnessed {
		return
	}
	now := had.with(r)
	w.known[id] = now
	if s := w.saved[id]; now.Term > s.Term || now.Index >= s.Index+witnessEntries {
		select {
		case w.kick <- struct{}{}:
		default:
		}
	}
}

// heard notes what a message of peer says of it. A candidate has stored the term
// it stands in, and a leader the entries it calls committed.
func (w *witness) heard(peer string, cmd any) {
	switch cmd := cmd.(type) {
	case *raft.AppendEntriesRequest:
		w.note(peer, Reach{cmd.Term, cmd.LeaderCommitIndex})
	case *raft.RequestVoteRequest:
		w.note(peer, Reach{Term: cmd.Term})
	case *raft.InstallSnapshotRequest:
		w.note(peer, Reach{cmd.Term, cmd.LastLogIndex})
	}
}

// confirmed notes an answer to this server, which leads: of the entries up to
// index, those that are committed will never be taken back.
func (w *witness) confirmed(id raft.ServerID, term, index uint64) {
	var committed uint64
	if commit := w.commit.Load(); commit != nil {
		committed = (*commit)()
	}
	w.note(string(id), Reach{term, min(index, committed)})
}

func (w *witness) all() map[string]Reach {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.known)
}

// unsaved returns what is to be saved, or nil where nothing changed.
func (w *witness) unsaved() map[string]Reach {
	w.mu.Lock()
	defer w.mu.Unlock()
	if maps.Equal(w.known, w.saved) {
		return nil
	}
	return maps.Clone(w.known)
}

// witnessKey is the stable value in which a server keeps it.
const witnessKey = "Witness"

func encodeWitness(known map[string]Reach) (out []byte) {
	for _, id := range slices.Sorted(maps.Keys(known)) {
		out = lp.Append(out, []byte(id))
		out = binary.BigEndian.AppendUint64(out, known[id].Term)
		out = binary.BigEndian.AppendUint64(out, known[id].Index)
	}
	return out
}

// decodeWitness takes what encodeWitness makes and nothing else.
func decodeWitness(b []byte) (map[string]Reach, error) {
	out, last := map[string]Reach{}, ""
	for len(b) > 0 {
		id, rest, err := takeLP(b)
		if err != nil {
			return nil, err
		}
		if len(rest) < 16 || string(id) <= last || len(id) > MaxIDBytes || len(out) == maxWitnessed {
			return nil, errMalformed
		}
		last = string(id)
		out[last] = Reach{binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:])}
		b = rest[16:]
	}
	return out, nil
}

// loadWitness reads what was saved, before raft starts.
func (s *Store) loadWitness(stable *sealedStable) error {
	raw, err := stable.read([]byte(witnessKey))
	if errors.Is(err, errStableNotFound) {
		return nil
	}
	if err == nil {
		s.witness.known, err = decodeWitness(raw)
	}
	if err != nil {
		return fmt.Errorf("what is known of the other servers does not open: it was damaged, exchanged or sealed under another key: %w", err)
	}
	s.witness.saved = maps.Clone(s.witness.known)
	return nil
}

// saveWitness writes what changed. A failure costs nobody anything but a
// little detection: where the disk is at fault, the log will say so.
func (s *Store) saveWitness() {
	known := s.witness.unsaved()
	if known == nil {
		return
	}
	err := guarded(func() error {
		stable := &sealedStable{inner: s.files.Stable, bind: s.bind, gate: &s.gate}
		return stable.write([]byte(witnessKey), encodeWitness(known))
	})
	if err != nil {
		s.cfg.Logger.Warn("what is known of the other servers was not saved", "err", err)
		return
	}
	s.witness.mu.Lock()
	defer s.witness.mu.Unlock()
	s.witness.saved = known
}

// keepWitness saves from time to time.
func (s *Store) keepWitness() {
	tick := time.NewTicker(witnessInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.witness.kick:
		case <-s.stopping:
			return
		}
		s.saveWitness()
	}
}

// Witnessed returns how far the others' disks go at least, as far as this server
// knows.
func (s *Store) Witnessed() map[string]Reach { return s.witness.all() }

// Testify adds what another server knows of the others, of whom this one is
// none. Who tells it must be believed: it is kept.
func (s *Store) Testify(told map[string]Reach) {
	s.witness.mu.Lock()
	defer s.witness.mu.Unlock()
	for id, r := range told {
		if id != s.cfg.NodeID {
			s.witness.noteLocked(id, r)
		}
	}
}

// Opened is how far this server's own disk went when the store was opened.
func (s *Store) Opened() Reach { return s.opened }

// reachOf looks how far a disk goes, before raft starts.
func reachOf(logs raft.LogStore, stable *sealedStable, kept []*raft.SnapshotMeta) (Reach, error) {
	term, _, _, err := stable.votes()
	if err != nil {
		return Reach{}, err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return Reach{}, err
	}
	for _, m := range kept {
		last = max(last, m.Index)
	}
	return Reach{term, last}, nil
}
