package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// dueAt takes note of when a job is due.
func (l *loop) dueAt(s *schedulerpb.Service, now time.Time) {
	if s.GetDue() == 0 {
		return
	}
	if at := time.Unix(0, s.GetDue()); now.Before(at) {
		l.againAt(s.GetId(), at)
	} else {
		l.due[s.GetId()] = true
	}
}

// jobs records which runs have ended, and begins those that are due.
func (l *loop) jobs(ctx context.Context) error {
	for len(l.ends) > 0 {
		chunk := l.ends[:min(len(l.ends), maxEnds)]
		stale, err := store.EndRuns(ctx, l.cfg.Store, chunk)
		if errors.Is(err, raftstore.ErrConflict) {
			for _, e := range chunk {
				stale = append(stale, e.Run.GetServiceId())
			}
			err = nil
		}
		if err != nil {
			return err
		}
		for _, id := range stale {
			l.service(id)
		}
		l.ends = l.ends[len(chunk):]
	}
	l.ends = nil
	for id := range l.due {
		again, err := store.BeginDue(ctx, l.cfg.Store, id)
		switch {
		case errors.Is(err, raftstore.ErrConflict):
			l.service(id)
		case store.IsRefusal(err):
			l.cfg.Logger.Error("a job cannot be begun", "service", id, "err", err)
		case err != nil:
			return err
		case !again.IsZero():
			l.againAt(id, again)
		}
		delete(l.due, id)
	}
	return nil
}
