package scheduler_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// TestFloodWhileNodesFlap has 64 clients make 200 services, and scale or remove
// some, while five nodes go down and up. At every change a slot has one wanted
// task at most, and in the end every service runs exactly what it should.
func TestFloodWhileNodesFlap(t *testing.T) {
	const services, clients, flaps = 200, 64, 60
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	var nodes []string
	for range 5 {
		nodes = append(nodes, schedulertest.AddNode(t, s, false))
	}
	schedulertest.Run(t, s)
	stopWatch := onePerSlot(t, s)

	g, ctx := errgroup.WithContext(t.Context())
	work := make(chan int)
	g.Go(func() error {
		defer close(work)
		for i := range services {
			select {
			case work <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	want := make([]int, services)
	ids := make([]string, services)
	for range clients {
		g.Go(func() error {
			for i := range work {
				n := rand.IntN(6)
				id, err := store.CreateService(ctx, s, schedulertest.Spec(fmt.Sprintf("s%d", i), uint64(n)))
				if err != nil {
					return err
				}
				switch rand.IntN(4) {
				case 0:
					n = rand.IntN(6)
					err = rescale(ctx, s, id, n)
				case 1:
					n = 0
					err = store.RemoveService(ctx, s, id)
				}
				if err != nil {
					return err
				}
				ids[i], want[i] = id, n
			}
			return nil
		})
	}
	g.Go(func() error {
		for i := range flaps {
			state := schedulerpb.NodeState_NODE_STATE_DOWN
			if i%2 == 1 {
				state = schedulerpb.NodeState_NODE_STATE_READY
			}
			node := nodes[i/2%len(nodes)]
			if err := s.Update(ctx, func(tx *raftstore.Tx) error { return store.SetNodeState(tx, node, state, "", "") }); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		schedulertest.Await(t, s, schedulertest.Running(id, want[i]))
	}
	stopWatch()
	if err := s.View(func(r *raftstore.ReadTx) error {
		for i, id := range ids {
			slots := map[uint32]bool{}
			for task := range store.OfService(r, id) {
				if store.Wanted(task) {
					slots[task.GetSlot()] = true
				}
			}
			if c := store.CountOf(r, id); len(slots) != want[i] || c.Running != uint64(want[i]) {
				t.Errorf("service %d has %d slots and counts %+v, %d are wanted", i, len(slots), c, want[i])
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func rescale(ctx context.Context, s *raftstore.Store, id string, n int) error {
	var svc *schedulerpb.Service
	if err := s.View(func(r *raftstore.ReadTx) error { svc, _ = store.Services.Get(r, id); return nil }); err != nil {
		return err
	}
	sp := schedulertest.Spec(svc.GetSpec().GetName(), uint64(n))
	return store.UpdateService(ctx, s, id, svc.GetMeta().GetVersion(), sp)
}

// onePerSlot fails the test where a slot has two wanted tasks after any entry.
// The returned function ends it.
func onePerSlot(t *testing.T, s *raftstore.Store) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Watch(func(*raftstore.ReadTx) error { return nil }, store.Tasks)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer w.Close()
		wanted := map[string]string{} // slot → task
		seen := 0
		defer func() { t.Logf("%d changes of tasks", seen) }()
		for {
			events, err := w.Next(ctx)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the watch ended: %v", err)
				}
				return
			}
			for len(events) > 0 {
				// What one entry does is one change, in whatever order.
				n := slices.IndexFunc(events, func(e raftstore.Event) bool { return e.Index != events[0].Index })
				if n < 0 {
					n = len(events)
				}
				for _, e := range events[:n] {
					seen++
					if old, now, _ := store.Tasks.Event(e); old != nil && !store.Wanted(cmp.Or(now, gone)) && wanted[slotOf(old)] == old.GetId() {
						delete(wanted, slotOf(old))
					}
				}
				for _, e := range events[:n] {
					if _, now, _ := store.Tasks.Event(e); now != nil && store.Wanted(now) {
						if other := cmp.Or(wanted[slotOf(now)], now.GetId()); other != now.GetId() {
							t.Errorf("slot %s has the tasks %s and %s", slotOf(now), other, now.GetId())
						}
						wanted[slotOf(now)] = now.GetId()
					}
				}
				events = events[n:]
			}
		}
	}()
	return func() { cancel(); <-done }
}

func slotOf(t *schedulerpb.Task) string {
	return fmt.Sprint(store.SlotKey(t.GetServiceId(), t.GetSlot(), t.GetTargetNodeId()), " ", t.GetIteration())
}

var gone = &schedulerpb.Task{Status: &schedulerpb.TaskStatus{State: store.Remove}}
