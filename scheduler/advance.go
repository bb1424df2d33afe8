package scheduler

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// statusChange is one that a plan asks for; bytes is about what the service has.
type statusChange struct {
	store.StatusChange
	rollBack string
	bytes    int
}

// advance records how far updates are, as the plans say, after what they were planned
// with was written. What no longer holds is planned again.
func (l *loop) advance(ctx context.Context) error {
	var all []statusChange
	for _, c := range l.statuses {
		if c.rollBack != "" {
			back, err := l.rollBack(ctx, &c)
			if err != nil {
				return err
			}
			if back {
				continue
			}
		}
		all = append(all, c)
	}
	for len(all) > 0 {
		var chunk []store.StatusChange
		for bytes := 0; len(chunk) < len(all); {
			c := all[len(chunk)]
			if bytes += taskOverhead + c.bytes; bytes > maxTransactionBytes && len(chunk) > 0 {
				break
			}
			chunk = append(chunk, c.StatusChange)
		}
		stale, err := store.SetUpdateStatus(ctx, l.cfg.Store, chunk)
		if errors.Is(err, raftstore.ErrConflict) {
			for _, c := range chunk {
				stale = append(stale, c.ServiceID)
			}
			err = nil
		}
		if err != nil {
			return err
		}
		for _, id := range stale {
			l.service(id)
		}
		all = all[len(chunk):]
	}
	l.statuses = nil
	return nil
}

// rollBack has a service go back, or puts into c why it is paused instead. It reports
// whether nothing else is to be done.
func (l *loop) rollBack(ctx context.Context, c *statusChange) (done bool, err error) {
	err = store.RollBackFailed(ctx, l.cfg.Store, c.ServiceID, c.Version, c.rollBack)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, store.ErrChanged) || errors.Is(err, raftstore.ErrConflict):
		l.service(c.ServiceID)
		return true, nil
	case store.IsRefusal(err):
		l.cfg.Logger.Warn("a service whose update failed cannot go back", "service", c.ServiceID, "err", err)
		c.Status.Message += " (it cannot be rolled back: " + err.Error() + ")"
		return false, nil
	}
	return false, err
}

// note keeps what a plan says of its service's update.
func (l *loop) note(s *schedulerpb.Service, p orchestrator.Plan) {
	if p.Status == nil && p.Rebalance == nil {
		return
	}
	l.statuses = append(l.statuses, statusChange{
		StatusChange: store.StatusChange{ServiceID: p.ServiceID, Version: p.ServiceVersion, Status: p.Status, Rebalance: p.Rebalance},
		rollBack:     p.RollBack, bytes: proto.Size(s),
	})
}
