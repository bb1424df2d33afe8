package events_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedspec "github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestRolloutsAreTold: that an update began, was paused, went on, is over, and was rolled
// back; and of which stack it is.
func TestRolloutsAreTold(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	web := schedulertest.Spec("web", 1)
	web.Labels = map[string]string{schedspec.StackLabel: "shop"}
	id, err := schedstore.CreateService(t.Context(), s, web)
	if err != nil {
		t.Fatal(err)
	}
	service := func() (svc *schedulerpb.Service) {
		if err := s.View(func(r *raftstore.ReadTx) error { svc, _ = schedstore.Services.Get(r, id); return nil }); err != nil {
			t.Fatal(err)
		}
		return svc
	}
	update := func(change func(*schedulerpb.ServiceSpec)) {
		sp := proto.CloneOf(service().GetSpec())
		change(sp)
		if err := schedstore.UpdateService(t.Context(), s, id, service().GetMeta().GetVersion(), sp); err != nil {
			t.Fatal(err)
		}
	}
	set := func(state schedulerpb.UpdateStatus_State, message string) {
		st := proto.CloneOf(service().GetUpdateStatus())
		st.State, st.Message = state, message
		if _, err := schedstore.SetUpdateStatus(t.Context(), s, []schedstore.StatusChange{{ServiceID: id, Version: service().GetMeta().GetVersion(), Status: st}}); err != nil {
			t.Fatal(err)
		}
	}
	update(func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	set(schedstore.Paused, "one failed")
	update(func(*schedulerpb.ServiceSpec) {})
	set(schedstore.Completed, "done")
	update(func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	if err := schedstore.RollBackFailed(t.Context(), s, id, service().GetMeta().GetVersion(), "all failed"); err != nil {
		t.Fatal(err)
	}
	set(schedstore.RollbackPaused, "these, too")
	set(schedstore.RollbackCompleted, "back")
	want := []string{
		"service create web map[stack:shop]",
		"service update web map[stack:shop]",
		"service update-pause web map[message:one failed stack:shop]",
		"service update-resume web map[message:update resumed stack:shop]",
		"service update-complete web map[message:done stack:shop]",
		"service update web map[stack:shop]",
		"service rollback web map[message:all failed stack:shop]",
		"service rollback-pause web map[message:these, too stack:shop]",
		"service rollback-complete web map[message:back stack:shop]",
	}
	if got := next(t, h, from, len(want)); !slices.Equal(got, want) {
		t.Errorf("told\n%q, want\n%q", got, want)
	}
}

// TestRunsAreTold: that a run of a job began, how it ended, that one was missed, and that
// its schedule is suspended.
func TestRunsAreTold(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	id, err := schedstore.CreateService(t.Context(), s, schedulertest.JobSpec("backup", 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	record := func(n uint64, change func(*schedulerpb.ServiceRun)) {
		t.Helper()
		if err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
			r, ok := schedstore.ServiceRuns.Get(tx, schedstore.RunID(id, n))
			if r = proto.CloneOf(r); !ok {
				r = &schedulerpb.ServiceRun{Id: schedstore.RunID(id, n), ServiceId: id, Number: n}
			}
			change(r)
			return schedstore.ServiceRuns.Put(tx, r)
		}); err != nil {
			t.Fatal(err)
		}
	}
	record(1, func(r *schedulerpb.ServiceRun) {
		r.State, r.Message = schedstore.RunFailed, "1 of 3 failed: exited with 2"
	})
	record(1, func(r *schedulerpb.ServiceRun) { r.Failed = 1 }) // nothing to tell
	if _, err := schedstore.BeginRun(t.Context(), s, id, schedstore.Beginning{By: "person ann"}); err != nil {
		t.Fatal(err)
	}
	record(2, func(r *schedulerpb.ServiceRun) { r.State = schedstore.RunCompleted })
	record(2, func(r *schedulerpb.ServiceRun) { r.State = schedstore.RunGoing })
	record(3, func(r *schedulerpb.ServiceRun) {
		r.State, r.DueAt, r.Times, r.Message = schedstore.RunMissed, 1e9, 1, "late"
	})
	record(3, func(r *schedulerpb.ServiceRun) { r.Times = 2 })
	if err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
		svc, _ := schedstore.Services.Get(tx, id)
		svc = proto.CloneOf(svc)
		svc.SuspendedSince = 1
		return schedstore.Services.Put(tx, svc)
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"service create backup map[]",
		"service run-begin backup map[run:1]",
		"service run-fail backup map[message:1 of 3 failed: exited with 2 run:1]",
		"service run-begin backup map[by:person ann run:2]",
		"service run-complete backup map[run:2]",
		"service run-resume backup map[run:2]",
		"service run-miss backup map[due:1970-01-01T00:00:01Z message:late run:3]",
		"service run-miss backup map[due:1970-01-01T00:00:01Z message:late run:3 times:2]",
		"service suspend backup map[]",
	}
	got := next(t, h, from, len(want))
	if slices.Sort(got[:2]); !slices.Equal(got, want) { // of one transaction
		t.Errorf("told\n%q, want\n%q", got, want)
	}
}

// TestMovesAndPreemptionAreTold: that tasks begin to be moved, each that is, for what
// other one it ends, and that none is any more.
func TestMovesAndPreemptionAreTold(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	id, err := schedstore.CreateService(t.Context(), s, schedulertest.Spec("web", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := schedstore.Rebalance(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	task := &schedulerpb.Task{Id: "a", ServiceId: id, Slot: 1, Revision: 1, NodeId: "n", Desired: schedstore.Running, Status: &schedulerpb.TaskStatus{State: schedstore.Running}}
	put := func(change func(*schedulerpb.Task)) {
		t.Helper()
		change(task)
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			next := proto.CloneOf(task)
			if old, ok := schedstore.Tasks.Get(tx, task.GetId()); ok {
				next.Meta = old.GetMeta()
			}
			return schedstore.PutTask(tx, next)
		})
	}
	put(func(*schedulerpb.Task) {})
	put(func(x *schedulerpb.Task) { x.MakesWayFor = "b" })
	if err := schedstore.StopRebalance(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	put(func(x *schedulerpb.Task) { x.MakesWayFor, x.PreemptedBy, x.Desired = "", "c", schedstore.Shutdown })
	if err := schedstore.SetStrategy(t.Context(), s, taskpb.Strategy_STRATEGY_BIN_PACK); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"service create web map[]",
		"service rebalance web map[message:looking for tasks to move]",
		"task create web.1 map[service:web]",
		"task move web.1 map[for:b service:web]",
		"service rebalance-stop web map[message:stopped on request moves:0]",
		"task preempt web.1 map[for:c service:web]",
		"placement update  map[strategy:bin-pack]",
	}
	if got := next(t, h, from, len(want)); !slices.Equal(got, want) {
		t.Errorf("told\n%q, want\n%q", got, want)
	}
}
