package orchestrator

import (
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// replace makes a new task where the group has none that is live and should
// have one.
func (r *round) replace(g *group, creatable bool) {
	if slices.ContainsFunc(g.items, (*item).live) {
		return
	}
	last := r.latest(g)
	switch {
	case last == nil || last.t.GetRevision() != r.in.Service.GetRevision():
		if creatable {
			r.create(g, 0, nil)
		}
		return
	case !endedByItself(last.t):
		if creatable { // what was counted before still counts
			r.create(g, 0, last.t.GetRestartsAt())
		}
		return
	case last.t.GetSettled():
		return
	}
	policy := r.in.Service.GetSpec().GetTask().GetRestart()
	again, restarts := restart(policy, last.t, r.in.Now)
	switch {
	case !again:
		last.edit().Settled = true
	case creatable:
		r.create(g, r.in.Now.UnixNano()+policy.GetDelayNs(), restarts)
	}
}

func (r *round) latest(g *group) *item {
	for _, it := range slices.Backward(g.items) {
		if !it.gone {
			return it
		}
	}
	return nil
}

// endedByItself tells an end that the restart policy governs from one that the
// cluster caused.
func endedByItself(t *schedulerpb.Task) bool {
	switch store.State(t) {
	case store.Complete, store.Failed, store.Rejected:
		return true
	}
	return false
}

// restart asks the policy whether a task that ended by itself is replaced. It
// returns the restarts the new task has to remember.
func restart(p *taskpb.RestartPolicy, last *schedulerpb.Task, now time.Time) (bool, []int64) {
	switch p.GetCondition() {
	case taskpb.RestartPolicy_CONDITION_NONE:
		return false, nil
	case taskpb.RestartPolicy_CONDITION_ON_FAILURE:
		if store.State(last) == store.Complete {
			return false, nil
		}
	}
	if p.GetMaxAttempts() == 0 {
		return true, nil
	}
	var counted []int64
	for _, at := range last.GetRestartsAt() {
		if p.GetWindowNs() == 0 || at > now.UnixNano()-p.GetWindowNs() {
			counted = append(counted, at)
		}
	}
	if uint64(len(counted)) >= p.GetMaxAttempts() {
		return false, nil
	}
	return true, append(counted, now.UnixNano())
}
