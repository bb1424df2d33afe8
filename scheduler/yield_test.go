package scheduler_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// heavy is a service whose tasks need so many GiB, on a node of that label if there is
// one.
func heavy(name string, replicas uint64, gib int64, priority uint32, on string) *schedulerpb.ServiceSpec {
	sp := schedulertest.Spec(name, replicas)
	sp.Task.Reservations = &taskpb.Resources{MemoryBytes: gib << 30}
	sp.Task.Priority = priority
	if on != "" {
		sp.Task.Constraints = []string{"node.labels.at==" + on}
	}
	return sp
}

func labelled(t *testing.T, s *raftstore.Store, value string) string {
	id := schedulertest.AddNode(t, s, false) // 8 GiB
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.UpdateNodeSpec(tx, id, store.NodeUpdate{LabelAdd: map[string]string{"at": value}})
	})
	return id
}

// preempted are the tasks of a service that were stopped for others.
func preempted(r raftstore.Reader, id string) (out []*schedulerpb.Task) {
	for x := range store.OfService(r, id) {
		if x.GetPreemptedBy() != "" {
			out = append(out, x)
		}
	}
	return out
}

func TestPrioritiesTakeTheirPlace(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	labelled(t, s, "one")
	labelled(t, s, "two")
	recorded := make(chan int, 100)
	schedulertest.RunWith(t, scheduler.Config{Store: s, Own: func(ctx context.Context, what string) context.Context {
		return raftstore.WithRecorder(ctx, func(tx *raftstore.Tx) ([]byte, error) {
			n := 0
			for c := range tx.Changes() {
				if x, ok := c.New.(*schedulerpb.Task); ok && x.GetPreemptedBy() != "" {
					n++
				}
			}
			recorded <- n
			return []byte(what), nil
		})
	}})
	low := create(t, s, heavy("low", 4, 4, 0, ""))
	schedulertest.Await(t, s, schedulertest.Running(low, 4))
	equal := create(t, s, heavy("equal", 1, 4, 0, ""))
	high := create(t, s, heavy("high", 1, 8, 10, ""))
	schedulertest.Await(t, s, schedulertest.Running(high, 1))
	quiet(t, s, 300*time.Millisecond)
	if err := s.View(func(r *raftstore.ReadTx) error {
		gone, waits := preempted(r, low), 0
		nodes := map[string]bool{}
		for _, x := range gone {
			nodes[x.GetNodeId()] = true
			if by, ok := store.Tasks.Get(r, x.GetPreemptedBy()); !ok || by.GetServiceId() != high || by.GetNodeId() != x.GetNodeId() {
				return fmt.Errorf("%v ended for %v", x, by)
			}
		}
		for x := range store.Tasks.By(r, "node", store.Unassigned) {
			if waits++; !strings.Contains(x.GetStatus().GetMessage(), "GiB of free memory") {
				return fmt.Errorf("it waits, and says %v", x.GetStatus())
			}
		}
		if c := store.CountOf(r, low); len(gone) != 2 || len(nodes) != 1 || c.Running != 2 || waits != 3 || len(preempted(r, equal)) > 0 {
			return fmt.Errorf("%d ended on %d nodes, %v, %d wait", len(gone), len(nodes), c, waits)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if len(recorded) == 0 {
		t.Error("what ended is not on record")
	}
	for len(recorded) > 0 { // once, unless it was composed anew
		if n := <-recorded; n != 2 {
			t.Errorf("%d that ended are on record, want 2", n)
		}
	}
}

// Whose place was taken takes nobody's: low stays, though mid is worth more.
func TestPreemptionDoesNotCascade(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	labelled(t, s, "one")
	schedulertest.Run(t, s)
	mid := create(t, s, heavy("mid", 1, 8, 5, ""))
	schedulertest.Await(t, s, schedulertest.Running(mid, 1))
	labelled(t, s, "two")
	low := create(t, s, heavy("low", 1, 8, 0, ""))
	schedulertest.Await(t, s, schedulertest.Running(low, 1))
	high := create(t, s, heavy("high", 1, 8, 10, "one"))
	schedulertest.Await(t, s, schedulertest.Running(high, 1))
	quiet(t, s, 300*time.Millisecond)
	if err := s.View(func(r *raftstore.ReadTx) error {
		if n, m := len(preempted(r, mid)), len(preempted(r, low)); n != 1 || m != 0 {
			return fmt.Errorf("%d of mid and %d of low ended", n, m)
		}
		return schedulertest.Running(low, 1)(r)
	}); err != nil {
		t.Error(err)
	}
	// Somebody who asks for more is heard.
	update(t, s, mid, func(sp *schedulerpb.ServiceSpec) { sp.Task.Priority = 6 })
	schedulertest.Await(t, s, schedulertest.Running(mid, 1))
}

func settledAt(id string, state schedulerpb.RebalanceStatus_State, least, most int) func(raftstore.Reader) error {
	return func(r raftstore.Reader) error {
		svc, _ := store.Services.Get(r, id)
		on := map[string]int{}
		for n := range store.Nodes.All(r) {
			on[n.GetId()] = 0
		}
		for x := range store.OfService(r, id) {
			if store.Wanted(x) && store.State(x) == store.Running {
				on[x.GetNodeId()]++
			}
		}
		for _, n := range on {
			if n < least || n > most || svc.GetRebalanceStatus().GetState() != state {
				return fmt.Errorf("%v: %v", on, svc.GetRebalanceStatus())
			}
		}
		return nil
	}
}

func TestTasksMoveToANodeThatCame(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	asked := create(t, s, schedulertest.Spec("asked", 6))
	sp := schedulertest.Spec("auto", 6)
	sp.Rebalance = &schedulerpb.RebalanceConfig{Automatic: true, PauseNs: 1}
	auto := create(t, s, sp)
	global := create(t, s, schedulertest.GlobalSpec("global"))
	schedulertest.Await(t, s, schedulertest.Running(asked, 6))
	schedulertest.Await(t, s, schedulertest.Running(auto, 6))
	least := make(chan error, 1)
	w, err := s.Watch(nil, store.Tables()...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() { least <- neverLess(t, w, s, asked, auto) }()
	schedulertest.AddNode(t, s, false)
	schedulertest.Await(t, s, settledAt(auto, store.MovingCompleted, 2, 2))
	if err := store.Rebalance(t.Context(), s, asked); err != nil {
		t.Fatal(err)
	}
	schedulertest.Await(t, s, settledAt(asked, store.MovingCompleted, 2, 2))
	if n := service(t, s, asked).GetRebalanceStatus().GetMoves(); n != 2 {
		t.Errorf("%d moves", n)
	}
	if err := store.Rebalance(t.Context(), s, global); err == nil || !strings.Contains(err.Error(), "nothing to rebalance") {
		t.Errorf("a global service: %v", err)
	}
	w.Close()
	if err := <-least; err != nil {
		t.Error(err)
	}
}

// neverLess watches that six of each run all the time.
func neverLess(t *testing.T, w *raftstore.Watch, s *raftstore.Store, ids ...string) error {
	for {
		if _, err := w.Next(t.Context()); err != nil {
			return nil
		}
		if err := s.View(func(r *raftstore.ReadTx) error {
			for _, id := range ids {
				if c := store.CountOf(r, id); c.Running < 6 {
					return fmt.Errorf("%v of 6 run", c)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// What one of several leaves is kept until the others have ended, too, also by another
// leader.
func TestRoomIsKeptForWhomItWasMade(t *testing.T) {
	s := schedulertest.NewStore(t)
	labelled(t, s, "one")
	stop := schedulertest.Run(t, s)
	low := create(t, s, heavy("low", 2, 4, 0, ""))
	advance := func(x *schedulerpb.Task, state schedulerpb.TaskState) {
		t.Helper()
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			return store.AdvanceTask(tx, x.GetNodeId(), x.GetId(), &schedulerpb.TaskStatus{State: state})
		})
	}
	var all []*schedulerpb.Task
	tasks := func(id string, n int, is func(*schedulerpb.Task) bool) []*schedulerpb.Task {
		t.Helper()
		schedulertest.Await(t, s, func(r raftstore.Reader) error {
			all = all[:0]
			for x := range store.OfService(r, id) {
				if is(x) {
					all = append(all, x)
				}
			}
			if len(all) != n {
				return fmt.Errorf("%d tasks, %d wanted", len(all), n)
			}
			return nil
		})
		return all
	}
	for _, x := range tasks(low, 2, func(x *schedulerpb.Task) bool { return x.GetNodeId() != "" }) {
		advance(x, store.Running)
	}
	high := create(t, s, heavy("high", 1, 8, 10, ""))
	gone := tasks(low, 2, func(x *schedulerpb.Task) bool { return x.GetDesired() == store.Shutdown && x.GetPreemptedBy() != "" })
	first, second := gone[0], gone[1]
	waits := func(x *schedulerpb.Task) bool { return store.Wanted(x) && x.GetNodeId() == "" }
	tasks(high, 1, func(x *schedulerpb.Task) bool {
		return waits(x) && strings.Contains(x.GetStatus().GetMessage(), "2 tasks of a lower priority")
	})
	advance(first, store.Shutdown)
	tasks(low, 1, waits)
	quiet(t, s, 200*time.Millisecond)
	tasks(low, 1, waits)
	stop()
	schedulertest.Run(t, s) // another leader
	quiet(t, s, 200*time.Millisecond)
	tasks(low, 1, waits)
	advance(second, store.Shutdown)
	tasks(high, 1, func(x *schedulerpb.Task) bool { return x.GetNodeId() != "" })
	tasks(low, 2, waits)
}
