package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// A leader's heartbeats do not wait for its disk. One whose disk hangs would
// lead on for as long as it hangs, and no write be acknowledged meanwhile. So a
// leader whose log does not end an append within appendTimeout hands over, and
// stays: the disk may come back, and a follower that hangs is in nobody's way.
// Only where it cannot hand over, because raft itself waits for that disk, does
// the store stop, and by that fall silent. A lone manager has nobody to hand over
// to, and waits.

// errStalled is why a leader gives up.
var errStalled = errors.New("the disk does not end a write to the log")

// stallWatch knows of the append that is under way.
type stallWatch struct {
	since atomic.Int64  // when it began, in Unix nanoseconds; 0 for none
	late  chan struct{} // capacity 1: one takes longer than appendTimeout
}

func newStallWatch() *stallWatch { return &stallWatch{late: make(chan struct{}, 1)} }

// watch runs one append. A log has one at a time.
func (w *stallWatch) watch(write func() error) error {
	if w == nil {
		return write()
	}
	w.since.Store(time.Now().UnixNano())
	defer w.since.Store(0)
	timer := time.AfterFunc(appendTimeout, func() {
		select {
		case w.late <- struct{}{}:
		default:
		}
	})
	defer timer.Stop()
	return write()
}

// stalled is for how long the append under way has lasted, or 0.
func (w *stallWatch) stalled() time.Duration {
	since := w.since.Load()
	if since == 0 {
		return 0
	}
	if d := time.Since(time.Unix(0, since)); d >= appendTimeout {
		return d
	}
	return 0
}

// Stalled is for how long this server's disk has not ended a write to the log;
// 0 where that is within what a disk may take.
func (s *Store) Stalled() time.Duration { return s.stall.stalled() }

// watchDisk gives leadership up when the disk hangs.
func (s *Store) watchDisk() {
	for {
		select {
		case <-s.stall.late:
		case <-s.stopping:
			return
		}
		if d := s.stall.stalled(); d > 0 {
			s.cfg.Logger.Error("the disk does not end a write to the log", "for", d.Round(time.Second), "leads", s.raft.State() == raft.Leader)
			s.giveUpLeading()
		}
	}
}

// giveUpLeading tries until another leads or the disk is back. Raft's refusal, as
// that nobody took over in time, is no reason to stop: where all disks hang, as
// those of one storage, managers that stop would only have to be started again.
func (s *Store) giveUpLeading() {
	answered := time.Now() // when raft last gave any answer
	for s.raft.State() == raft.Leader && s.voters() > 1 && s.stall.stalled() > 0 {
		ctx, cancel := context.WithTimeout(s.layer.ctx, handoverTimeout)
		err := s.TransferLeadership(ctx)
		cancel()
		switch {
		case s.layer.ctx.Err() != nil: // the store stops
			return
		case err == nil || s.raft.State() != raft.Leader:
			s.cfg.Logger.Warn("leadership was handed over: the disk of this manager hangs")
			return
		case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, raft.ErrEnqueueTimeout):
			answered = time.Now()
		case time.Since(answered) >= handoverTimeout:
			if d := s.stall.stalled(); d > 0 {
				s.halt.stop(fmt.Errorf("%w for %v, and leadership cannot be handed over (%w): the others go on without this manager: see to its disk",
					errStalled, d.Round(time.Second), err))
				return
			}
		}
		if !pause(s.layer.ctx, handoverRetry) {
			return
		}
	}
}
