package orchestrator

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestHistoryIsBounded(t *testing.T) {
	w := running(t, 1, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY})
	for range 3 * MaxHistory {
		w.now = w.now.Add(time.Second)
		w.place()
		w.end(1, store.Failed)
		w.reconcile(all)
	}
	if n := len(w.tasks); n != MaxHistory+1 {
		t.Fatalf("%d tasks are kept, %d wanted", n, MaxHistory+1)
	}
}

func TestLargeServicesAreMadeInParts(t *testing.T) {
	w := newWorld(t, false, nil)
	w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = 2*maxCreates + 1 })
	for _, want := range []int{maxCreates, 2 * maxCreates, 2*maxCreates + 1, 2*maxCreates + 1} {
		w.reconcile(all)
		if len(w.tasks) != want {
			t.Fatalf("%d tasks, %d wanted", len(w.tasks), want)
		}
		w.assignAll()
	}
}

// assignAll gives every task that waits the same node.
func (w *world) assignAll() {
	for _, id := range slices.Collect(maps.Keys(w.tasks)) {
		if t := w.tasks[id]; t.GetNodeId() == "" && store.Wanted(t) {
			next := proto.CloneOf(t)
			next.NodeId, next.Status.State = slices.Min(slices.Collect(maps.Keys(w.nodes))), store.Assigned
			w.put(next)
		}
	}
}

func TestAnImpossibleNumberIsNotMade(t *testing.T) {
	w := newWorld(t, false, nil)
	scale := func(n uint64) {
		w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = n })
	}
	scale(1 << 40)
	w.reconcile(all) // no node takes any: what is spare may be left out, and more are not asked for
	if n := w.reconcile(all); n != 0 || len(w.tasks) > maxCreates {
		t.Fatalf("%d tasks are there, %d more were asked for", len(w.tasks), n)
	}
	// Room for some: as many again.
	before := len(w.tasks)
	w.assignAll()
	w.reconcile(all)
	if len(w.tasks) != before+maxCreates {
		t.Fatalf("%d tasks, %d wanted", len(w.tasks), before+maxCreates)
	}
	scale(3)
	w.settle()
	if n := w.running(); n != 3 || len(w.tasks) != 3 {
		t.Fatalf("%d of %d tasks run after scaling down, 3 wanted", n, len(w.tasks))
	}
}

func TestOneSlotOfManyIsLookedAt(t *testing.T) {
	w := newWorld(t, false, nil)
	w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = 100 })
	w.settle()
	in := w.input()
	in.Tasks = nil // must not be read
	looked := 0
	slot := in.Slot
	in.Slot = func(n uint32, node string) iter.Seq[*schedulerpb.Task] {
		looked++
		return slot(n, node)
	}
	w.memory.Touch(&schedulerpb.Task{Slot: 7})
	if p := w.memory.Plan(in); looked != 1 || len(p.Slots) != 0 {
		t.Fatalf("%d slots were looked at, %v planned", looked, p.Slots)
	}
}

func BenchmarkReconcile(b *testing.B) {
	for _, n := range []uint64{100, 10_000} {
		w := newWorld(b, false, nil)
		w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = n })
		for w.reconcile(all) > 0 {
			w.assignAll()
		}
		for id, t := range w.tasks {
			t.NodeId, t.Status.State = "node0001", store.Running
			w.tasks[id] = t
		}
		in := w.input()
		slots := map[uint32]*schedulerpb.Task{}
		for _, t := range w.tasks {
			slots[t.GetSlot()] = t
		}
		in.Slot = func(slot uint32, _ string) iter.Seq[*schedulerpb.Task] {
			return func(yield func(*schedulerpb.Task) bool) {
				if t := slots[slot]; t != nil {
					yield(t)
				}
			}
		}
		svc := NewService()
		for svc.Plan(in).More {
		}
		b.Run(fmt.Sprintf("one change among %d tasks", n), func(b *testing.B) {
			for b.Loop() {
				svc.Touch(&schedulerpb.Task{Slot: uint32(n / 2)})
				if p := svc.Plan(in); len(p.Slots) > 0 {
					b.Fatal("not at rest")
				}
			}
		})
	}
}

// TestTooManyInASlot: a write whose outcome nobody knew may have been made
// twice. What came furthest at the current revision stays.
func TestTooManyInASlot(t *testing.T) {
	w := running(t, 1, nil)
	first := w.live(1)
	for _, st := range []schedulerpb.TaskState{store.Pending, store.Assigned} {
		twin := proto.CloneOf(first)
		twin.Id, twin.Meta, twin.Status.State = w.id("task"), nil, st
		if st == store.Pending {
			twin.NodeId = ""
		}
		w.put(twin)
	}
	p := Reconcile(w.input())
	if len(p.Slots) != 1 || len(p.Slots[0]) != 2 {
		t.Fatalf("plan is %v", p)
	}
	for _, c := range p.Slots[0] {
		if c.Old.GetId() == first.GetId() || c.New != nil && c.New.GetDesired() != store.Shutdown {
			t.Errorf("change %v", c)
		}
	}
}

// What fails again and again is tried ever more seldom; what worked for a while
// begins anew.
func TestFailuresInARowAreSlowedDown(t *testing.T) {
	w := running(t, 1, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY, DelayNs: int64(5 * time.Second)})
	fail := func(after time.Duration) time.Duration {
		t.Helper()
		w.now = time.Unix(0, max(w.now.UnixNano(), w.live(1).GetNotBefore())).Add(after)
		w.place()
		w.end(1, store.Failed)
		w.reconcile(all)
		return time.Duration(w.live(1).GetNotBefore() - w.now.UnixNano())
	}
	for i, want := range []time.Duration{5, 5, 10, 20, 40, 80, 80} {
		if got := fail(time.Second); got.Round(time.Second) != want*time.Second {
			t.Errorf("failure %d: the next is %v away, want %v", i+1, got, want*time.Second)
		}
	}
	if got := fail(time.Hour); got.Round(time.Second) != 5*time.Second {
		t.Errorf("after an hour of work the next is %v away", got)
	}
}
