package orchestrator

import (
	"slices"

	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// renew stops a task of an older revision that does not run: it serves nobody,
// and replacing it at once is how an update mends a service that cannot start.
func (r *round) renew(g *group) {
	it := g.main()
	if it != nil && it.t.GetRevision() != r.in.Service.GetRevision() && store.State(it.t) != store.Running {
		r.stop(it)
	}
}

// update moves running tasks to the current revision: one at a time is stopped
// and replaced, and the next follows when that one runs.
func (s *Service) update(r *round) {
	if s.busy > 0 || len(s.stale) == 0 {
		return
	}
	var first *place
	for p := range s.stale {
		if first == nil || p.compare(*first) < 0 {
			first = &p
		}
	}
	g := r.look(*first)
	if it := g.main(); it != nil {
		r.stop(it)
	}
	s.sum(r, g)
}

// returning reports whether a group without a wanted task is about to have one.
func (r *round) returning(g *group) bool {
	if slices.ContainsFunc(g.items, (*item).live) {
		return true // still stopping
	}
	last := r.latest(g)
	return r.creatable(g) && !(last != nil && last.t.GetSettled() && last.t.GetRevision() == r.in.Service.GetRevision())
}

// unfinished reports whether a task of the current revision is still on its way.
// One that waits for a node counts only where it took the place of a task that
// had one: else a service that was short of resources before the update could
// never be updated.
func (r *round) unfinished(g *group, it *item) bool {
	if store.State(it.t) >= store.Running {
		return false
	}
	if it.t.GetNodeId() != "" {
		return true
	}
	return slices.ContainsFunc(g.items, func(o *item) bool {
		return !o.gone && o.t.GetNodeId() != "" && o.t.GetRevision() != it.t.GetRevision()
	})
}
