package dispatcher

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// resume begins a session of a node that says it holds these.
func (w *world) resume(node string, held []*schedulerpb.Assignment) *client {
	w.t.Helper()
	d, err := schedulerpb.AssignmentsDigest(held)
	if err != nil {
		w.t.Fatal(err)
	}
	h := hello()
	h.GetHello().Holds = d
	c := w.connect(node)
	c.send(h)
	w.settle(time.Second)
	return c
}

// A node that comes back with what it should have is told so and no more,
// whoever leads; one that missed anything is told everything.
func TestResume(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		var tasks []string
		for range 5 {
			tasks = append(tasks, w.addTask(n))
		}
		c := w.session(n)
		held := c.assignments()[0].Update
		c.send(report(store.Running, tasks...))
		w.settle(time.Second)
		w.stop()
		w.lead()

		c = w.resume(n, held)
		if got := c.assignments(); len(got) != 1 || !got[0].Unchanged || !got[0].Complete || got[0].Sequence != 1 || len(got[0].Update) != 0 {
			t.Fatalf("a node that missed nothing is told %v", got)
		}
		w.change(tasks[0], func(t *schedulerpb.Task) { t.Desired = store.Shutdown })
		w.settle(time.Second)
		if got := c.assignments(); len(got) != 2 || got[1].Sequence != 2 || len(got[1].Update) != 1 || got[1].Update[0].TaskId != tasks[0] {
			t.Fatalf("then it is told %v", got)
		}
		for name, stale := range map[string][]*schedulerpb.Assignment{
			"an old desired state": held,
			"one less":             held[1:],
			"nothing":              nil,
		} {
			got := w.resume(n, slices.Clone(stale)).assignments()
			if len(got) != 1 || got[0].Unchanged || len(got[0].Update) != 5 {
				t.Errorf("a node that holds %s is told %v", name, got)
			}
		}
		h := hello()
		h.GetHello().Holds = []byte("short")
		c = w.connect(n)
		c.send(h)
		c.wantEnd(codes.InvalidArgument)
	})
}

// The ended tasks a node is told of are bounded, however many are kept.
func TestEndedTasksAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		live := w.addTask(n)
		w.update(func(tx *raftstore.Tx) error {
			for range maxEnded * 3 / 2 {
				if err := store.Tasks.Put(tx, &schedulerpb.Task{
					Id: ident.New(), ServiceId: w.svc, Slot: 1, Revision: 1, NodeId: n,
					Desired: store.Shutdown, Status: &schedulerpb.TaskStatus{State: store.Failed},
				}); err != nil {
					return err
				}
			}
			return nil
		})
		told, there := 0, false
		for _, a := range w.session(n).assignments() {
			for _, u := range a.Update {
				told++
				there = there || u.TaskId == live
			}
		}
		if told != maxEnded+1 || !there {
			t.Errorf("%d tasks are told, %d wanted; the live one %v", told, maxEnded+1, there)
		}
	})
}
