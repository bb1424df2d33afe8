package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// supervise shuts raft down when the store is to stop, for whatever reason.
func (s *Store) supervise() {
	select {
	case <-s.stopping:
	case <-s.halt.done:
	}
	s.stopWork()
	down := s.raft.Shutdown()
	err := s.trans.Close() // now, so that nothing waits for a peer that is silent
	err = errors.Join(err, down.Error())
	close(s.raftDown)
	if err != nil {
		s.cfg.Logger.Warn("raft did not shut down cleanly", "err", err)
	}
	why := s.halt.reason()
	if why == nil {
		why = ErrClosed
	}
	s.fsm.refuse(why)
}

func (s *Store) stopWork() { s.stopOnce.Do(func() { close(s.stopping) }) }

// Close hands leadership to another manager where it can, stops everything and
// releases the files. The store cannot be used afterwards. Where something does
// not stop within closeTimeout, which only a disk that hangs should bring about,
// the error says so and the files stay open: end the process.
func (s *Store) Close(ctx context.Context) error {
	if !s.closing.CompareAndSwap(false, true) {
		<-s.closed
		return s.closeErr
	}
	defer close(s.closed)
	s.closeErr = s.shut(ctx)
	return s.closeErr
}

func (s *Store) shut(ctx context.Context) error {
	if s.halt.reason() == nil && s.raft.State() == raft.Leader && s.voters() > 1 {
		hctx, cancel := context.WithTimeout(ctx, handoverTimeout)
		if err := s.TransferLeadership(hctx); err != nil {
			s.cfg.Logger.Info("leadership was not handed over before closing", "err", err)
		}
		cancel()
	}
	s.stopWork()
	if err := s.ended(); err != nil {
		s.halt.stop(nil)
		return err
	}
	if s.halt.reason() == nil {
		s.saveWitness()
	}
	s.halt.stop(nil)
	s.rekeying <- struct{}{} // nobody is at the files, or will be
	return s.files.Close()
}

// ended waits for every goroutine of the store and of raft.
func (s *Store) ended() error {
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }() // ends with them, or with the process
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	what := "the store's own work"
	select {
	case <-s.raftDown:
	default:
		what = "raft"
	}
	return fmt.Errorf("raftstore: %s did not stop within %v: a disk that hangs holds it, most likely: its files stay open until the process ends",
		what, closeTimeout)
}

// Done is closed when the store has stopped: after Close, or on a failure that
// it cannot go on from. Err tells which.
func (s *Store) Done() <-chan struct{} { return s.halt.done }

// Err is why the store stopped by itself: a failing disk, a record that does
// not open, or a command it does not understand. It is nil otherwise.
func (s *Store) Err() error { return s.halt.reason() }
