package orchestrator

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// rebalance asks for tasks to be moved, or lets that be done without.
func (w *world) rebalance(automatic bool) {
	w.bump(func(s *schedulerpb.Service) {
		if automatic {
			s.Spec.Rebalance = &schedulerpb.RebalanceConfig{Automatic: true}
			return
		}
		s.RebalanceStatus = &schedulerpb.RebalanceStatus{State: store.Moving, StartedAt: w.now.UnixNano()}
	})
}

func (w *world) moved() *schedulerpb.RebalanceStatus { return w.service.GetRebalanceStatus() }

// spread is how many tasks run on each of the nodes.
func (w *world) spread() (least, most int) {
	least = len(w.tasks)
	for id := range w.nodes {
		n := 0
		for _, t := range w.tasks {
			if t.GetNodeId() == id && store.Wanted(t) && store.State(t) == store.Running {
				n++
			}
		}
		least, most = min(least, n), max(most, n)
	}
	return least, most
}

// crowded has six tasks on two nodes, and a third that has just come.
func crowded(t rapid.TB) *world {
	w := newWorld(t, false, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY})
	for id := range w.nodes {
		delete(w.nodes, id)
		break
	}
	w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = 6 })
	w.settle()
	w.addNode()
	w.uneven = true
	w.settle()
	if least, most := w.spread(); least != 0 || most != 3 {
		t.Fatalf("%d to %d tasks on a node though nobody asked to move any", least, most)
	}
	return w
}

func TestRebalanceMovesOneAtATimeAndEnds(t *testing.T) {
	for _, automatic := range []bool{false, true} {
		w := crowded(t)
		w.rebalance(automatic)
		at := w.now
		for range 400 {
			w.now = w.now.Add(time.Second)
			w.reconcile(all)
			leaving := 0
			for _, x := range w.tasks {
				if store.Live(x) && x.GetMakesWayFor() != "" {
					leaving++
				}
			}
			if n := w.running(); n < 6 || leaving > 1 {
				t.Fatalf("%d of 6 serve, %d move", n, leaving)
			}
			w.place()
			w.reconcile(all) // it is on its way
			for id := range w.tasks {
				w.agent(id, false)
			}
		}
		least, most := w.spread()
		if st := w.moved(); least != 2 || most != 2 || st.GetState() != store.MovingCompleted || st.GetMoves() != 2 || st.GetAutomatic() != automatic {
			t.Fatalf("automatic %v: %d to %d on a node, %v", automatic, least, most, st)
		}
		took := time.Unix(0, w.moved().GetCompletedAt()).Sub(at)
		if automatic != (took >= 2*time.Minute) {
			t.Errorf("automatic %v: it took %v", automatic, took)
		}
		w.converged(t)
	}
}

func TestWhatServesStaysWhereItsReplacementDoesNot(t *testing.T) {
	moving := func(t *testing.T) (w *world, old string) {
		w = crowded(t)
		w.rebalance(false)
		w.reconcile(all)
		for id, x := range w.tasks {
			if x.GetMakesWayFor() != "" {
				old = id
			}
		}
		if old == "" {
			t.Fatal("none moves")
		}
		return w, old
	}
	for name, tc := range map[string]struct {
		do   func(w *world, old string)
		want string
	}{
		"no node":  {func(w *world, old string) { w.reconcile(all) }, "no node took"},
		"it fails": {func(w *world, old string) { w.place(); w.agent(w.tasks[old].GetMakesWayFor(), true) }, "did not come up"},
		"its node is lost": {func(w *world, old string) {
			w.place()
			w.nodes[w.tasks[w.tasks[old].GetMakesWayFor()].GetNodeId()].State = schedulerpb.NodeState_NODE_STATE_DOWN
		}, "did not come up"},
	} {
		t.Run(name, func(t *testing.T) {
			w, old := moving(t)
			tc.do(w, old)
			w.reconcile(all)
			w.wantDesired(old, store.Running)
			if st := w.moved(); st.GetState() != store.MovingStopped || !strings.Contains(st.GetMessage(), tc.want) {
				t.Errorf("it says %v", st)
			}
			w.uneven = false
			w.settle()
			w.wantDesired(old, store.Running)
			w.converged(t)
		})
	}
	t.Run("an update comes", func(t *testing.T) {
		w, _ := moving(t)
		w.place()
		w.update()
		w.settle()
		if st := w.moved(); st.GetState() != store.MovingCompleted {
			t.Errorf("it says %v", st)
		}
		w.converged(t)
	})
}

func TestMovesDoNotWaitForEver(t *testing.T) {
	w := crowded(t)
	w.rebalance(false)
	w.end(1, store.Failed) // and goes on failing
	for range 200 {
		w.now = w.now.Add(10 * time.Second)
		w.reconcile(all)
		w.place()
		for id, x := range w.tasks {
			if x.GetSlot() == 1 && store.State(x) < store.Running && x.GetNodeId() != "" {
				w.agent(id, true)
			}
		}
	}
	if st := w.moved(); st.GetState() != store.MovingStopped || st.GetMoves() != 0 || !strings.Contains(st.GetMessage(), "5 of 6 tasks run") {
		t.Errorf("after half an hour: %v", st)
	}
}

// Whatever happens between, moves alone never have fewer tasks serve than before.
func TestMovesNeverCostATask(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := crowded(t)
		w.rebalance(rapid.Bool().Draw(t, "automatic"))
		fails := 0
		t.Repeat(map[string]func(*rapid.T){
			"time":           func(*rapid.T) { w.now = w.now.Add(30 * time.Second) },
			"reconcile":      func(*rapid.T) { w.reconcile(all) },
			"half reconcile": func(t *rapid.T) { w.reconcile(func() bool { return rapid.Bool().Draw(t, "pass") }) },
			"leader change":  func(*rapid.T) { w.memory = NewService() },
			"place":          func(*rapid.T) { w.place() },
			"again":          func(*rapid.T) { w.rebalance(false) },
			"agent": func(t *rapid.T) {
				x := w.tasks[pick(t, w.tasks)]
				if store.State(x) < store.Running && x.GetNodeId() != "" && rapid.Bool().Draw(t, "fails") {
					fails++
					w.agent(x.GetId(), true)
				} else {
					w.agent(x.GetId(), false)
				}
			},
			"add node": func(*rapid.T) {
				if len(w.nodes) < 6 {
					w.addNode()
				}
			},
			"": func(t *rapid.T) {
				if n := w.running(); n < 6 {
					t.Fatalf("%d of 6 serve after %d that did not come up", n, fails)
				}
			},
		})
		w.rebalance(false)
		w.settle()
		if least, most := w.spread(); most-least > 1 && w.moved().GetState() != store.MovingStopped {
			t.Fatalf("%d to %d on a node: %v", least, most, w.moved())
		}
	})
}
