package scheduler_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// ran wants the newest run of a job to be the n-th, and to have completed so often.
func ran(id string, n, completed uint64) func(raftstore.Reader) error {
	return func(r raftstore.Reader) error {
		run, _ := store.ServiceRuns.Get(r, store.RunID(id, n))
		if s, _ := store.Services.Get(r, id); s.GetRun() != n || run.GetState() != store.RunCompleted || run.GetCompleted() != completed {
			return fmt.Errorf("run %d of %d is %v", n, s.GetRun(), run)
		}
		return nil
	}
}

func TestJobs(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	for range 3 {
		schedulertest.AddNode(t, s, false)
	}
	schedulertest.Run(t, s)
	stopWatch := onePerSlot(t, s)
	job := create(t, s, schedulertest.JobSpec("job", 2, 7))
	everywhere := create(t, s, schedulertest.GlobalJobSpec("everywhere"))
	schedulertest.Await(t, s, ran(job, 1, 7))
	schedulertest.Await(t, s, ran(everywhere, 1, 3))
	schedulertest.AddNode(t, s, false)
	schedulertest.Await(t, s, ran(everywhere, 1, 4))
	update(t, s, job, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	schedulertest.Await(t, s, ran(job, 2, 7))
	if _, err := store.BeginRun(t.Context(), s, job, store.Beginning{By: "somebody"}); err != nil {
		t.Fatal(err)
	}
	schedulertest.Await(t, s, ran(job, 3, 7))
	stopWatch()
	if err := store.RemoveService(t.Context(), s, job); err != nil {
		t.Fatal(err)
	}
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for x := range store.OfService(r, job) {
			return fmt.Errorf("task %s is left", x.GetId())
		}
		for rev := range store.Revisions.By(r, "service", job) {
			return fmt.Errorf("revision %s is left", rev.GetId())
		}
		return nil
	})
}

// dueNow has a job be due at the last minute.
func dueNow(t *testing.T, s *raftstore.Store, id string) {
	t.Helper()
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		svc, _ := store.Services.Get(tx, id)
		svc = proto.CloneOf(svc)
		svc.Due = tx.Now().Truncate(time.Minute).UnixNano()
		return store.Services.Put(tx, svc)
	})
}

// TestLeadersLostWhenAJobIsDue has one leader after the other lost between that a job is
// due and that its run is begun, and on the run's way: of each due time there is one run,
// and it completes.
func TestLeadersLostWhenAJobIsDue(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	for range 3 {
		schedulertest.AddNode(t, s, false)
	}
	sp := schedulertest.JobSpec("job", 2, 5)
	sp.Schedule = &schedulerpb.Schedule{Expression: "* * * * *", Concurrency: spec.Forbid, Keep: 100, StartWithinNs: int64(time.Hour)}
	id := create(t, s, sp)
	stopWatch := onePerSlot(t, s)
	cfg := scheduler.Config{Store: s, Logger: slog.New(slog.DiscardHandler)}
	for n := uint64(1); n <= 12; n++ {
		dueNow(t, s, id)
		for range rand.IntN(5) {
			if err := scheduler.Interrupted(t.Context(), cfg, rand.IntN(5), rand.IntN(3)); err != nil {
				t.Fatal(err)
			}
		}
		stop := schedulertest.Run(t, s)
		schedulertest.Await(t, s, ran(id, n, 5))
		stop()
	}
	stopWatch()
	if err := s.View(func(r *raftstore.ReadTx) error {
		for _, run := range store.Runs(r, id) {
			if run.GetState() != store.RunCompleted {
				t.Errorf("a run is %v", run)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestADueJobBegins by itself, when its time has come.
func TestADueJobBegins(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	sp := schedulertest.JobSpec("job", 0, 1)
	sp.Schedule = &schedulerpb.Schedule{Expression: "* * * * *", StartWithinNs: int64(time.Hour)}
	id := create(t, s, sp)
	soon := time.Now().Add(300 * time.Millisecond)
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		svc, _ := store.Services.Get(tx, id)
		svc = proto.CloneOf(svc)
		svc.Due = soon.UnixNano()
		return store.Services.Put(tx, svc)
	})
	schedulertest.Await(t, s, ran(id, 1, 1))
	if err := s.View(func(r *raftstore.ReadTx) error {
		run, _ := store.ServiceRuns.Get(r, store.RunID(id, 1))
		if svc, _ := store.Services.Get(r, id); run.GetBeganAt() < soon.UnixNano() || svc.GetDue() <= run.GetBeganAt() {
			t.Errorf("it was due at %v, began %v, is due next %v", soon.UnixNano(), run.GetBeganAt(), svc.GetDue())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestAJobThatWaitsIsNotAskedAgain by each plan of it, while the run that it waits for
// goes on and nothing else has changed.
func TestAJobThatWaitsIsNotAskedAgain(t *testing.T) {
	s := schedulertest.NewStore(t)
	sp := schedulertest.JobSpec("job", 2, 5)
	sp.Schedule = &schedulerpb.Schedule{Expression: "@yearly", Concurrency: spec.Forbid, StartWithinNs: int64(time.Hour)}
	id := create(t, s, sp)
	if _, err := store.BeginRun(t.Context(), s, id, store.Beginning{}); err != nil {
		t.Fatal(err)
	}
	dueNow(t, s, id)
	cfg := scheduler.Config{Store: s, Logger: slog.New(slog.DiscardHandler)}
	for change, want := range map[int]int{9: 1, 3: 2} { // 9: never
		asked, err := scheduler.Asked(t.Context(), cfg, id, 6, func(i int) {
			if i == change {
				schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
					svc, _ := store.Services.Get(tx, id)
					svc = proto.CloneOf(svc)
					svc.Due -= int64(time.Minute)
					return store.Services.Put(tx, svc)
				})
			}
		})
		if err != nil || asked != want {
			t.Errorf("changed before plan %d, %d of 6 plans ask, want %d; %v", change, asked, want, err)
		}
	}
	asked, err := scheduler.Asked(t.Context(), cfg, id, 4, func(i int) {
		if i == 2 { // the run has ended: what waited begins
			schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
				run, _ := store.ServiceRuns.Get(tx, store.RunID(id, 1))
				run = proto.CloneOf(run)
				run.State = store.RunFailed
				return store.ServiceRuns.Put(tx, run)
			})
		}
	})
	if err != nil || asked != 2 {
		t.Errorf("%d plans ask, %v", asked, err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		if run, _ := store.ServiceRuns.Get(r, store.RunID(id, 2)); run.GetState() != store.RunGoing {
			t.Errorf("what waited is %v", run)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestTheClockIsLookedAt each minute, however far off what is due may be: timers know
// nothing of a clock that is set, or of a machine that slept.
func TestTheClockIsLookedAt(t *testing.T) {
	now := time.Now()
	for after, want := range map[time.Duration]time.Duration{time.Second: time.Second, time.Minute: time.Minute, time.Hour: time.Minute} {
		if got := scheduler.LooksAgain(now, now.Add(after)).Sub(now); got != want {
			t.Errorf("what is due in %v has it look in %v, want %v", after, got, want)
		}
	}
}
