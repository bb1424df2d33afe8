package control_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Logs gives what was set of each task, then its end.
func (w *world) Logs(_ context.Context, r dispatcher.LogRequest) iter.Seq2[*schedulerpb.LogChunk, error] {
	w.mu.Lock()
	w.asked = append(w.asked, r)
	var out []*schedulerpb.LogChunk
	for _, id := range r.TaskIDs {
		out = append(out, w.logs[id]...)
	}
	w.mu.Unlock()
	return func(yield func(*schedulerpb.LogChunk, error) bool) {
		for _, c := range out {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// putTask stores a task of the service and what its node will say of its output.
func (w *world) putTask(service string, slot uint32, state schedulerpb.TaskState, lines ...string) string {
	w.t.Helper()
	id := ident.New()
	w.mu.Lock()
	for i, l := range lines {
		w.logs[id] = append(w.logs[id], &schedulerpb.LogChunk{TaskId: id, At: int64(i + 1), Data: []byte(l)})
	}
	w.logs[id] = append(w.logs[id], &schedulerpb.LogChunk{TaskId: id, Eof: true})
	w.mu.Unlock()
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		return schedstore.PutTask(tx, &schedulerpb.Task{Id: id, ServiceId: service, Slot: slot, Revision: 1, NodeId: w.worker, Desired: schedstore.Running,
			Status: &schedulerpb.TaskStatus{State: state, ContainerId: "c"}})
	})
	return id
}

func TestServiceLogs(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	read := func(req *controlpb.ServiceLogsRequest) (func() *controlpb.ServiceLogsResponse, func() error) {
		return stream(t, func(s *serverStream[*controlpb.ServiceLogsResponse]) error { return w.api.ServiceLogs(req, s) })
	}
	_, wait := read(&controlpb.ServiceLogsRequest{Target: "web"})
	wantReason(t, wait(), apierr.ReasonNotFound, "no task whose output")
	_, wait = read(&controlpb.ServiceLogsRequest{Target: "web.7"})
	wantReason(t, wait(), apierr.ReasonNotFound, "no task")
	_, wait = read(&controlpb.ServiceLogsRequest{Target: "none"})
	wantReason(t, wait(), apierr.ReasonNotFound, "no service")

	w.putTask(id, 1, schedstore.Running, "one")
	w.putTask(id, 2, schedstore.Failed, "last words")
	next, wait := read(&controlpb.ServiceLogsRequest{Target: "web", Tail: 10})
	said := map[string]string{}
	for range 2 {
		m := next()
		said[m.GetTaskName()] += string(m.GetData())
		if m.GetNodeName() != "worker-1" {
			t.Errorf("%v", m)
		}
	}
	if want := map[string]string{"web.1": "one", "web.2": "last words"}; !maps.Equal(said, want) {
		t.Errorf("said %v, want %v", said, want)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}

	// Of one whose container or node is gone that is said, unless it ended before what is
	// asked for.
	lost := w.putTask(id, 4, schedstore.Failed)
	w.mu.Lock()
	w.logs[lost] = []*schedulerpb.LogChunk{{TaskId: lost, Eof: true, Error: "its container is gone"}}
	w.mu.Unlock()
	orphan := w.putTask(id, 5, schedstore.Orphaned, "never read")
	next, wait = read(&controlpb.ServiceLogsRequest{Target: "web"})
	missing := map[string]string{}
	for range 4 {
		if m := next(); m.GetGone() {
			missing[m.GetTaskId()] = m.GetError()
		}
	}
	if want := map[string]string{lost: "its container is gone", orphan: "its node is away"}; !maps.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
	next, wait = read(&controlpb.ServiceLogsRequest{Target: "web", Since: 1})
	for range 2 {
		if m := next(); m.GetGone() {
			t.Errorf("%v", m)
		}
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		return errors.Join(schedstore.Tasks.Delete(tx, lost), schedstore.Tasks.Delete(tx, orphan))
	})

	// Followed, a task that is begun later is read too, once and whole.
	next, wait = read(&controlpb.ServiceLogsRequest{Target: "web", Follow: true, Tail: 10, Since: 5})
	next()
	next()
	late := w.putTask(id, 3, schedstore.Running, "late")
	if m := next(); m.GetTaskId() != late || string(m.GetData()) != "late" {
		t.Errorf("%v", m)
	}
	w.mu.Lock()
	if a := w.asked[len(w.asked)-1]; a.Tail != -1 || a.Since != 0 || !a.Follow || !slices.Equal(a.TaskIDs, []string{late}) {
		t.Errorf("asked %+v", a)
	}
	w.mu.Unlock()
	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: id}); err != nil {
		t.Fatal(err)
	}
	if err := wait(); err != nil {
		t.Errorf("after the removal: %v", err)
	}
}
