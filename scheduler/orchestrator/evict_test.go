package orchestrator

import (
	"testing"
	"time"

	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// draining is a service of one task whose node is being drained, at the moment
// when the replacement was made and has no node yet.
func draining(t *testing.T, by time.Duration) (w *world, old string) {
	w = running(t, 1, &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY})
	task := w.live(1)
	n := w.nodes[task.GetNodeId()]
	n.Availability = store.Drain
	if by > 0 {
		n.DrainBy = w.now.Add(by).UnixNano()
	}
	w.reconcile(all)
	return w, task.GetId()
}

// beside is the live task that is not the old one.
func (w *world) beside(old string) *schedulerpb.Task {
	w.t.Helper()
	var found *schedulerpb.Task
	for id, t := range w.tasks {
		if id != old && store.Live(t) {
			if found != nil {
				w.t.Fatalf("%v and %v are both beside the old one", found, t)
			}
			found = t
		}
	}
	return found
}

func (w *world) wantDesired(id string, s schedulerpb.TaskState) {
	w.t.Helper()
	if got := w.tasks[id].GetDesired(); got != s {
		w.t.Fatalf("the old task is told %s, want %s", store.StateName(got), store.StateName(s))
	}
}

func TestADrainedTaskLeavesWhenItsReplacementRuns(t *testing.T) {
	w, old := draining(t, 0)
	w.wantDesired(old, store.Running)
	w.place()
	w.reconcile(all)
	w.wantDesired(old, store.Running) // it is on its way, and no more
	next := w.beside(old)
	if next == nil || next.GetNodeId() == "" || next.GetNodeId() == w.tasks[old].GetNodeId() {
		t.Fatalf("the replacement is %v", next)
	}
	w.agent(next.GetId(), false)
	w.reconcile(all)
	w.wantDesired(old, store.Shutdown)
	w.agent(old, false)
	w.settle()
	w.want("(1:r1 shutdown) 1:r1 running")
}

func TestADrainIsNotHeldUp(t *testing.T) {
	t.Run("no node takes the replacement", func(t *testing.T) {
		w, old := draining(t, 0)
		w.reconcile(all) // it was not placed
		w.wantDesired(old, store.Shutdown)
	})
	t.Run("the replacement fails", func(t *testing.T) {
		w, old := draining(t, 0)
		w.place()
		w.agent(w.beside(old).GetId(), true)
		w.reconcile(all)
		w.wantDesired(old, store.Shutdown)
	})
	t.Run("it does not serve itself", func(t *testing.T) {
		w := newWorld(t, false, nil)
		w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = 1 })
		w.reconcile(all)
		w.place()
		task := w.live(1)
		w.nodes[task.GetNodeId()].Availability = store.Drain
		w.reconcile(all)
		w.wantDesired(task.GetId(), store.Shutdown)
	})
	t.Run("deadline", func(t *testing.T) {
		w, old := draining(t, time.Minute)
		w.place()
		in := w.input()
		if again := w.memory.Plan(in).Again; !again.Equal(w.now.Add(time.Minute - defaultGrace)) {
			t.Fatalf("to be planned again at %v", again)
		}
		w.now = w.now.Add(time.Minute - defaultGrace)
		w.reconcile(all) // nothing was touched
		w.wantDesired(old, store.Shutdown)
	})
}

func TestADrainTakenBack(t *testing.T) {
	w, old := draining(t, 0)
	w.place()
	next := w.beside(old).GetId()
	w.nodes[w.tasks[old].GetNodeId()].Availability = store.Active
	w.reconcile(all)
	w.wantDesired(old, store.Running)
	if got := w.tasks[next].GetDesired(); got != store.Shutdown {
		t.Fatalf("the one too many is told %s", store.StateName(got))
	}
}

// A node that enters FIPS mode cuts the networks of what runs there: that is stopped
// and made elsewhere, and what needs no mesh stays.
func TestFIPSModeEvictsWhatItCuts(t *testing.T) {
	for _, meshed := range []bool{true, false} {
		w := newWorld(t, false, nil)
		w.bump(func(s *schedulerpb.Service) {
			s.Spec.GetReplicated().Replicas = 1
			if meshed {
				s.Spec.Task.Ports = []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}
			}
		})
		w.settle()
		old := w.live(1)
		w.nodes[old.GetNodeId()].Description = &schedulerpb.NodeDescription{Features: []*taskpb.Feature{{Name: meshspec.FIPSFeature, Present: true}}}
		w.reconcile(all)
		if !meshed {
			w.wantDesired(old.GetId(), store.Running)
			continue
		}
		w.wantDesired(old.GetId(), store.Shutdown)
		w.agent(old.GetId(), false)
		w.settle()
		if now := w.live(1); now.GetNodeId() == "" || now.GetNodeId() == old.GetNodeId() || store.State(now) != store.Running {
			t.Errorf("in its place is %v", now)
		}
	}
}
