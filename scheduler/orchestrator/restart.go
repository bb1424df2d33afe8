package orchestrator

import (
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// replace makes a new task where the group has none that is live, but for one
// that leaves, and should have one.
func (r *round) replace(g *group, creatable bool) {
	if slices.ContainsFunc(g.items, func(it *item) bool { return it.live() && !it.leaving }) {
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
		r.create(g, r.in.Now.UnixNano()+r.delay(g, policy), restarts)
	}
}

// delay is the policy's, doubled for each failure in a row beyond the first
// two: what does not come up is tried ever more seldom, down to where the
// history that is kept shows no more of the row. A policy that bounds the
// attempts needs no more than that.
func (r *round) delay(g *group, p *taskpb.RestartPolicy) int64 {
	delay := p.GetDelayNs()
	if p.GetMaxAttempts() > 0 {
		return delay
	}
	failures := 0
	for _, it := range slices.Backward(g.items) {
		if it.gone {
			continue
		}
		if !r.failedSoon(it.t, r.revision(g)) {
			break
		}
		failures++
	}
	for most := max(delay, int64(maxDelay)); failures > 2 && delay < most; failures-- {
		delay = min(2*delay, most)
	}
	return delay
}

// failedSoon reports whether a task of the current revision failed before it
// could be said to work. It goes by the store's clock: the node's may be wrong.
func (r *round) failedSoon(t *schedulerpb.Task, current uint64) bool {
	if s := store.State(t); t.GetRevision() != current || s != store.Failed && s != store.Rejected {
		return false
	}
	begun := max(t.GetMeta().GetCreatedAt(), t.GetNotBefore())
	return t.GetMeta().GetUpdatedAt()-begun < int64(worksAfter)
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
