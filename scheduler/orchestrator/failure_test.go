package orchestrator

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestWhatAFailureDoes(t *testing.T) {
	one := func(x *schedulerpb.Task) bool { return newer(x) && x.GetSlot() == 1 }
	for name, tc := range map[string]struct {
		c       *schedulerpb.UpdateConfig
		bad     func(*schedulerpb.Task) bool
		state   schedulerpb.UpdateStatus_State
		updated int // tasks of the new revision that run
		serving int
	}{
		"pause":                      {&schedulerpb.UpdateConfig{Parallelism: 1}, newer, store.Paused, 0, 3},
		"pause of two":               {&schedulerpb.UpdateConfig{Parallelism: 2}, newer, store.Paused, 0, 2},
		"pause, start first":         {&schedulerpb.UpdateConfig{Parallelism: 2, Order: spec.StartFirst}, newer, store.Paused, 0, 4},
		"within the ratio":           {&schedulerpb.UpdateConfig{Parallelism: 1, MaxFailureRatio: 0.25}, one, store.Completed, 3, 3},
		"beyond the ratio":           {&schedulerpb.UpdateConfig{Parallelism: 1, MaxFailureRatio: 0.25}, newer, store.Paused, 0, 2},
		"continue":                   {&schedulerpb.UpdateConfig{Parallelism: 1, FailureAction: spec.ActionContinue}, newer, store.Completed, 0, 0},
		"continue, start first":      {&schedulerpb.UpdateConfig{Parallelism: 1, FailureAction: spec.ActionContinue, Order: spec.StartFirst}, newer, store.Completed, 0, 4},
		"continue past one":          {&schedulerpb.UpdateConfig{Parallelism: 1, FailureAction: spec.ActionContinue}, one, store.Completed, 3, 3},
		"continue past one, started": {&schedulerpb.UpdateConfig{Parallelism: 1, FailureAction: spec.ActionContinue, Order: spec.StartFirst}, one, store.Completed, 3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			w := running(t, 4, anyPolicy())
			w.rollout(tc.c, nil)
			for range 60 {
				w.step(tc.bad, false)
			}
			updated := 0
			for _, x := range w.tasks {
				if newer(x) && store.Wanted(x) && store.State(x) == store.Running {
					updated++
				}
			}
			if serving, _ := w.serving(); w.state() != tc.state || updated != tc.updated || serving != tc.serving {
				t.Errorf("%v, %d updated and %d serve: %s", w.service.GetUpdateStatus(), updated, serving, w.picture())
			}
		})
	}
}

// TestWhatIsWatched: an end counts for so long after the start, and not after; a task
// that is there to end has not failed, nor has one that went with its node.
func TestWhatIsWatched(t *testing.T) {
	for name, tc := range map[string]struct {
		after     time.Duration
		state     schedulerpb.TaskState
		condition taskpb.RestartPolicy_Condition
		paused    bool
	}{
		"in time":                  {4 * time.Second, store.Failed, taskpb.RestartPolicy_CONDITION_ANY, true},
		"after":                    {7 * time.Second, store.Failed, taskpb.RestartPolicy_CONDITION_ANY, false},
		"it ended":                 {time.Second, store.Complete, taskpb.RestartPolicy_CONDITION_ANY, true},
		"it ended as it should":    {time.Second, store.Complete, taskpb.RestartPolicy_CONDITION_ON_FAILURE, false},
		"it failed for good":       {time.Second, store.Failed, taskpb.RestartPolicy_CONDITION_NONE, true},
		"its node could not begin": {time.Second, store.Rejected, taskpb.RestartPolicy_CONDITION_ANY, true},
		"its node is gone":         {time.Second, store.Orphaned, taskpb.RestartPolicy_CONDITION_ANY, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := running(t, 1, &taskpb.RestartPolicy{Condition: tc.condition})
			// The delay has the update wait for longer than it watches.
			w.rollout(&schedulerpb.UpdateConfig{Parallelism: 1, MonitorNs: 5e9}, nil)
			w.step(good, false) // stopped
			w.step(good, false) // made
			w.step(good, false) // up
			w.now = w.now.Add(tc.after)
			w.end(1, tc.state)
			w.reconcile(all)
			if got := w.state() == store.Paused; got != tc.paused {
				t.Errorf("%v: %s", w.service.GetUpdateStatus(), w.picture())
			}
		})
	}
}

// TestAnUpdateDuringAnother: the newest is what is reached, and a failure goes back to
// what worked, not to what was left half way.
func TestAnUpdateDuringAnother(t *testing.T) {
	for _, order := range []schedulerpb.UpdateConfig_Order{spec.StopFirst, spec.StartFirst} {
		for during := range 12 {
			w := running(t, 3, anyPolicy())
			c := &schedulerpb.UpdateConfig{Parallelism: 1, MonitorNs: 2e9, FailureAction: spec.ActionRollback, Order: order}
			w.rollout(c, c)
			for range during {
				w.step(good, false)
			}
			done := !w.goesOn()
			w.rollout(c, c)
			for range 100 {
				w.step(func(x *schedulerpb.Task) bool { return x.GetRevision() == 3 }, false)
				if serving, _ := w.serving(); order == spec.StartFirst && min(serving, w.least) < 3 {
					t.Fatalf("%d serve: %s", serving, w.picture())
				}
			}
			want := uint64(1)
			if done {
				want = 2
			}
			w.settle()
			if w.state() != store.RollbackCompleted || w.service.GetRevision() != want {
				t.Errorf("%d steps into the first: %v at revision %d", during, w.service.GetUpdateStatus(), w.service.GetRevision())
			}
			w.converged(t)
			// And a third, during nothing.
			w.rollout(c, c)
			for range 100 {
				w.step(good, false)
			}
			if w.state() != store.Completed || w.service.GetRevision() != 4 {
				t.Errorf("%v at revision %d", w.service.GetUpdateStatus(), w.service.GetRevision())
			}
		}
	}
}

// TestAPausedUpdateGoesOn when somebody says so, also where what failed has given up.
func TestAPausedUpdateGoesOn(t *testing.T) {
	for _, order := range []schedulerpb.UpdateConfig_Order{spec.StopFirst, spec.StartFirst} {
		w := running(t, 3, anyPolicy())
		w.rollout(&schedulerpb.UpdateConfig{Parallelism: 1, Order: order}, nil)
		for range 10 {
			w.step(newer, false)
		}
		if w.state() != store.Paused {
			t.Fatal(w.service.GetUpdateStatus())
		}
		w.resume()
		for range 30 {
			w.step(good, false)
		}
		w.settle()
		if w.state() != store.Completed {
			t.Errorf("%v: %s", w.service.GetUpdateStatus(), w.picture())
		}
		w.converged(t)
	}
}

// TestScaledWhileItIsUpdated: what is more and what is less is neither waited for nor
// missed.
func TestScaledWhileItIsUpdated(t *testing.T) {
	for _, to := range []uint64{0, 1, 6} {
		for at := range 8 {
			w := running(t, 3, anyPolicy())
			w.rollout(&schedulerpb.UpdateConfig{Parallelism: 1, MonitorNs: 1e9, Order: spec.StartFirst}, nil)
			for range at {
				w.step(good, false)
			}
			w.bump(func(s *schedulerpb.Service) { s.Spec.GetReplicated().Replicas = to })
			w.settle()
			if w.state() != store.Completed {
				t.Errorf("to %d at step %d: %v: %s", to, at, w.service.GetUpdateStatus(), w.picture())
			}
			w.converged(t)
			w.service = nil // and removed
			w.settle()
			w.converged(t)
		}
	}
}
