package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// quiet waits until the scheduler has nothing to do, and returns the index of
// the last entry.
func quiet(t *testing.T, s *raftstore.Store, d time.Duration) uint64 {
	t.Helper()
	w, err := s.Watch(nil, store.Tables()...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		_, err := w.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return s.AppliedIndex()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What nobody can run is not made: the store holds what fits and a few more that
// say why, whatever number was asked for, and taking it back needs no patience.
func TestAnImpossibleScale(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	node := schedulertest.AddNode(t, s, false) // 8 GiB
	schedulertest.Run(t, s)
	sp := schedulertest.Spec("web", spec.MaxReplicas)
	sp.Task.Reservations = &taskpb.Resources{MemoryBytes: 1 << 30}
	web := create(t, s, sp)
	state := func(r raftstore.Reader) (running, waiting int, why string) {
		for task := range store.OfService(r, web) {
			switch {
			case store.State(task) == store.Running:
				running++
			case task.GetNodeId() == "":
				waiting++
				why = task.GetStatus().GetMessage()
			}
		}
		return running, waiting, why
	}
	held := func(wantRunning int) func(raftstore.Reader) error {
		return func(r raftstore.Reader) error {
			running, waiting, why := state(r)
			if running != wantRunning || waiting != orchestrator.MaxWaiting || !strings.Contains(why, "1 GiB of free memory") {
				return fmt.Errorf("%d run and %d wait, as %q", running, waiting, why)
			}
			n := orchestrator.Held(spec.MaxReplicas, store.CountOf(r.(*raftstore.ReadTx), web))
			if n != uint64(spec.MaxReplicas-wantRunning-orchestrator.MaxWaiting) {
				return fmt.Errorf("%d are said to be held back", n)
			}
			return nil
		}
	}
	schedulertest.Await(t, s, held(8))
	at := quiet(t, s, 300*time.Millisecond)
	if again := quiet(t, s, 300*time.Millisecond); again != at {
		t.Errorf("%d entries were written at rest", again-at)
	}
	schedulertest.AddNode(t, s, false) // room for eight more, and as many wait as before
	schedulertest.Await(t, s, held(16))
	schedulertest.SetState(t, s, node, down) // the eight that ran there wait besides
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		if running, waiting, _ := state(r); running != 8 || waiting != orchestrator.MaxWaiting+8 {
			return fmt.Errorf("%d run and %d wait", running, waiting)
		}
		return nil
	})
	update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 5 })
	schedulertest.Await(t, s, schedulertest.Running(web, 5))
	quiet(t, s, 200*time.Millisecond)
	if err := s.View(func(r *raftstore.ReadTx) error {
		if n := store.Tasks.Count(r); n > 5+8+orchestrator.MaxHistory*5 {
			return fmt.Errorf("%d tasks are left", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	sp.Name, sp.GetReplicated().Replicas = "more", spec.MaxReplicas+1
	if _, err := store.CreateService(t.Context(), s, sp); err == nil || !strings.Contains(err.Error(), fmt.Sprint(spec.MaxReplicas)) {
		t.Errorf("more than the bound: %v", err)
	}
}

// Nodes that come and go all the time leave, when they stop, as many tasks as
// were asked for, no two of a slot, and silence.
func TestFlappingNodes(t *testing.T) {
	const nodes, replicas, rounds = 20, 1000, 4
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	var ids []string
	for range nodes {
		ids = append(ids, schedulertest.AddNode(t, s, false))
	}
	schedulertest.Run(t, s)
	web := create(t, s, schedulertest.Spec("web", replicas))
	live := func(r raftstore.Reader) error {
		slots := map[uint32]string{}
		for task := range store.OfService(r, web) {
			if !store.Live(task) {
				continue
			}
			if other := slots[task.GetSlot()]; other != "" {
				return fmt.Errorf("slot %d has the live tasks %s and %s", task.GetSlot(), other, task.GetId())
			}
			slots[task.GetSlot()] = task.GetId()
		}
		return nil
	}
	check := func() {
		t.Helper()
		if err := s.View(func(r *raftstore.ReadTx) error { return live(r) }); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		for i, id := range ids {
			if (i+round)%3 == 0 {
				schedulertest.SetState(t, s, id, down)
				check()
			}
		}
		for _, id := range ids {
			schedulertest.SetState(t, s, id, schedulerpb.NodeState_NODE_STATE_READY)
			check()
		}
	}
	schedulertest.Await(t, s, schedulertest.Running(web, replicas))
	at := quiet(t, s, 500*time.Millisecond)
	if again := quiet(t, s, 500*time.Millisecond); again != at {
		t.Errorf("%d entries were written at rest", again-at)
	}
	check()
}
