package raftstore

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// Clock is what a server stamps its entries with while it leads. The state
// machine's clock is the highest stamp there was and never goes back, so one
// from the future would age every token and certificate for good: no entry of a
// new leader is stamped before its clock is confirmed.
type Clock interface {
	// Confirm returns nil when this server may lead by its clock. Otherwise it
	// says why not, and leadership is handed to successor, or where that is empty
	// to the most advanced voter. It is asked anew for each leadership, and again
	// where that could not be handed over.
	Confirm(ctx context.Context) (successor string, err error)
	// Now is the time to stamp with, of a clock that was confirmed.
	Now() time.Time
}

// machineClock is the machine's own, believed.
type machineClock struct{}

func (machineClock) Confirm(context.Context) (string, error) { return "", nil }
func (machineClock) Now() time.Time                          { return time.Now() }

// errClock marks a leadership that is given up for the clock's sake.
var errClock = errors.New("the clock is not confirmed")

// establish makes an elected server a leader: with everything applied that was
// committed before, and a clock that may stamp what follows.
func (s *Store) establish(ctx context.Context) error {
	if err := s.await(s.raft.Barrier(0)); err != nil {
		return err
	}
	successor, err := s.cfg.Clock.Confirm(ctx)
	if err == nil {
		return s.raiseAlone()
	}
	if ctx.Err() != nil {
		return err
	}
	s.cfg.Logger.Error("this manager was elected and hands over", "err", err)
	if terr := s.handTo(ctx, successor); terr != nil && ctx.Err() == nil {
		s.cfg.Logger.Error("leadership was not handed over", "err", terr)
	}
	return errClock
}

// handTo hands leadership to a voter, or to any.
func (s *Store) handTo(ctx context.Context, id string) error {
	for _, srv := range s.configuration() {
		if string(srv.ID) == id && srv.Suffrage == raft.Voter {
			return s.awaitContext(ctx, s.raft.LeadershipTransferToServer(srv.ID, srv.Address))
		}
	}
	return s.TransferLeadership(ctx)
}
