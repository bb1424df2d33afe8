package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// errDormant answers raft's messages while the store is dormant.
var errDormant = errors.New("this server does not take part yet: it is asking the others whether its disk is up to date")

// dormancy keeps a server from taking part: what others send it is refused,
// and it asks for no vote. So it neither votes, nor leads, nor acknowledges
// anything; it grows no older either, as a candidate that nobody answers stays
// in its term.
type dormancy struct {
	mu     sync.Mutex // guards the rest
	asleep bool
	sought map[string]time.Time // since when a leader has sent entries in vain
}

func newDormancy(asleep bool) *dormancy {
	return &dormancy{asleep: asleep, sought: map[string]time.Time{}}
}

func (d *dormancy) dormant() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asleep
}

// refuse returns errDormant while the server is dormant, and notes who led.
func (d *dormancy) refuse(peer string, cmd any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.asleep {
		return nil
	}
	if _, leads := cmd.(*raft.AppendEntriesRequest); leads && d.sought[peer].IsZero() {
		d.sought[peer] = time.Now()
	}
	return errDormant
}

// Dormant reports whether the store was opened dormant and not woken yet.
func (s *Store) Dormant() bool { return s.dormancy.dormant() }

// Wake lets a dormant store take part.
func (s *Store) Wake() {
	s.dormancy.mu.Lock()
	defer s.dormancy.mu.Unlock()
	s.dormancy.asleep = false
}

// SoughtBy returns the servers that have spoken to this dormant one as its
// leader, and for how long they have.
func (s *Store) SoughtBy() map[string]time.Duration {
	s.dormancy.mu.Lock()
	defer s.dormancy.mu.Unlock()
	out := map[string]time.Duration{}
	for id, since := range s.dormancy.sought {
		out[id] = time.Since(since)
	}
	return out
}

// Forget drops what this server, leading, believes to be the state of a peer
// that said it lost it.
func (s *Store) Forget(id string) {
	s.progress.mu.Lock()
	defer s.progress.mu.Unlock()
	delete(s.progress.peers, raft.ServerID(id))
}

// RequestVote implements raft.Transport.
func (t *watchedTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.dormancy.dormant() {
		return fmt.Errorf("no vote is asked for: %w", errDormant)
	}
	err := t.NetworkTransport.RequestVote(id, target, args, resp)
	if err == nil {
		t.progress.witness.note(string(id), Reach{Term: resp.Term})
	}
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (t *watchedTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.dormancy.dormant() {
		return fmt.Errorf("no vote is asked for: %w", errDormant)
	}
	return t.NetworkTransport.RequestPreVote(id, target, args, resp)
}
