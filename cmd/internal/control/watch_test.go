package control_test

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

func TestWatchService(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	next, wait := stream(t, func(s *serverStream[*controlpb.WatchServiceResponse]) error {
		return w.api.WatchService(&controlpb.WatchServiceRequest{Service: "web"}, s)
	})
	if m := next(); m.GetService().GetWanted() != 2 || len(m.GetTasks()) != 0 {
		t.Errorf("at first %v", m)
	}
	schedulertest.Run(t, w.store)
	schedulertest.Agents(t, w.store)
	for m := next(); m.GetService().GetRunning() != 2; m = next() {
	}
	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: id}); err != nil {
		t.Fatal(err)
	}
	for m := next(); !m.GetRemoved(); m = next() {
	}
	if err := wait(); err != nil {
		t.Errorf("the watch of a removed service ended with %v", err)
	}
	_, wait = stream(t, func(s *serverStream[*controlpb.WatchServiceResponse]) error {
		return w.api.WatchService(&controlpb.WatchServiceRequest{Service: "web"}, s)
	})
	wantReason(t, wait(), apierr.ReasonNotFound, "no service")
}

// TestWatchedChangesAddUp follows a service of more tasks than one message has:
// what is added up is always what the store holds, and a change of one task is
// told as one.
func TestWatchedChangesAddUp(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	const page, many = 512, 2*512 + 7
	ids := make([]string, many)
	for slot := range ids {
		ids[slot] = ident.New()
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for slot, task := range ids {
			err := schedstore.PutTask(tx, &schedulerpb.Task{Id: task, ServiceId: id, Slot: uint32(slot + 1), Revision: 1, NodeId: w.worker,
				Desired: schedstore.Running, Status: &schedulerpb.TaskStatus{State: schedstore.Running}})
			if err != nil {
				return err
			}
		}
		return nil
	})
	next, wait := stream(t, func(s *serverStream[*controlpb.WatchServiceResponse]) error {
		return w.api.WatchService(&controlpb.WatchServiceRequest{Service: "web", Changes: true}, s)
	})
	have := map[string]*schedulerpb.Task{}
	messages, told := 0, 0
	step := func() *controlpb.WatchServiceResponse {
		t.Helper()
		messages, told = 0, 0
		for {
			m := next()
			messages++
			told += len(m.GetTasks()) + len(m.GetGone())
			if !m.GetChanges() {
				clear(have)
			}
			for _, v := range m.GetTasks() {
				have[v.GetTask().GetId()] = v.GetTask()
			}
			for _, gone := range m.GetGone() {
				delete(have, gone)
			}
			if !m.GetMore() {
				return m
			}
		}
	}
	same := func() {
		t.Helper()
		err := w.store.View(func(r *raftstore.ReadTx) error {
			want := map[string]*schedulerpb.Task{}
			for task := range schedstore.OfService(r, id) {
				want[task.GetId()] = task
			}
			if !maps.EqualFunc(have, want, func(a, b *schedulerpb.Task) bool { return proto.Equal(a, b) }) {
				t.Errorf("%d tasks were told of, %d are there, or they differ", len(have), len(want))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if m := step(); m.GetService().GetRunning() != many || messages != 3 {
		t.Errorf("at first %d messages, %d running", messages, m.GetService().GetRunning())
	}
	same()
	set := func(state schedulerpb.TaskState, ids ...string) {
		t.Helper()
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			for _, id := range ids {
				task, _ := schedstore.Tasks.Get(tx, id)
				if err := schedstore.AdvanceTask(tx, task.GetNodeId(), id, &schedulerpb.TaskStatus{State: state}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	set(schedulerpb.TaskState_TASK_STATE_FAILED, ids[3])
	if m := step(); m.GetService().GetRunning() != many-1 || messages != 1 || told != 1 {
		t.Errorf("one failed: %d messages tell %d changes, %d running", messages, told, m.GetService().GetRunning())
	}
	same()
	set(schedulerpb.TaskState_TASK_STATE_COMPLETE, ids[10:10+page+1]...)
	if m := step(); m.GetService().GetRunning() != many-1-page-1 || messages != 2 || told != page+1 {
		t.Errorf("many ended: %d messages tell %d changes, %d running", messages, told, m.GetService().GetRunning())
	}
	same()
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		for _, id := range slices.Concat(ids[:2], ids[5:6]) {
			if err := schedstore.Tasks.Delete(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	if step(); messages != 1 || told != 3 {
		t.Errorf("three went: %d messages tell %d changes", messages, told)
	}
	same()
	// What happens to another service is no news.
	w.putTask(w.create(w.spec("other")), 1, schedulerpb.TaskState_TASK_STATE_RUNNING)
	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: id}); err != nil {
		t.Fatal(err)
	}
	if m := step(); !m.GetRemoved() || messages != 1 {
		t.Errorf("after the removal %v", m)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
}
