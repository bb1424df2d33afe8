package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Barrier is a linearizable read point: a View that begins after it has
// returned sees every write that was acknowledged before it was called. Leader
// only. Acknowledged writes are applied here before they are acknowledged, and
// those of former leaders before this one began to lead, so it is enough to ask
// a majority whether this server still leads. One round serves all who wait.
func (s *Store) Barrier(ctx context.Context) error {
	if err := s.lead.ready(ctx, s); err != nil {
		return err
	}
	lead, _ := s.lead.current()
	if lead == nil {
		return ErrNotLeader
	}
	if err := s.reads.wait(ctx); err != nil {
		return s.explain(err)
	}
	if lead.Err() != nil {
		return ErrNotLeader
	}
	return nil
}

// verifyLeader asks a majority whether this server leads. Raft counts any answer
// that comes in after the question was put, also one to a message sent before
// it. Such an answer may have been under way while another leader was elected,
// so the answers are counted here by when their question was sent, and raft is
// made to ask again until there are enough. Raft also counts answers of servers
// without a vote; where these alone are to be heard, asking goes on, at ease,
// until a voter answers or raft gives up leading.
func (s *Store) verifyLeader() error {
	since := time.Now()
	for try := 0; ; try++ {
		if wait := verifyPause(try); wait > 0 {
			select {
			case <-time.After(wait):
			case <-s.stopping:
				return ErrClosed
			}
		}
		err := s.askWhoLeads()
		switch {
		case errors.Is(err, raft.ErrRaftShutdown):
			return ErrClosed
		case errors.Is(err, errNoAnswer):
			continue
		case err != nil:
			return ErrNotLeader
		}
		if s.progress.followedSince(since, s.cfg.NodeID, s.configuration()) {
			return nil
		}
	}
}

// errNoAnswer is what came of a question that raft lost.
var errNoAnswer = errors.New("raft did not answer")

// askWhoLeads puts the question to raft once. Within an election timeout raft has the
// answers of a majority or gives up leading, and says either. But where the server
// whose answer it waits for is taken out of the configuration, it forgets that it was
// asked, for as long as it leads.
func (s *Store) askWhoLeads() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.cfg.ElectionTimeout)
	defer cancel()
	err := s.awaitContext(ctx, s.raft.VerifyLeader())
	if errors.Is(err, context.DeadlineExceeded) {
		return errNoAnswer
	}
	return err
}

// verifyPause is the wait before raft is asked once more. Mostly the second
// question is enough.
func verifyPause(try int) time.Duration {
	if try <= verifyAtOnce {
		return 0
	}
	return min(verifyMinPause<<min(try-verifyAtOnce-1, 10), verifyMaxPause)
}

// readGate lets many readers share one round of leadership verification. A
// reader is served only by a round that began after it asked: it waits for the
// next one, whatever is under way.
type readGate struct {
	verify func() error
	stop   <-chan struct{}
	ask    chan struct{} // capacity 1: somebody waits for next

	mu   sync.Mutex
	next *readRound // guarded by mu; not begun
}

// readRound is one round, for all who wait for it.
type readRound struct {
	wanted bool          // guarded by the gate's mu
	done   chan struct{} // closed when err is there
	err    error
}

func newReadRound() *readRound { return &readRound{done: make(chan struct{})} }

func newReadGate(stop <-chan struct{}, verify func() error) *readGate {
	return &readGate{verify: verify, stop: stop, ask: make(chan struct{}, 1), next: newReadRound()}
}

func (g *readGate) wait(ctx context.Context) error {
	g.mu.Lock()
	round := g.next
	round.wanted = true
	g.mu.Unlock()
	select {
	case g.ask <- struct{}{}:
	default: // it is known
	}
	select {
	case <-round.done:
		return round.err
	case <-g.stop:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *readGate) run() {
	for {
		select {
		case <-g.ask:
		case <-g.stop:
			return
		}
		g.mu.Lock()
		round := g.next
		if !round.wanted { // who asked was in time for the last one
			g.mu.Unlock()
			continue
		}
		g.next = newReadRound()
		g.mu.Unlock()
		round.err = g.verify()
		close(round.done)
	}
}
