package orchestrator

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// renew stops a task of an older revision that does not run: it serves nobody,
// and replacing it at once is how an update mends a service that cannot start.
func (r *round) renew(g *group) {
	it := g.main()
	if it != nil && !r.isCurrent(it.t) && store.State(it.t) != store.Running {
		r.stop(it)
	}
}

func (r *round) isCurrent(t *schedulerpb.Task) bool {
	return t.GetRevision() == r.in.Service.GetRevision()
}

// overlap keeps, where new tasks are started first, the one that serves until the one
// beside it does, also while that fails and is made again.
func (r *round) overlap(g *group) {
	if !r.rule.startFirst || !r.opened(g) {
		return
	}
	var serves *item
	for _, it := range g.items {
		switch runs := it.wanted() && store.State(it.t) == store.Running; {
		case runs && r.isCurrent(it.t):
			return
		case runs && serves == nil:
			serves = it
		}
	}
	if serves != nil {
		serves.leaving = true
	}
}

// opened reports whether the group has had its turn in this update: there is a task of
// the current revision, or was one.
func (r *round) opened(g *group) bool {
	return slices.ContainsFunc(g.items, func(it *item) bool {
		return !it.gone && r.isCurrent(it.t) && (it.live() || it.t.GetMeta().GetCreatedAt() >= r.rule.since)
	})
}

// update moves running tasks to the current revision, as many at a time as the rule
// says: each is stopped and replaced, or another is started beside it.
func (s *Service) update(r *round) {
	if s.rule.paused || len(s.stale) == 0 {
		return
	}
	for _, p := range s.turn(min(s.rule.parallelism-s.busy, maxLook)) {
		g := r.look(p)
		switch it := g.main(); {
		case it == nil:
		case s.rule.startFirst && r.creatable(g):
			r.create(g, 0, nil)
			r.overlap(g)
		default:
			r.stop(it)
		}
		s.sum(r, g)
	}
}

// turn gives the first n groups that run a task of an older revision.
func (s *Service) turn(n int) []place {
	if n <= 0 {
		return nil
	}
	var first []place // sorted
	for p := range s.stale {
		if len(first) == n && p.compare(first[n-1]) > 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(first, p, place.compare)
		first = slices.Insert(first, i, p)
		first = first[:min(n, len(first))]
	}
	return first
}

// returning reports whether a group without a wanted task is about to have one.
func (r *round) returning(g *group) bool {
	if slices.ContainsFunc(g.items, (*item).live) {
		return true // still stopping
	}
	last := r.latest(g)
	return r.creatable(g) && !(last != nil && last.t.GetSettled() && r.isCurrent(last.t))
}

// unfinished reports whether a task of the current revision is still on its way, or what
// it took the place of is. One that waits for a node counts only where it took the place
// of a task that had one: else a service that was short of resources before the update
// could never be updated.
func (r *round) unfinished(g *group, it *item) bool {
	if store.State(it.t) >= store.Running {
		return r.rule.startFirst && g.stopping(it)
	}
	if it.t.GetNodeId() != "" {
		return true
	}
	return slices.ContainsFunc(g.items, func(o *item) bool {
		return !o.gone && o.t.GetNodeId() != "" && o.t.GetRevision() != it.t.GetRevision()
	})
}

// stopping reports whether there is a task beside it that was asked to stop and has not.
func (g *group) stopping(it *item) bool {
	return slices.ContainsFunc(g.items, func(o *item) bool { return o != it && o.live() && !o.wanted() })
}

// progress says where the group stands in the update.
func (r *round) progress(g *group, s *summary) {
	failed, failedAt := r.failure(g)
	s.failed = failed != nil
	var since int64 // when the group was done with; 0: long ago
	it := g.main()
	switch {
	case it == nil:
		s.busy = r.returning(g)
		s.open = s.busy
	case r.isCurrent(it.t):
		s.busy = r.unfinished(g, it)
		// For one that there is no room for nobody waits.
		s.open = s.busy || store.State(it.t) < store.Running && (it.t.GetNodeId() != "" || it.t.GetNotBefore() > 0)
		since = it.t.GetRunningAt()
		if left := since + int64(r.rule.monitor) - r.in.Now.UnixNano(); r.rule.active && since > 0 && left > 0 {
			s.open = true
			r.wake(g, time.Unix(0, since).Add(r.rule.monitor))
		}
	case it.leaving:
		s.busy = !r.latest(g).t.GetSettled() // else the one beside it has failed for good
		s.open = s.busy
	case store.State(it.t) == store.Running:
		s.busy = r.rule.startFirst && g.stopping(it)
		s.stale = !s.busy
		s.open = true
	default:
		s.busy = it.t.GetNodeId() != ""
		s.open = s.busy
	}
	if !r.rule.active {
		return
	}
	if s.failed && (it == nil || store.State(it.t) != store.Running || it.leaving) {
		// It goes on trying, and the others do not wait for it.
		s.busy, s.open, since = false, false, failedAt
	}
	if next := since + int64(r.rule.delay); r.rule.delay > 0 && since > 0 && next > r.in.Now.UnixNano() {
		s.busy = true
		r.wake(g, time.Unix(0, next))
	}
}

// failure finds the last task of the update that failed while it was watched, and when
// that was heard.
func (r *round) failure(g *group) (failed *schedulerpb.Task, at int64) {
	if !r.rule.active {
		return nil, 0
	}
	for _, it := range g.items {
		if !it.gone && r.failedWatched(it.t) {
			failed, at = it.t, it.t.GetMeta().GetUpdatedAt()
		}
	}
	return failed, at
}

// failedWatched goes by the store's clock: the node's may be wrong. A task that was lost
// with its node says nothing of its revision.
func (r *round) failedWatched(t *schedulerpb.Task) bool {
	switch store.State(t) {
	case store.Failed, store.Rejected:
	case store.Complete:
		if c := r.in.Service.GetSpec().GetTask().GetRestart().GetCondition(); c == taskpb.RestartPolicy_CONDITION_ON_FAILURE || c == taskpb.RestartPolicy_CONDITION_NONE {
			return false // it is there to end
		}
	default:
		return false
	}
	if !r.isCurrent(t) || t.GetMeta().GetCreatedAt() < r.rule.since {
		return false
	}
	return t.GetRunningAt() == 0 || t.GetMeta().GetUpdatedAt()-t.GetRunningAt() <= int64(r.rule.monitor)
}

// judge says whether the update is over, or may not go on. all: every group that there
// should be is there.
func (s *Service) judge(r *round, all bool) {
	st := r.in.Service.GetUpdateStatus()
	if !s.rule.active || !s.whole() {
		return
	}
	next := proto.CloneOf(st)
	what := "update"
	if s.rule.back {
		what = "rollback"
	}
	switch {
	case len(s.failures) > 0 && s.rule.action != spec.ActionContinue && float32(len(s.failures)) > s.rule.ratio*float32(s.present):
		why := "due to failure or early termination of task " + s.failures[slices.MinFunc(slices.Collect(maps.Keys(s.failures)), place.compare)]
		if s.rule.action == spec.ActionRollback && !s.rule.back {
			r.rollBack = "update rolled back " + why
		}
		next.State, next.Message = store.Paused, what+" paused "+why
		if s.rule.back {
			next.State = store.RollbackPaused
		}
	case s.open == 0 && len(s.stale) == 0 && all:
		next.State, next.Message, next.CompletedAt = store.Completed, what+" completed", r.in.Now.UnixNano()
		if s.rule.back {
			next.State = store.RollbackCompleted
			if why := st.GetMessage(); why != store.ManualRollback {
				next.Message += " (" + why + ")"
			}
		}
		if n := len(s.failures); n > 0 {
			next.Message += fmt.Sprintf(", although %d of %d tasks failed", n, s.present)
		}
	default:
		return
	}
	r.status = next
}

// failureText names a task that failed, and why.
func failureText(t *schedulerpb.Task) string {
	why := t.GetStatus().GetError()
	if why == "" {
		why = t.GetStatus().GetMessage()
	}
	if why == "" {
		return t.GetId()
	}
	if len(why) > maxReason {
		why = why[:maxReason] + "…"
	}
	return t.GetId() + ": " + why
}
