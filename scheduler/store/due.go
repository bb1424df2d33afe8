package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/cron"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// BeginDue begins the run of a job that is due by the store's clock. That the next one
// is due later is one transaction with it, so whoever leads, and however often it is
// asked, a due time begins one run. Of several that have passed the last is begun, where
// it is not too late for it, and the others are missed. again is when it is to be asked
// anew though no run has ended; zero: when the service is due.
func BeginDue(ctx context.Context, s *raftstore.Store, id string) (again time.Time, err error) {
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		again = time.Time{}
		old, ok := Services.Get(tx, id)
		if !ok || old.GetDue() == 0 || tx.Now().UnixNano() < old.GetDue() {
			return nil
		}
		next := proto.CloneOf(old)
		if again, err = due(tx, next); err != nil || !again.IsZero() {
			return err
		}
		return Services.Put(tx, next)
	})
	return again, err
}

// due decides on what has been due since next.Due. It changes nothing where it says
// when to ask again.
func due(tx *raftstore.Tx, next *schedulerpb.Service) (again time.Time, err error) {
	sch, err := spec.ScheduleOf(next.GetSpec())
	if err != nil || sch == nil {
		return again, refuse("job %s has no schedule that can be used: %v", next.GetSpec().GetName(), err)
	}
	now, first := tx.Now(), time.Unix(0, next.GetDue()).UTC()
	last := sch.Last(now)
	if last.Before(first) {
		last = first // the data of its zone changed
	}
	goes, latest := going(tx, next.GetId()), last.Add(spec.StartWithin(next.GetSpec()))
	concurrency := next.GetSpec().GetSchedule().GetConcurrency()
	forbidden := len(goes) > 0 && concurrency == spec.Forbid
	switch {
	case forbidden && now.After(latest):
		err = miss(tx, next, sch, first, last, stillGoing(goes[0]))
	case now.After(latest):
		err = miss(tx, next, sch, first, last, "it could not be begun in time")
	case forbidden:
		return latest, nil
	case concurrency == spec.Allow && full(goes, next.GetSpec()) != "":
		err = miss(tx, next, sch, first, last, full(goes, next.GetSpec()))
	default:
		err = catchUp(tx, next, sch, first, last)
	}
	if err != nil {
		return again, err
	}
	return again, reschedule(tx, next)
}

// catchUp begins the run that was due last, and records what was missed before it.
func catchUp(tx *raftstore.Tx, next *schedulerpb.Service, sch *cron.Schedule, first, last time.Time) error {
	if last.After(first) {
		why := "a later one was begun"
		for _, run := range Runs(tx, next.GetId()) {
			if run.GetBeganAt() > 0 && run.GetEndedAt() > first.UnixNano() {
				why = stillGoing(run)
			}
		}
		if err := miss(tx, next, sch, first, sch.Last(last.Add(-time.Nanosecond)), why); err != nil {
			return err
		}
	}
	if next.GetSpec().GetSchedule().GetConcurrency() == spec.Replace {
		return replaceGoing(tx, next, last.UnixNano(), "")
	}
	return beginRun(tx, next, last.UnixNano(), "")
}

func stillGoing(run *schedulerpb.ServiceRun) string {
	return fmt.Sprintf("run %d was still going", run.GetNumber())
}

// Beginning is who has a run begin.
type Beginning struct {
	By string
	// Judged, if not nil, is the spec by which it was judged whether it may; another is
	// not begun.
	Judged *schedulerpb.ServiceSpec
}

// BeginRun begins a run of a job now and returns its number. Its schedule goes on as it
// is.
func BeginRun(ctx context.Context, s *raftstore.Store, id string, b Beginning) (number uint64, err error) {
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		old, err := job(tx, id)
		if err != nil {
			return err
		}
		if b.Judged != nil && !proto.Equal(b.Judged, old.GetSpec()) {
			return ErrChanged
		}
		next, name := proto.CloneOf(old), old.GetSpec().GetName()
		goes := going(tx, id)
		switch c := old.GetSpec().GetSchedule().GetConcurrency(); {
		case c == spec.Forbid && len(goes) > 0:
			return refuse("run %d of job %s is still going, and its concurrency is forbid: wait for it, or have it be replace or allow", goes[0].GetNumber(), name)
		case c == spec.Allow && full(goes, old.GetSpec()) != "":
			return refuse("no run of job %s can begin, as %s: wait for one to end", name, full(goes, old.GetSpec()))
		case c == spec.Allow || c == spec.Forbid:
			err = beginRun(tx, next, 0, b.By)
		default:
			err = replaceGoing(tx, next, 0, b.By)
		}
		if err != nil {
			return err
		}
		number = next.GetRun()
		return Services.Put(tx, next)
	})
	return number, err
}

// Suspend has the schedule of a job not count, or count again from now on; runs that go
// on are left alone. Due times between are missed, and so is one that waits. It does
// nothing where that is so.
func Suspend(ctx context.Context, s *raftstore.Store, id string, suspend bool) error {
	return s.Update(ctx, func(tx *raftstore.Tx) error {
		old, err := job(tx, id)
		switch {
		case err != nil:
			return err
		case old.GetSpec().GetSchedule() == nil && (suspend || old.GetSuspendedSince() == 0):
			return refuse("job %s has no schedule to suspend", old.GetSpec().GetName())
		case suspend == (old.GetSuspendedSince() != 0):
			return nil
		}
		next := proto.CloneOf(old)
		if err := missPassed(tx, old, next, suspendedWhy); err != nil {
			return err
		}
		if suspend {
			next.SuspendedSince, next.Due = tx.Now().UnixNano(), 0
			return Services.Put(tx, next)
		}
		next.SuspendedSince = 0
		if err := reschedule(tx, next); err != nil {
			return err
		}
		return Services.Put(tx, next)
	})
}

func job(tx *raftstore.Tx, id string) (*schedulerpb.Service, error) {
	s, ok := Services.Get(tx, id)
	if !ok {
		return nil, &resolve.Error{Kind: "service", Ref: id}
	}
	return s, CheckJob(s)
}

// CheckJob refuses what is no job.
func CheckJob(s *schedulerpb.Service) error {
	if !spec.IsJob(s.GetSpec()) {
		return refuse("service %s is no job: it goes on", s.GetSpec().GetName())
	}
	return nil
}

// RunEnd is how a run has ended, of which the record was at a version.
type RunEnd struct {
	Version uint64
	Run     *schedulerpb.ServiceRun
}

// EndRuns records how runs have ended. It returns the services of those whose records
// are at another version.
func EndRuns(ctx context.Context, s *raftstore.Store, all []RunEnd) (stale []string, err error) {
	err = s.Update(ctx, func(tx *raftstore.Tx) error {
		stale = nil
		for _, e := range all {
			old, ok := ServiceRuns.Get(tx, e.Run.GetId())
			if !ok || old.GetMeta().GetVersion() != e.Version {
				stale = append(stale, e.Run.GetServiceId())
				continue
			}
			next := proto.CloneOf(e.Run)
			if next.EndedAt == 0 {
				next.EndedAt = tx.Now().UnixNano()
			}
			if err := ServiceRuns.Put(tx, next); err != nil {
				return err
			}
		}
		return nil
	})
	return slices.Compact(stale), err
}
