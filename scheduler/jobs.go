package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// waiting is that a job which is due has to wait for a run that goes on, and until when
// it may: nothing else can come of asking before, as long as that is what there is.
type waiting struct {
	version uint64
	going   int
	until   time.Time
}

// dueAt takes note of when a job is due.
func (l *loop) dueAt(in orchestrator.Input, now time.Time) {
	w, waits := l.waiting[in.ServiceID]
	delete(l.waiting, in.ServiceID)
	is := waiting{version: in.Service.GetMeta().GetVersion(), going: going(in.Runs)}
	switch at := time.Unix(0, in.Service.GetDue()); {
	case in.Service.GetDue() == 0:
	case now.Before(at):
		l.againAt(in.ServiceID, at)
	case waits && w.version == is.version && w.going == is.going && now.Before(w.until):
		l.waiting[in.ServiceID] = w
		l.againAt(in.ServiceID, w.until)
	default:
		l.due[in.ServiceID] = is
	}
}

// going is how many runs go on. Without a change of its service a job gets no new one.
func going(runs []*schedulerpb.ServiceRun) (n int) {
	for _, run := range runs {
		if run.GetState() == store.RunGoing {
			n++
		}
	}
	return n
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
	for id, w := range l.due {
		again, err := store.BeginDue(ctx, l.cfg.Store, id)
		switch {
		case errors.Is(err, raftstore.ErrConflict):
			l.service(id)
		case store.IsRefusal(err):
			l.cfg.Logger.Error("a job cannot be begun", "service", id, "err", err)
		case err != nil:
			return err
		case !again.IsZero():
			w.until = again
			l.waiting[id] = w
			l.againAt(id, again)
		}
		delete(l.due, id)
	}
	return nil
}
