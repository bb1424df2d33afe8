package orchestrator

import (
	"slices"

	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// update moves the groups to the current revision: one running task at a time
// is stopped and replaced, and the next follows when that one runs. Tasks of an
// older revision that do not run serve nobody and are replaced at once, which
// is how an update mends a service that cannot start.
func (r *round) update(groups []*group, creatable func(*group) bool) {
	var next *item
	busy := false
	for _, g := range groups {
		i := slices.IndexFunc(g.items, (*item).wanted)
		if i < 0 {
			busy = busy || r.returning(g, creatable(g))
			continue
		}
		it := g.items[i]
		switch {
		case it.t.GetRevision() == r.in.Service.GetRevision():
			busy = busy || r.unfinished(g, it)
		case store.State(it.t) == store.Running:
			if next == nil {
				next = it
			}
		default:
			busy = busy || it.t.GetNodeId() != ""
			r.stop(it)
		}
	}
	if next != nil && !busy {
		r.stop(next)
	}
}

// returning reports whether a group without a wanted task is about to have one.
func (r *round) returning(g *group, creatable bool) bool {
	if slices.ContainsFunc(g.items, (*item).live) {
		return true // still stopping
	}
	last := r.latest(g)
	return creatable && !(last != nil && last.t.GetSettled() && last.t.GetRevision() == r.in.Service.GetRevision())
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
