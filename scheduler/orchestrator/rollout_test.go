package orchestrator

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// rollout changes the service's tasks, to be replaced so, as the store does it.
func (w *world) rollout(update, rollback *schedulerpb.UpdateConfig) {
	w.overlaps = w.overlaps || update.GetOrder() == spec.StartFirst || rollback.GetOrder() == spec.StartFirst
	if st := w.service.GetUpdateStatus().GetState(); st != store.Updating && st != store.Paused {
		w.before = w.service.GetRevision()
	}
	w.bump(func(s *schedulerpb.Service) {
		newest := max(s.GetRevision(), s.GetUpdateStatus().GetNewestRevision()) + 1
		s.Spec.Update, s.Spec.Rollback = update, rollback
		s.Spec.Task.Force, s.Revision = newest, newest
		s.UpdateStatus = &schedulerpb.UpdateStatus{State: store.Updating, StartedAt: w.now.UnixNano(), Since: w.now.UnixNano(), NewestRevision: newest}
	})
	w.revs[store.RevisionID("svc", w.service.GetRevision())] = w.service.Spec.Task
}

// advance does what the leader's loop does with a plan's status.
func (w *world) advance(p Plan) {
	if p.ServiceVersion != w.service.GetMeta().GetVersion() {
		return
	}
	w.bump(func(s *schedulerpb.Service) {
		s.UpdateStatus = p.Status
		if p.RollBack != "" {
			s.Revision = w.before
			s.Spec.Task.Force = w.before
			s.UpdateStatus = &schedulerpb.UpdateStatus{State: store.RollbackStarted, Since: w.now.UnixNano(), Message: p.RollBack, NewestRevision: s.UpdateStatus.GetNewestRevision()}
		}
	})
	id := store.RevisionID("svc", w.service.GetRevision())
	if w.revs[id] == nil { // nothing has it any more
		w.revs[id] = w.service.Spec.Task
	}
}

func (w *world) resume() {
	to := map[schedulerpb.UpdateStatus_State]schedulerpb.UpdateStatus_State{store.Paused: store.Updating, store.RollbackPaused: store.RollbackStarted}
	w.now = w.now.Add(time.Nanosecond) // later than all that failed
	if next, ok := to[w.service.GetUpdateStatus().GetState()]; ok {
		w.bump(func(s *schedulerpb.Service) { s.UpdateStatus.State, s.UpdateStatus.Since = next, w.now.UnixNano() })
	}
}

func (w *world) state() schedulerpb.UpdateStatus_State {
	return w.service.GetUpdateStatus().GetState()
}

func (w *world) goesOn() bool {
	return w.state() == store.Updating || w.state() == store.RollbackStarted
}

// step lets everybody do one thing. A new task needs one to get to its node, and one to
// come up there. A task of a revision that is bad fails instead of
// coming up, or, where late, a second after.
func (w *world) step(bad func(*schedulerpb.Task) bool, late bool) {
	w.now = w.now.Add(time.Second)
	waiting := map[string]bool{}
	w.reconcile(all)
	w.least, _ = w.serving()
	for id, t := range w.tasks {
		waiting[id] = t.GetNodeId() == ""
	}
	w.place()
	for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
		t := w.tasks[id]
		if waiting[id] {
			continue // it has its node now, and comes up later
		}
		fails := bad(t) && (!late || store.State(t) == store.Running)
		w.agent(id, fails && store.Live(t))
	}
}

func good(*schedulerpb.Task) bool { return false }

func newer(t *schedulerpb.Task) bool { return t.GetRevision() > 1 }

// serving are the tasks that run and are not asked to stop; live those that may have a
// container.
func (w *world) serving() (serving, live int) {
	for _, t := range w.tasks {
		if store.Wanted(t) && store.State(t) == store.Running {
			serving++
		}
		if store.Live(t) && t.GetNodeId() != "" {
			live++
		}
	}
	return serving, live
}

func config(t *rapid.T, name string, actions ...schedulerpb.UpdateConfig_FailureAction) *schedulerpb.UpdateConfig {
	return &schedulerpb.UpdateConfig{
		Parallelism: rapid.Uint64Range(0, 3).Draw(t, name+" parallelism"), DelayNs: int64(rapid.IntRange(0, 2).Draw(t, name+" delay")) * 1e9,
		MonitorNs: int64(rapid.IntRange(2, 5).Draw(t, name+" monitor")) * 1e9, FailureAction: rapid.SampledFrom(actions).Draw(t, name+" action"),
		Order: rapid.SampledFrom([]schedulerpb.UpdateConfig_Order{spec.StopFirst, spec.StartFirst}).Draw(t, name+" order"),
	}
}

func anyPolicy() *taskpb.RestartPolicy {
	return &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY, DelayNs: 1e9}
}

// most is how many tasks are replaced at a time, of n.
func most(c *schedulerpb.UpdateConfig, n int) int {
	if p := int(c.GetParallelism()); p > 0 && p < n {
		return p
	}
	return n
}

// TestAnUpdateKeepsItsBounds: while nothing fails no more tasks are missing than were
// allowed, and none where the new ones are started first.
func TestAnUpdateKeepsItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		global := rapid.Bool().Draw(t, "global")
		w := newWorld(t, global, anyPolicy())
		n := 3
		if !global {
			n = rapid.IntRange(1, 6).Draw(t, "replicas")
			w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = uint64(n) })
		}
		w.settle()
		c := config(t, "update", spec.ActionPause)
		w.rollout(c, nil)
		changes := rapid.Bool().Draw(t, "leaders change")
		var lastUp time.Time
		up := map[string]bool{}
		for steps := 0; w.goesOn(); steps++ {
			if steps > 200 {
				t.Fatalf("it does not end: %s", w.picture())
			}
			if changes {
				w.memory = NewService()
			}
			before := maps.Clone(w.tasks)
			w.step(good, false)
			serving, live := w.serving()
			serving = min(serving, w.least)
			at := most(c, n)
			if c.Order == spec.StartFirst {
				if serving < n || live > n+at {
					t.Fatalf("%d of %d serve, %d are there, %d at a time: %s", serving, n, live, at, w.picture())
				}
			} else if serving < n-at || live > n {
				t.Fatalf("%d of %d serve, %d are there, %d at a time: %s", serving, n, live, at, w.picture())
			}
			last := lastUp
			for id, task := range w.tasks {
				if task.GetRevision() > 1 && store.State(task) == store.Running && !up[id] {
					up[id], lastUp = true, w.now
				}
				if before[id] == nil && at == 1 && w.now.Sub(last) < time.Duration(c.DelayNs) {
					t.Fatalf("another task had its turn %v after the last came up, the delay is %v", w.now.Sub(last), time.Duration(c.DelayNs))
				}
			}
		}
		if w.state() != store.Completed || w.now.Sub(lastUp) < time.Duration(c.MonitorNs) {
			t.Fatalf("%v, %v after the last task came up", w.service.GetUpdateStatus(), w.now.Sub(lastUp))
		}
		w.settle()
		w.converged(t)
	})
}

// TestAFailedUpdateGoesBack: whenever a new task fails, and leaders change, all tasks of
// before run in the end, and those that did not fail ran all the time where the new ones
// are started first.
func TestAFailedUpdateGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		global := rapid.Bool().Draw(t, "global")
		w := newWorld(t, global, anyPolicy())
		n := 3
		if !global {
			n = rapid.IntRange(1, 5).Draw(t, "replicas")
			w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = uint64(n) })
		}
		w.settle()
		update, rollback := config(t, "update", spec.ActionRollback), config(t, "rollback", spec.ActionPause, spec.ActionContinue)
		if rapid.Bool().Draw(t, "start first") {
			update.Order, rollback.Order = spec.StartFirst, spec.StartFirst
		}
		late := rapid.Bool().Draw(t, "late")
		changes := rapid.Bool().Draw(t, "leaders change")
		w.rollout(update, rollback)
		for steps := 0; w.goesOn(); steps++ {
			if steps > 300 {
				t.Fatalf("it does not end: %v %s", w.service.GetUpdateStatus(), w.picture())
			}
			if changes {
				w.memory = NewService()
			}
			w.step(newer, late)
			if serving, _ := w.serving(); update.Order == spec.StartFirst && rollback.Order == spec.StartFirst && !late && min(serving, w.least) < n {
				t.Fatalf("%d of %d serve: %s", serving, n, w.picture())
			}
		}
		w.settle()
		if w.state() != store.RollbackCompleted || w.service.GetRevision() != 1 {
			t.Fatalf("%v at revision %d", w.service.GetUpdateStatus(), w.service.GetRevision())
		}
		w.converged(t)
	})
}

// TestANodeIsLostInEachStep has a node go down, and come back much later, at each step
// of an update and of one that fails, while another manager leads at each step.
func TestANodeIsLostInEachStep(t *testing.T) {
	for _, order := range []schedulerpb.UpdateConfig_Order{spec.StopFirst, spec.StartFirst} {
		for _, fails := range []bool{false, true} {
			for at := range 25 {
				t.Run(fmt.Sprintf("%v/%v/%d", order, fails, at), func(t *testing.T) {
					w := running(t, 4, anyPolicy())
					c := &schedulerpb.UpdateConfig{Parallelism: 1, DelayNs: 1e9, MonitorNs: 3e9, FailureAction: spec.ActionRollback, Order: order}
					w.rollout(c, &schedulerpb.UpdateConfig{Parallelism: 2, MonitorNs: 2e9, Order: order})
					want, revision, bad := store.Completed, uint64(2), good
					if fails {
						want, revision = store.RollbackCompleted, 1
						// The third to come up, so that there is a way back.
						bad = func(x *schedulerpb.Task) bool { return newer(x) && x.GetSlot() == 3 }
					}
					for steps := 0; w.goesOn() || steps <= at; steps++ {
						if steps > 200 {
							t.Fatalf("it does not end: %v %s", w.service.GetUpdateStatus(), w.picture())
						}
						if steps == at {
							w.nodes[slices.Sorted(maps.Keys(w.nodes))[1]].State = down
						}
						w.memory = NewService()
						w.step(bad, false)
					}
					for _, n := range w.nodes {
						n.State = schedulerpb.NodeState_NODE_STATE_READY
					}
					w.settle()
					if w.state() != want || w.service.GetRevision() != revision {
						t.Fatalf("%v at revision %d: %s", w.service.GetUpdateStatus(), w.service.GetRevision(), w.picture())
					}
					w.converged(t)
				})
			}
		}
	}
}
