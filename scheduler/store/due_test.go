package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// clock is the leader's, as the test puts it.
type clock struct{ ns atomic.Int64 }

func (c *clock) Confirm(context.Context) (string, error) { return "", nil }
func (c *clock) Now() time.Time                          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) put(at time.Time)                        { c.ns.Store(at.UnixNano()) }
func (c *clock) add(d time.Duration)                     { c.ns.Add(int64(d)) }

// jobWorld is a store whose clock the test puts.
func jobWorld(t *testing.T, at string) (*raftstore.Store, *clock) {
	t.Helper()
	c := &clock{}
	c.put(when(t, at))
	s := raftstoretest.NewAt(t, c, append(store.Tables(), meshstore.Tables()...)...)
	return s, c
}

func when(t *testing.T, at string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, at)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func jobSpec(name string, c *schedulerpb.Schedule) *schedulerpb.ServiceSpec {
	sp := schedulertest.JobSpec(name, 0, 3)
	sp.Schedule = c
	return sp
}

func newJob(t *testing.T, s *raftstore.Store, c *schedulerpb.Schedule) string {
	t.Helper()
	return newJobNamed(t, s, "job", c)
}

func newJobNamed(t *testing.T, s *raftstore.Store, name string, c *schedulerpb.Schedule) string {
	t.Helper()
	id, err := store.CreateService(t.Context(), s, jobSpec(name, c))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func changeService(t *testing.T, s *raftstore.Store, id string, change func(*schedulerpb.ServiceSpec)) {
	t.Helper()
	svc := serviceOf(t, s, id)
	sp := proto.CloneOf(svc.GetSpec())
	change(sp)
	if err := store.UpdateService(t.Context(), s, id, svc.GetMeta().GetVersion(), sp); err != nil {
		t.Fatal(err)
	}
}

func serviceOf(t *testing.T, s *raftstore.Store, id string) (svc *schedulerpb.Service) {
	t.Helper()
	if err := s.View(func(r *raftstore.ReadTx) error { svc, _ = store.Services.Get(r, id); return nil }); err != nil {
		t.Fatal(err)
	}
	return svc
}

// history is a job's runs as words: "1 running 02:30", "2 missed 02:31-02:40 x10 (why)".
func history(t *testing.T, s *raftstore.Store, id string) string {
	t.Helper()
	var out []string
	if err := s.View(func(r *raftstore.ReadTx) error {
		for _, run := range store.Runs(r, id) {
			text := fmt.Sprintf("%d %s", run.GetNumber(), strings.ToLower(strings.TrimPrefix(run.GetState().String(), "STATE_")))
			clock := func(ns int64) string { return time.Unix(0, ns).UTC().Format("15:04") }
			if run.GetDueAt() > 0 {
				text += " " + clock(run.GetDueAt())
			}
			if run.GetTimes() > 0 {
				text += fmt.Sprintf("-%s x%d (%s)", clock(run.GetLastDueAt()), run.GetTimes(), run.GetMessage())
			}
			out = append(out, text)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, ", ")
}

func wantHistory(t *testing.T, s *raftstore.Store, id, want string) {
	t.Helper()
	if got := history(t, s, id); got != want {
		t.Fatalf("its runs are\n %s, want\n %s", got, want)
	}
}

// begin asks whether a run is due.
func begin(t *testing.T, s *raftstore.Store, id string) time.Time {
	t.Helper()
	again, err := store.BeginDue(t.Context(), s, id)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// end has a run come to its end.
func end(t *testing.T, s *raftstore.Store, id string, n uint64) {
	t.Helper()
	var e store.RunEnd
	if err := s.View(func(r *raftstore.ReadTx) error {
		run, _ := store.ServiceRuns.Get(r, store.RunID(id, n))
		e = store.RunEnd{Version: run.GetMeta().GetVersion(), Run: proto.CloneOf(run)}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	e.Run.State, e.Run.Completed = store.RunCompleted, 3
	for i, want := range []int{0, 1} { // a second time nobody is told what was
		stale, err := store.EndRuns(t.Context(), s, []store.RunEnd{e})
		if err != nil || len(stale) != want {
			t.Fatalf("told the %d. time: %v, %v", i+1, stale, err)
		}
	}
}

func TestAJobRunsAnewWhenItIsAnother(t *testing.T) {
	s, _ := jobWorld(t, "2026-01-01T00:00:00Z")
	id := newJob(t, s, nil)
	wantHistory(t, s, id, "1 running")
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Labels = map[string]string{"a": "b"} })
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicatedJob().MaxConcurrent = 2 })
	wantHistory(t, s, id, "1 running")
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	wantHistory(t, s, id, "1 stopped, 2 running")
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicatedJob().TotalCompletions = 5 })
	wantHistory(t, s, id, "1 stopped, 2 stopped, 3 running")
	if n, err := store.BeginRun(t.Context(), s, id, store.Beginning{By: "somebody"}); err != nil || n != 4 {
		t.Fatal(n, err)
	}
	if svc := serviceOf(t, s, id); svc.GetUpdateStatus() != nil || svc.GetRevision() != 2 || svc.GetRun() != 4 {
		t.Errorf("it is %v", svc)
	}
	if err := store.RemoveService(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	wantHistory(t, s, id, "")
}

func TestAScheduleIsKept(t *testing.T) {
	s, c := jobWorld(t, "2026-03-28T23:00:00Z")
	id := newJob(t, s, &schedulerpb.Schedule{Expression: "30  2 * * *", TimeZone: "Europe/Berlin"})
	if begin(t, s, id); history(t, s, id) != "" {
		t.Fatal("a job with a schedule runs when it is made")
	}
	c.put(when(t, "2026-03-29T00:59:59Z"))
	begin(t, s, id)
	wantHistory(t, s, id, "")
	c.put(when(t, "2026-03-29T01:00:00Z")) // 02:30 is not there
	begin(t, s, id)
	begin(t, s, id)
	wantHistory(t, s, id, "1 running 01:00")
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	wantHistory(t, s, id, "1 running 01:00")
	if svc := serviceOf(t, s, id); !time.Unix(0, svc.GetDue()).Equal(when(t, "2026-03-30T00:30:00Z")) || svc.GetRevision() != 2 {
		t.Errorf("it is due %v at revision %d", time.Unix(0, svc.GetDue()).UTC(), svc.GetRevision())
	}
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule.Expression = "@hourly" })
	if svc := serviceOf(t, s, id); !time.Unix(0, svc.GetDue()).Equal(when(t, "2026-03-29T02:00:00Z")) {
		t.Errorf("it is due %v", time.Unix(0, svc.GetDue()).UTC())
	}
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule = nil })
	if svc := serviceOf(t, s, id); svc.GetDue() != 0 || svc.GetRun() != 1 {
		t.Errorf("without a schedule it is due %d, run %d", svc.GetDue(), svc.GetRun())
	}
}

func TestWhatIsMissedIsSaid(t *testing.T) {
	s, c := jobWorld(t, "2026-01-01T00:00:30Z")
	id := newJob(t, s, &schedulerpb.Schedule{Expression: "*/10 * * * *", StartWithinNs: int64(5 * time.Minute)})
	c.put(when(t, "2026-01-01T01:06:00Z")) // nobody led for an hour
	begin(t, s, id)
	wantHistory(t, s, id, "1 missed 00:10-01:00 x6 (it could not be begun in time)")
	c.put(when(t, "2026-01-01T01:34:00Z"))
	begin(t, s, id) // in time for the last
	wantHistory(t, s, id, "1 missed 00:10-01:00 x6 (it could not be begun in time), 2 missed 01:10-01:20 x2 (a later one was begun), 3 running 01:30")
	c.put(when(t, "2026-01-01T01:42:00Z"))
	if again := begin(t, s, id); !again.Equal(when(t, "2026-01-01T01:45:00Z")) {
		t.Errorf("it is asked again at %v", again)
	}
	end(t, s, id, 3)
	begin(t, s, id) // it waited for the one before
	if h := history(t, s, id); !strings.HasSuffix(h, "3 completed 01:30, 4 running 01:40") {
		t.Error(h)
	}
	for _, at := range []string{"01:56", "02:07"} {
		c.put(when(t, "2026-01-01T"+at+":00Z"))
		begin(t, s, id)
	}
	if h := history(t, s, id); !strings.HasSuffix(h, "4 running 01:40, 5 missed 01:50-02:00 x2 (run 4 was still going)") {
		t.Error(h)
	}
}

func TestConcurrency(t *testing.T) {
	s, c := jobWorld(t, "2026-01-01T00:00:00Z")
	id := newJob(t, s, &schedulerpb.Schedule{Expression: "* * * * *", Concurrency: spec.Replace})
	for range 2 {
		c.add(time.Minute)
		begin(t, s, id)
	}
	wantHistory(t, s, id, "1 stopped 00:01, 2 running 00:02")
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule.Concurrency = spec.Allow })
	for range store.MaxGoing + 1 {
		c.add(time.Minute)
		begin(t, s, id)
	}
	if h := history(t, s, id); strings.Count(h, "running") != store.MaxGoing || !strings.HasSuffix(h, "12 missed 00:12-00:13 x2 (10 runs were going already)") {
		t.Error(h)
	}
	var refused *store.RefusedError
	if _, err := store.BeginRun(t.Context(), s, id, store.Beginning{}); !errors.As(err, &refused) {
		t.Errorf("one more by hand: %v", err)
	}
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule.Concurrency = spec.Forbid })
	if _, err := store.BeginRun(t.Context(), s, id, store.Beginning{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "run 2 of job job is still going") {
		t.Errorf("one more by hand: %v", err)
	}
}

func TestSuspend(t *testing.T) {
	s, c := jobWorld(t, "2026-01-01T00:00:00Z")
	id := newJob(t, s, &schedulerpb.Schedule{Expression: "@hourly"})
	suspend := func(on bool) {
		t.Helper()
		if err := store.Suspend(t.Context(), s, id, on); err != nil {
			t.Fatal(err)
		}
	}
	suspend(true)
	suspend(true)
	c.add(150 * time.Minute)
	begin(t, s, id)
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule.Expression = "30 * * * *" })
	begin(t, s, id)
	wantHistory(t, s, id, "")
	suspend(false)
	wantHistory(t, s, id, "1 missed 00:30-02:30 x3 (its schedule was suspended)")
	c.add(time.Hour)
	begin(t, s, id)
	if h := history(t, s, id); !strings.HasSuffix(h, "2 running 03:30") {
		t.Error(h)
	}
	web, err := store.CreateService(t.Context(), s, schedulertest.Spec("web", 1))
	if err != nil {
		t.Fatal(err)
	}
	once := jobSpec("once", nil)
	other, err := store.CreateService(t.Context(), s, once)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{web: "is no job", other: "has no schedule to suspend", "gone": `no service "gone"`} {
		if err := store.Suspend(t.Context(), s, id, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestWhatWaitsIsMissed where its schedule ends, or is another, before the run that it
// waits for does: no due time is lost without a word.
func TestWhatWaitsIsMissed(t *testing.T) {
	for want, change := range map[string]func(*raftstore.Store, string){
		"its schedule was suspended": func(s *raftstore.Store, id string) {
			if err := store.Suspend(t.Context(), s, id, true); err != nil {
				t.Fatal(err)
			}
		},
		"its schedule was changed": func(s *raftstore.Store, id string) {
			changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule.Expression = "@daily" })
		},
		"its schedule was removed": func(s *raftstore.Store, id string) {
			changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule = nil })
		},
	} {
		s, c := jobWorld(t, "2026-01-01T00:00:00Z")
		id := newJob(t, s, &schedulerpb.Schedule{Expression: "*/10 * * * *"})
		change(s, newJobNamed(t, s, "other", &schedulerpb.Schedule{Expression: "*/10 * * * *"})) // nothing is due
		c.add(10 * time.Minute)
		begin(t, s, id)
		c.add(11 * time.Minute)
		if begin(t, s, id).IsZero() {
			t.Fatal("it does not wait")
		}
		change(s, id)
		wantHistory(t, s, id, "1 running 00:10, 2 missed 00:20-00:20 x1 ("+want+")")
		if svc := serviceOf(t, s, id); svc.GetDue() != 0 && time.Unix(0, svc.GetDue()).Before(c.Now()) {
			t.Errorf("it is still due at %v", time.Unix(0, svc.GetDue()))
		}
	}
}

// TestWhatIsSuspendedStaysSo while its schedule is gone.
func TestWhatIsSuspendedStaysSo(t *testing.T) {
	s, c := jobWorld(t, "2026-01-01T00:00:00Z")
	id := newJob(t, s, &schedulerpb.Schedule{Expression: "@hourly"})
	if err := store.Suspend(t.Context(), s, id, true); err != nil {
		t.Fatal(err)
	}
	c.add(90 * time.Minute)
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule = nil })
	wantHistory(t, s, id, "1 missed 01:00-01:00 x1 (its schedule was suspended)")
	c.add(24 * time.Hour)
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Schedule = &schedulerpb.Schedule{Expression: "@hourly"} })
	c.add(2 * time.Hour)
	begin(t, s, id)
	wantHistory(t, s, id, "1 missed 01:00-01:00 x1 (its schedule was suspended)")
	if err := store.Suspend(t.Context(), s, id, false); err != nil {
		t.Fatal(err)
	}
	wantHistory(t, s, id, "1 missed 01:00-03:00 x3 (its schedule was suspended)")
	c.add(30 * time.Minute)
	begin(t, s, id)
	if h := history(t, s, id); !strings.HasSuffix(h, "2 running 04:00") {
		t.Error(h)
	}
}

// TestCompletionsOfRunsThatGoOn are bounded together.
func TestCompletionsOfRunsThatGoOn(t *testing.T) {
	s, c := jobWorld(t, "2026-01-01T00:00:00Z")
	id := newJob(t, s, &schedulerpb.Schedule{Expression: "* * * * *", Concurrency: spec.Allow})
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) {
		sp.GetReplicatedJob().TotalCompletions = spec.MaxCompletions * 2 / 5
	})
	for range 3 {
		c.add(time.Minute)
		begin(t, s, id)
	}
	wantHistory(t, s, id, "1 running 00:01, 2 running 00:02, 3 missed 00:03-00:03 x1 (2 runs were going already, and with it they would have 12000 completions: at most 10000 may be)")
	var refused *store.RefusedError
	if _, err := store.BeginRun(t.Context(), s, id, store.Beginning{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "at most 10000 may be: wait for one to end") {
		t.Errorf("one more by hand: %v", err)
	}
}

// TestARunIsOfWhatWasJudged and of nothing that took its place since.
func TestARunIsOfWhatWasJudged(t *testing.T) {
	s, _ := jobWorld(t, "2026-01-01T00:00:00Z")
	id := newJob(t, s, nil)
	judged := serviceOf(t, s, id).GetSpec()
	if _, err := store.BeginRun(t.Context(), s, id, store.Beginning{Judged: judged}); err != nil {
		t.Fatal(err)
	}
	changeService(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Task.Priority = 9 })
	if _, err := store.BeginRun(t.Context(), s, id, store.Beginning{Judged: judged}); !errors.Is(err, store.ErrChanged) {
		t.Error(err)
	}
}

func TestRunsAreBounded(t *testing.T) {
	s, c := jobWorld(t, "2026-01-01T00:00:00Z")
	id := newJob(t, s, &schedulerpb.Schedule{Expression: "* * * * *", Keep: 2})
	for n := uint64(1); n <= 5; n++ {
		c.add(time.Minute)
		begin(t, s, id)
		if n < 5 {
			end(t, s, id, n)
		}
	}
	wantHistory(t, s, id, "3 completed 00:03, 4 completed 00:04, 5 running 00:05")
}

// TestEveryDueTimeIsAnsweredOnce lets time pass in steps and jumps, asks twice at once
// as two leaders would, ends runs, and holds what came of it against the schedule: each
// due time is of one run, begun or missed.
func TestEveryDueTimeIsAnsweredOnce(t *testing.T) {
	s, c := jobWorld(t, "2026-03-28T20:00:00Z")
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		within := time.Duration(rapid.IntRange(1, 90).Draw(rt, "within")) * time.Minute
		sp := jobSpec(fmt.Sprintf("job%d", n), &schedulerpb.Schedule{
			Expression: rapid.SampledFrom([]string{"* * * * *", "*/15 * * * *", "30 2 * * *", "15 * * * *"}).Draw(rt, "expression"),
			TimeZone:   "Europe/Berlin", Keep: spec.MaxKeep, StartWithinNs: int64(within),
			Concurrency: rapid.SampledFrom([]schedulerpb.Schedule_Concurrency{spec.Allow, spec.Forbid, spec.Replace}).Draw(rt, "concurrency"),
		})
		id, err := store.CreateService(t.Context(), s, sp)
		if err != nil {
			rt.Fatal(err)
		}
		sch, err := spec.ScheduleOf(sp)
		if err != nil {
			rt.Fatal(err)
		}
		first, want := sch.Next(c.Now()), 0
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			c.add(time.Duration(rapid.SampledFrom([]int64{1, 20, 60, 61, 900, 3600, 7200, 90000}).Draw(rt, "seconds")) * time.Second)
			var both sync.WaitGroup
			for range 2 {
				both.Go(func() {
					if _, err := store.BeginDue(t.Context(), s, id); err != nil && !errors.Is(err, raftstore.ErrConflict) {
						t.Error(err)
					}
				})
			}
			both.Wait()
			var due int64
			answered, going, seen := 0, []uint64{}, map[int64]bool{}
			if err := s.View(func(r *raftstore.ReadTx) error {
				svc, _ := store.Services.Get(r, id)
				due = svc.GetDue()
				for _, run := range store.Runs(r, id) {
					if run.GetState() == store.RunGoing {
						going = append(going, run.GetNumber())
					}
					if run.GetState() == store.RunMissed {
						answered += int(run.GetTimes())
						continue
					}
					answered++
					if seen[run.GetDueAt()] {
						rt.Errorf("two runs were due at %d", run.GetDueAt())
					}
					seen[run.GetDueAt()] = true
					if late := run.GetBeganAt() - run.GetDueAt(); late < 0 || late > int64(within) {
						rt.Errorf("run %d began %v late, %v allowed", run.GetNumber(), time.Duration(late), within)
					}
				}
				return nil
			}); err != nil {
				rt.Fatal(err)
			}
			next := time.Unix(0, due)
			want += sch.Passed(first, next.Add(-1))
			if first = next; answered != want {
				rt.Fatalf("%d due times are answered, there were %d until %v: %s", answered, want, next, history(t, s, id))
			}
			if !next.After(c.Now()) && (sp.Schedule.Concurrency != spec.Forbid || len(going) == 0) {
				rt.Fatalf("it waits for nothing at %v: due at %v", c.Now(), next)
			}
			if most := map[schedulerpb.Schedule_Concurrency]int{spec.Allow: store.MaxGoing, spec.Forbid: 1, spec.Replace: 1}[sp.Schedule.Concurrency]; len(going) > most {
				rt.Fatalf("%d runs go on", len(going))
			}
			if len(going) > 0 && rapid.Bool().Draw(rt, "one ends") {
				end(t, s, id, going[0])
			}
		}
		if err := store.RemoveService(t.Context(), s, id); err != nil {
			rt.Fatal(err)
		}
	})
}
