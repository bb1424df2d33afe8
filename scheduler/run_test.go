package scheduler_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

const down = schedulerpb.NodeState_NODE_STATE_DOWN

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func create(t testing.TB, s *raftstore.Store, sp *schedulerpb.ServiceSpec) string {
	t.Helper()
	id, err := store.CreateService(t.Context(), s, sp)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func update(t testing.TB, s *raftstore.Store, id string, change func(*schedulerpb.ServiceSpec)) {
	t.Helper()
	var old *schedulerpb.Service
	if err := s.View(func(r *raftstore.ReadTx) (err error) {
		old, err = store.ResolveService(r, id)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sp := proto.CloneOf(old.GetSpec())
	change(sp)
	if err := store.UpdateService(t.Context(), s, id, old.GetMeta().GetVersion(), sp); err != nil {
		t.Fatal(err)
	}
}

// perNode counts the running tasks of each node.
func perNode(t testing.TB, s *raftstore.Store) map[string]int {
	t.Helper()
	out := map[string]int{}
	if err := s.View(func(r *raftstore.ReadTx) error {
		for task := range store.Tasks.All(r) {
			if store.State(task) == store.Running {
				out[task.GetNodeId()]++
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSpreadsAndMovesWhatADownNodeRan(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	var nodes []string
	for range 4 {
		nodes = append(nodes, schedulertest.AddNode(t, s, false))
	}
	schedulertest.Run(t, s)
	sp := schedulertest.Spec("web", 20)
	// Neither condition nor delay of the policy applies to tasks lost with a node.
	sp.Task.Restart = &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_NONE, DelayNs: 3600e9}
	web := create(t, s, sp)
	schedulertest.Await(t, s, schedulertest.Running(web, 20))
	for id, n := range perNode(t, s) {
		if n != 5 {
			t.Errorf("node %s runs %d tasks, 5 wanted", id, n)
		}
	}
	schedulertest.SetState(t, s, nodes[0], down)
	schedulertest.Await(t, s, schedulertest.Running(web, 20))
	if err := s.View(func(r *raftstore.ReadTx) error {
		for task := range store.OfService(r, web) {
			if task.GetNodeId() == nodes[0] && (store.State(task) != store.Orphaned || task.GetDesired() < store.Shutdown) {
				return fmt.Errorf("task on the lost node: %v", task)
			}
			if task.GetNotBefore() != 0 {
				return fmt.Errorf("a moved task waits: %v", task)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestGlobalFollowsNodes(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	manager := schedulertest.AddNode(t, s, true)
	schedulertest.Run(t, s)
	svc := create(t, s, schedulertest.GlobalSpec("agent"))
	schedulertest.Await(t, s, schedulertest.Running(svc, 1))
	// The first worker drains the manager for good.
	worker := schedulertest.AddNode(t, s, false)
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for task := range store.OfService(r, svc) {
			if store.Live(task) && task.GetNodeId() == manager {
				return errors.New("the manager still runs a task")
			}
		}
		return schedulertest.Running(svc, 1)(r)
	})
	second := schedulertest.AddNode(t, s, false)
	schedulertest.Await(t, s, schedulertest.Running(svc, 2))
	avail := func(id string, a schedulerpb.Availability) {
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			return store.UpdateNodeSpec(tx, id, store.NodeUpdate{Availability: a})
		})
	}
	avail(worker, store.Drain)
	schedulertest.Await(t, s, schedulertest.Running(svc, 1))
	avail(manager, store.Active) // explicit active wins
	schedulertest.Await(t, s, schedulertest.Running(svc, 2))
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.RemoveNode(tx, second) })
	schedulertest.Await(t, s, schedulertest.Running(svc, 1))
}

func TestPendingTasksSayWhyAndGoOn(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	node := schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	sp := schedulertest.Spec("db", 1)
	sp.Task.Constraints = []string{"node.labels.disk == ssd"}
	db := create(t, s, sp)
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for task := range store.OfService(r, db) {
			if task.GetStatus().GetMessage() == "no suitable node (1 lacks label disk=ssd)" && store.State(task) == store.Pending {
				return nil
			}
		}
		return errors.New("no task says why it waits")
	})
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.UpdateNodeSpec(tx, node, store.NodeUpdate{LabelAdd: map[string]string{"disk": "ssd"}})
	})
	schedulertest.Await(t, s, schedulertest.Running(db, 1))
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.UpdateNodeSpec(tx, node, store.NodeUpdate{LabelRemove: []string{"disk"}})
	})
	schedulertest.Await(t, s, schedulertest.Running(db, 0))
}

func TestRemovalLeavesNothing(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	nodes := []string{schedulertest.AddNode(t, s, false), schedulertest.AddNode(t, s, false)}
	schedulertest.Run(t, s)
	web := create(t, s, schedulertest.Spec("web", 6))
	schedulertest.Await(t, s, schedulertest.Running(web, 6))
	update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	schedulertest.SetState(t, s, nodes[1], down)
	if err := store.RemoveService(t.Context(), s, web); err != nil {
		t.Fatal(err)
	}
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		if n, m := store.Tasks.Count(r), store.Revisions.Count(r); n+m > 0 {
			return fmt.Errorf("%d tasks and %d revisions are left", n, m)
		}
		return nil
	})
}

// TestRollingUpdate looks at every change: of four replicas never fewer than
// three run the old or the new revision.
func TestRollingUpdate(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	web := create(t, s, schedulertest.Spec("web", 4))
	schedulertest.Await(t, s, schedulertest.Running(web, 4))
	running := 4
	w, err := s.Watch(func(*raftstore.ReadTx) error { return nil }, store.Tasks)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	fresh := 0
	for fresh < 4 {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			old, now, _ := store.Tasks.Event(e)
			was := old != nil && store.State(old) == store.Running && store.Wanted(old)
			is := now != nil && store.State(now) == store.Running && store.Wanted(now)
			switch {
			case was && !is:
				running--
			case is && !was:
				running++
				if now.GetRevision() == 2 {
					fresh++
				}
			}
			if running < 3 {
				t.Fatalf("%d tasks are meant to run during the update", running)
			}
		}
	}
}

func TestScaleDoesNotReplace(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	web := create(t, s, schedulertest.Spec("web", 5))
	schedulertest.Await(t, s, schedulertest.Running(web, 5))
	update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 2 })
	schedulertest.Await(t, s, schedulertest.Running(web, 2))
	update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 4 })
	schedulertest.Await(t, s, schedulertest.Running(web, 4))
	slots := map[uint32]bool{}
	if err := s.View(func(r *raftstore.ReadTx) error {
		for task := range store.OfService(r, web) {
			slots[task.GetSlot()] = true
			if task.GetRevision() != 1 {
				return fmt.Errorf("scaling made revision %d", task.GetRevision())
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for slot := uint32(1); slot <= 4; slot++ {
		if !slots[slot] {
			t.Errorf("slot %d is not in use: %v", slot, slots)
		}
	}
}

// TestLeaderChangesHalfWay stops the loop after any number of changes and goes
// on with a new one that knows nothing.
func TestLeaderChangesHalfWay(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	for range 3 {
		schedulertest.AddNode(t, s, false)
	}
	ids := map[string]int{}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		name := fmt.Sprintf("s%d", n)
		replicas := rapid.IntRange(0, 300).Draw(rt, "replicas")
		id := create(t, s, schedulertest.Spec(name, uint64(replicas)))
		ids[id] = replicas
		if rapid.Bool().Draw(rt, "force") {
			update(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
		}
		for range rapid.IntRange(1, 3).Draw(rt, "leaders") {
			err := scheduler.Interrupted(t.Context(), scheduler.Config{Store: s, Logger: slog.New(slog.DiscardHandler)},
				rapid.IntRange(0, 2).Draw(rt, "rounds"), rapid.IntRange(0, 400).Draw(rt, "writes"))
			if err != nil {
				rt.Fatal(err)
			}
		}
		if len(ids) < 4 && rapid.Bool().Draw(rt, "go on") {
			return
		}
		stop := schedulertest.Run(t, s)
		for id, want := range ids {
			schedulertest.Await(t, s, schedulertest.Running(id, want))
			if err := store.RemoveService(t.Context(), s, id); err != nil {
				rt.Fatal(err)
			}
			delete(ids, id)
		}
		schedulertest.Await(t, s, func(r raftstore.Reader) error {
			if n := store.Tasks.Count(r); n > 0 {
				return fmt.Errorf("%d tasks are left", n)
			}
			return nil
		})
		stop()
	})
}

// BenchmarkConverge is a service from nothing to all running, on 100 nodes whose
// agents do at once what they are told.
func BenchmarkConverge(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := schedulertest.NewStore(b)
				for range 100 {
					schedulertest.AddNode(b, s, false)
				}
				stopAgents, stop := schedulertest.Agents(b, s), schedulertest.Run(b, s)
				b.StartTimer()
				id := create(b, s, schedulertest.Spec("web", uint64(n)))
				schedulertest.Await(b, s, schedulertest.Running(id, n))
				b.StopTimer()
				stop()
				stopAgents()
				b.StartTimer()
			}
		})
	}
}

func hostPort(port uint32) *taskpb.Port {
	return &taskpb.Port{Published: port, Target: 80, Mode: taskpb.Port_MODE_HOST}
}

// A node that fails its tasks at once does not get the next before the restart
// delay is over, and then it does without anything else having changed.
func TestTheLeaderKeepsTheRestartDelay(t *testing.T) {
	s := schedulertest.NewStore(t)
	node := schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	sp := schedulertest.Spec("web", 1)
	const delay = time.Second
	sp.Task.Restart = &taskpb.RestartPolicy{DelayNs: int64(delay)}
	web := create(t, s, sp)
	placed := func(not string) (found *schedulerpb.Task) {
		schedulertest.Await(t, s, func(r raftstore.Reader) error {
			for task := range store.OfService(r, web) {
				if task.GetId() != not && task.GetNodeId() == node && store.Live(task) {
					found = task
					return nil
				}
			}
			return errors.New("no task has a node")
		})
		return found
	}
	first := placed("")
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.AdvanceTask(tx, node, first.GetId(), &schedulerpb.TaskStatus{State: store.Rejected, Error: "no"})
	})
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for task := range store.OfService(r, web) {
			if store.Live(task) && task.GetNodeId() == "" && task.GetStatus().GetMessage() == "waiting for the restart delay" {
				return nil
			}
		}
		return errors.New("no task waits")
	})
	second := placed(first.GetId())
	if waited := time.Duration(second.GetStatus().GetAt() - second.GetMeta().GetCreatedAt()); waited < delay-100*time.Millisecond {
		t.Errorf("the next task had a node after %v, its delay is %v", waited, delay)
	}
}
