package store

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/cron"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// MaxGoing bounds the runs of one job that go on at a time.
const MaxGoing = 10

const suspendedWhy = "its schedule was suspended"

// Short names of how runs stand.
const (
	RunGoing     = schedulerpb.ServiceRun_STATE_RUNNING
	RunCompleted = schedulerpb.ServiceRun_STATE_COMPLETED
	RunFailed    = schedulerpb.ServiceRun_STATE_FAILED
	RunStopped   = schedulerpb.ServiceRun_STATE_STOPPED
	RunMissed    = schedulerpb.ServiceRun_STATE_MISSED
)

// RunID is the id of the record of a job's run.
func RunID(serviceID string, number uint64) string {
	return fmt.Sprintf("%s/%d", serviceID, number)
}

// Runs are the records of a job's runs, ascending by number.
func Runs(r raftstore.Reader, serviceID string) []*schedulerpb.ServiceRun {
	out := slices.Collect(ServiceRuns.By(r, "service", serviceID))
	slices.SortFunc(out, func(a, b *schedulerpb.ServiceRun) int {
		if a.GetNumber() < b.GetNumber() {
			return -1
		}
		return 1
	})
	return out
}

func going(r raftstore.Reader, serviceID string) []*schedulerpb.ServiceRun {
	return slices.DeleteFunc(Runs(r, serviceID), func(run *schedulerpb.ServiceRun) bool { return run.GetState() != RunGoing })
}

// full says why no run of a job can begin beside those that go on; empty: one can.
func full(goes []*schedulerpb.ServiceRun, sp *schedulerpb.ServiceSpec) string {
	completions := spec.Size(sp)
	for _, run := range goes {
		completions += run.GetWanted()
	}
	switch {
	case len(goes) >= MaxGoing:
		return fmt.Sprintf("%d runs were going already", len(goes))
	case len(goes) > 0 && completions > spec.MaxCompletions:
		return fmt.Sprintf("%d runs were going already, and with it they would have %d completions: at most %d may be", len(goes), completions, spec.MaxCompletions)
	}
	return ""
}

// beginRun begins a run of next, which the caller writes. due is when its schedule had
// it, 0 for one that by began.
func beginRun(tx *raftstore.Tx, next *schedulerpb.Service, due int64, by string) error {
	next.Run++
	return putRun(tx, next, &schedulerpb.ServiceRun{
		State: RunGoing, DueAt: due, BeganAt: tx.Now().UnixNano(),
		Revision: next.GetRevision(), Wanted: spec.Size(next.GetSpec()), By: by,
	})
}

// putRun writes the record of run number next.Run, and forgets the oldest of those that
// have ended.
func putRun(tx *raftstore.Tx, next *schedulerpb.Service, run *schedulerpb.ServiceRun) error {
	run.Id, run.ServiceId, run.Number = RunID(next.GetId(), next.GetRun()), next.GetId(), next.GetRun()
	kept := 0
	for _, old := range slices.Backward(Runs(tx, next.GetId())) {
		if old.GetState() == RunGoing || old.GetNumber() == run.GetNumber() {
			continue
		}
		if kept++; kept <= spec.Keep(next.GetSpec()) {
			continue
		}
		if err := ServiceRuns.Delete(tx, old.GetId()); err != nil {
			return err
		}
	}
	return ServiceRuns.Put(tx, run)
}

// stopGoing ends all runs of a job that go on; the leader sees to their tasks.
func stopGoing(tx *raftstore.Tx, serviceID, why string) error {
	for _, run := range going(tx, serviceID) {
		run = proto.CloneOf(run)
		run.State, run.EndedAt, run.Message = RunStopped, tx.Now().UnixNano(), why
		if err := ServiceRuns.Put(tx, run); err != nil {
			return err
		}
	}
	return nil
}

// replaceGoing begins a run in the place of those that go on.
func replaceGoing(tx *raftstore.Tx, next *schedulerpb.Service, due int64, by string) error {
	if err := stopGoing(tx, next.GetId(), fmt.Sprintf("run %d took its place", next.GetRun()+1)); err != nil {
		return err
	}
	return beginRun(tx, next, due, by)
}

// miss records that the due times from first to last were missed. What was missed for
// the same reason just before is one record with it, so that it drives no runs out of
// those that are kept.
func miss(tx *raftstore.Tx, next *schedulerpb.Service, sch *cron.Schedule, first, last time.Time, why string) error {
	now, times := tx.Now().UnixNano(), uint64(1)
	if last.After(first) {
		times = uint64(sch.Passed(first, last))
	}
	if newest, ok := ServiceRuns.Get(tx, RunID(next.GetId(), next.GetRun())); ok && newest.GetState() == RunMissed && newest.GetMessage() == why {
		newest = proto.CloneOf(newest)
		newest.EndedAt, newest.LastDueAt, newest.Times = now, last.UnixNano(), newest.GetTimes()+times
		return ServiceRuns.Put(tx, newest)
	}
	next.Run++
	return putRun(tx, next, &schedulerpb.ServiceRun{
		State: RunMissed, DueAt: first.UnixNano(), LastDueAt: last.UnixNano(), EndedAt: now, Times: times, Message: why,
	})
}

// missPassed records what old's schedule has had until now and nobody has answered,
// before that schedule ends or begins to count: for why, or for being suspended.
func missPassed(tx *raftstore.Tx, old, next *schedulerpb.Service, why string) error {
	sch, err := spec.ScheduleOf(old.GetSpec())
	if err != nil || sch == nil {
		return err
	}
	first := time.Unix(0, old.GetDue()).UTC()
	switch {
	case old.GetSuspendedSince() != 0:
		first, why = sch.Next(time.Unix(0, old.GetSuspendedSince())), suspendedWhy
	case old.GetDue() == 0:
		return nil
	}
	if first.IsZero() || first.After(tx.Now()) {
		return nil
	}
	last := sch.Last(tx.Now())
	if last.Before(first) {
		last = first // the data of its zone changed
	}
	return miss(tx, next, sch, first, last, why)
}

// startJob begins the first run of a new job, or says when that is due.
func startJob(tx *raftstore.Tx, next *schedulerpb.Service, by string) error {
	if !spec.IsJob(next.GetSpec()) {
		return nil
	}
	if next.GetSpec().GetSchedule() == nil {
		return beginRun(tx, next, 0, by)
	}
	return reschedule(tx, next)
}

// changeJob follows the change of a job's spec. One without a schedule runs anew where
// what runs is another, or how much of it; one with a schedule does so when it is due.
// What is suspended stays so, also where it has no schedule for a while.
func changeJob(tx *raftstore.Tx, old, next *schedulerpb.Service, replaced bool, by string) error {
	was, is := old.GetSpec().GetSchedule(), next.GetSpec().GetSchedule()
	switch {
	case is == nil:
		if err := missPassed(tx, old, next, "its schedule was removed"); err != nil {
			return err
		}
		next.Due = 0
		if replaced || spec.Size(old.GetSpec()) != spec.Size(next.GetSpec()) {
			return replaceGoing(tx, next, 0, by)
		}
	case was == nil && old.GetSuspendedSince() != 0:
		next.SuspendedSince = tx.Now().UnixNano() // before, nothing was due
	case was.GetExpression() != is.GetExpression() || was.GetTimeZone() != is.GetTimeZone():
		if old.GetSuspendedSince() == 0 {
			if err := missPassed(tx, old, next, "its schedule was changed"); err != nil {
				return err
			}
		}
		return reschedule(tx, next)
	}
	return nil
}

// reschedule has a job run next when its schedule has it after now.
func reschedule(tx *raftstore.Tx, next *schedulerpb.Service) error {
	next.Due = 0
	sch, err := spec.ScheduleOf(next.GetSpec())
	if err != nil || sch == nil || next.GetSuspendedSince() != 0 {
		return err
	}
	if at := sch.Next(tx.Now()); !at.IsZero() {
		next.Due = at.UnixNano()
	}
	return nil
}

// forgetRuns goes with the service.
func forgetRuns(tx *raftstore.Tx, serviceID string) error {
	for _, run := range Runs(tx, serviceID) {
		if err := ServiceRuns.Delete(tx, run.GetId()); err != nil {
			return err
		}
	}
	return nil
}
