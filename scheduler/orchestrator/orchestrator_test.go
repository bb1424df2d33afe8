package orchestrator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

const (
	down    = schedulerpb.NodeState_NODE_STATE_DOWN
	unknown = schedulerpb.NodeState_NODE_STATE_UNKNOWN
)

func all() bool { return true }

// picture draws the tasks, "slot:rRevision state" each, those that ended in
// brackets, as a test wants to read them.
func (w *world) picture() string {
	var out []string
	for _, t := range w.tasks {
		s := fmt.Sprintf("%d:r%d %s", t.GetSlot(), t.GetRevision(), store.StateName(store.State(t)))
		if t.GetTargetNodeId() != "" {
			s = fmt.Sprintf("%s:r%d %s", t.GetTargetNodeId(), t.GetRevision(), store.StateName(store.State(t)))
		}
		if store.Live(t) && t.GetDesired() > store.Running {
			s += "→" + store.StateName(t.GetDesired())
		}
		if !store.Live(t) {
			s = "(" + s + ")"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (w *world) want(picture string) {
	w.t.Helper()
	if got := w.picture(); got != picture {
		w.t.Fatalf("tasks are\n\t%s\nwant\n\t%s", got, picture)
	}
}

// end ends the live task of a slot.
func (w *world) end(slot uint32, state schedulerpb.TaskState) {
	w.t.Helper()
	for _, t := range w.tasks {
		if t.GetSlot() == slot && store.Live(t) && t.GetNodeId() != "" {
			next := proto.CloneOf(t)
			next.Status.State = state
			w.put(next)
			return
		}
	}
	w.t.Fatalf("slot %d has no task with a node", slot)
}

func (w *world) live(slot uint32) *schedulerpb.Task {
	for _, t := range w.tasks {
		if t.GetSlot() == slot && store.Live(t) {
			return t
		}
	}
	return nil
}

func running(t rapid.TB, replicas uint64, policy *taskpb.RestartPolicy) *world {
	w := newWorld(t, false, policy)
	w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = replicas })
	w.settle()
	return w
}

func TestRestartPolicy(t *testing.T) {
	const delay = 5 * time.Second
	any, failure, none := taskpb.RestartPolicy_CONDITION_ANY, taskpb.RestartPolicy_CONDITION_ON_FAILURE, taskpb.RestartPolicy_CONDITION_NONE
	for _, tc := range []struct {
		condition taskpb.RestartPolicy_Condition
		end       schedulerpb.TaskState
		again     bool
		delayed   bool
	}{
		{any, store.Complete, true, true},
		{any, store.Failed, true, true},
		{any, store.Rejected, true, true},
		{failure, store.Complete, false, false},
		{failure, store.Failed, true, true},
		{none, store.Complete, false, false},
		{none, store.Failed, false, false},
		{none, store.Shutdown, true, false}, // the cluster stopped it
		{failure, store.Shutdown, true, false},
	} {
		w := running(t, 1, &taskpb.RestartPolicy{Condition: tc.condition, DelayNs: int64(delay)})
		w.end(1, tc.end)
		w.reconcile(all)
		w.now = w.now.Add(time.Hour)
		w.reconcile(all) // the decision stands
		next := w.live(1)
		if (next != nil) != tc.again {
			t.Errorf("%v after %v: replaced %v, want %v", tc.condition, tc.end, next != nil, tc.again)
			continue
		}
		if next != nil {
			want := int64(0)
			if tc.delayed {
				want = next.GetMeta().GetCreatedAt() + int64(delay)
			}
			if next.GetNotBefore() != want {
				t.Errorf("%v after %v: not before %d, want %d", tc.condition, tc.end, next.GetNotBefore(), want)
			}
		}
	}
}

func TestRestartAttemptsAreCountedInTheirWindow(t *testing.T) {
	policy := &taskpb.RestartPolicy{
		Condition: taskpb.RestartPolicy_CONDITION_ANY, DelayNs: 1, MaxAttempts: 2, WindowNs: int64(time.Minute),
	}
	fail := func(w *world, after time.Duration) bool {
		w.now = w.now.Add(after)
		w.place()
		w.end(1, store.Failed)
		w.reconcile(all)
		return w.live(1) != nil
	}
	w := running(t, 1, policy)
	for i, after := range []time.Duration{0, time.Second, 2 * time.Minute, time.Second} {
		if !fail(w, after) {
			t.Fatalf("failure %d was not followed by a restart", i+1)
		}
	}
	if fail(w, time.Second) {
		t.Fatal("a third restart within a minute")
	}
	w.now = w.now.Add(time.Hour)
	w.reconcile(all)
	if w.live(1) != nil {
		t.Fatal("a slot that was given up came back by itself")
	}
	w.update()
	w.settle()
	w.want("(1:r1 failed) (1:r1 failed) (1:r1 failed) (1:r1 failed) (1:r1 failed) 1:r2 running")

	// Without a window every restart counts; losing the node does not.
	policy.WindowNs = 0
	w = running(t, 1, policy)
	fail(w, time.Hour)
	w.place()
	w.nodes[w.live(1).GetNodeId()].State = down
	w.reconcile(all)
	if !fail(w, time.Hour) || fail(w, time.Hour) {
		t.Fatal("two restarts were allowed, in whatever time")
	}
}

func TestLostNodes(t *testing.T) {
	w := running(t, 1, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_NONE})
	lost := w.nodes[w.live(1).GetNodeId()]
	lost.State = unknown
	if w.reconcile(all) != 0 {
		t.Fatal("a node that may yet report was given up")
	}
	lost.State = down
	w.reconcile(all)
	w.want("(1:r1 orphaned) 1:r1 pending")
	w.settle()
	w.want("(1:r1 orphaned) 1:r1 running")
	for _, task := range w.tasks {
		if store.State(task) == store.Orphaned && task.GetDesired() != store.Shutdown {
			t.Errorf("should the node return, its task is told %s", store.StateName(task.GetDesired()))
		}
	}
	delete(w.nodes, w.live(1).GetNodeId())
	w.settle()
	w.want("(1:r1 orphaned) (1:r1 orphaned) 1:r1 running")
}

func TestAvailability(t *testing.T) {
	w := running(t, 1, nil)
	n := w.nodes[w.live(1).GetNodeId()]
	n.Availability = store.Pause
	if w.reconcile(all) != 0 {
		t.Fatal("pause stops what runs")
	}
	n.Availability = store.Drain
	w.settle()
	w.want("(1:r1 shutdown) 1:r1 running")
	if w.live(1).GetNodeId() == n.GetId() {
		t.Fatal("it went back to the drained node")
	}
}

func TestScaleDownTakesWhatServesLeastThenTheHighest(t *testing.T) {
	w := running(t, 4, nil)
	w.end(2, store.Failed)
	w.reconcile(all) // slot 2 has a new task without a node
	w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = 2 })
	w.reconcile(all)
	w.want("1:r1 running 3:r1 running 4:r1 running→remove")
	w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = 3 })
	w.reconcile(all)
	w.want("1:r1 running 2:r1 pending 3:r1 running 4:r1 running→remove")
}

func TestUpdateGoesOneByOneAndMendsWhatIsBroken(t *testing.T) {
	w := running(t, 3, nil)
	w.update()
	w.reconcile(all)
	w.want("1:r1 running→shutdown 2:r1 running 3:r1 running")
	w.end(1, store.Shutdown)
	w.reconcile(all)
	w.want("(1:r1 shutdown) 1:r2 pending 2:r1 running 3:r1 running")
	w.place()
	w.end(1, store.Failed) // the new revision does not work: it goes no further
	w.reconcile(all)
	w.place()
	w.reconcile(all)
	w.want("(1:r1 shutdown) (1:r2 failed) 1:r2 assigned 2:r1 running 3:r1 running")
	w.update() // a better one: what does not run is replaced at once
	w.reconcile(all)
	w.want("(1:r1 shutdown) (1:r2 failed) 1:r2 assigned→shutdown 2:r1 running 3:r1 running")
	w.settle()
	w.want("(1:r1 shutdown) (1:r2 failed) (1:r2 shutdown) (2:r1 shutdown) (3:r1 shutdown) 1:r3 running 2:r3 running 3:r3 running")
	if len(w.revs) != 3 {
		t.Errorf("revisions %v are kept", slices.Sorted(maps.Keys(w.revs)))
	}
}

// TestUpdateWhileOneWaitsForRoom: a replica that found no node before the
// update does not block it; one that finds none because of it does.
func TestUpdateWhileOneWaitsForRoom(t *testing.T) {
	w := running(t, 2, nil)
	w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = 3 })
	w.reconcile(all)
	w.want("1:r1 running 2:r1 running 3:r1 pending")
	w.update()
	w.reconcile(all)
	w.reconcile(all)
	w.want("1:r1 running→shutdown 2:r1 running 3:r2 pending")
	w.end(1, store.Shutdown)
	w.reconcile(all)
	w.reconcile(all)
	w.want("(1:r1 shutdown) 1:r2 pending 2:r1 running 3:r2 pending")
}

func TestGlobal(t *testing.T) {
	w := newWorld(t, true, nil)
	w.settle()
	w.want("node0001:r1 running node0002:r1 running node0003:r1 running")
	w.nodes["node0001"].Availability = store.Drain
	w.nodes["node0002"].Availability = store.Pause
	w.nodes["node0003"].State = unknown
	fresh := w.addNode()
	w.settle()
	w.want("(node0001:r1 shutdown) node0002:r1 running node0003:r1 running " + fresh + ":r1 running")
}
