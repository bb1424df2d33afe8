package orchestrator

import (
	"cmp"
	"slices"

	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// replicated keeps as many slots as there should be replicas.
func (r *round) replicated() {
	want := int(r.in.Service.GetSpec().GetReplicated().GetReplicas())
	var kept []*group
	for _, g := range r.sorted() {
		for _, it := range g.items {
			if it.t.GetDesired() >= store.Remove {
				r.remove(it)
			}
		}
		if g.slot == 0 {
			r.removeAll(g) // of no slot: not of this mode
		} else if g.present() {
			kept = append(kept, g)
		}
	}
	if len(kept) > want {
		kept = r.scaleDown(kept, want)
	}
	r.tend(kept, func(*group) bool { return true })
	r.scaleUp(want - len(kept))
}

// present reports whether the slot is in use: not one that only waits for its
// tasks to be gone.
func (g *group) present() bool {
	return slices.ContainsFunc(g.items, func(it *item) bool {
		return !it.gone && it.t.GetDesired() < store.Remove
	})
}

// scaleDown removes the slots that serve least, then the highest, and returns
// the others in order.
func (r *round) scaleDown(groups []*group, want int) []*group {
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.service(), a.service()), cmp.Compare(a.slot, b.slot))
	})
	for _, g := range groups[want:] {
		r.removeAll(g)
	}
	kept := groups[:want]
	slices.SortFunc(kept, func(a, b *group) int { return cmp.Compare(a.slot, b.slot) })
	return kept
}

// service ranks a slot by what it gives: running, on its way, nothing.
func (g *group) service() int {
	best := 0
	for _, it := range g.items {
		switch {
		case it.wanted() && store.State(it.t) == store.Running:
			return 2
		case it.wanted():
			best = 1
		}
	}
	return best
}

// scaleUp fills the n lowest free slots. A slot whose former tasks are still
// being removed is waited for, not passed over, so that slots stay dense.
func (r *round) scaleUp(n int) {
	for slot := uint32(1); n > 0 && r.creates < maxCreates; slot++ {
		g := r.group(slot, "")
		if g.present() {
			continue
		}
		n--
		if !slices.ContainsFunc(g.items, func(it *item) bool { return !it.gone }) {
			r.create(g, 0, nil)
		}
	}
}

func (r *round) removeAll(g *group) {
	for _, it := range g.items {
		r.remove(it)
	}
}

// global keeps one task on every node that welcomes it.
func (r *round) global() {
	creatable := map[string]bool{}
	for n := range r.in.Nodes {
		if welcomes(n, r.in.Request) {
			creatable[n.GetId()] = true
			r.group(0, n.GetId())
		}
	}
	var kept []*group
	for _, g := range r.sorted() {
		for _, it := range g.items {
			if it.t.GetDesired() >= store.Remove {
				r.remove(it)
			}
		}
		if g.slot != 0 || r.in.Node(g.node) == nil {
			r.removeAll(g) // not of this mode, or of a node that was removed
			continue
		}
		for _, it := range g.items {
			if it.wanted() && it.t.GetNodeId() == "" && !creatable[g.node] {
				r.stop(it)
			}
		}
		kept = append(kept, g)
	}
	r.tend(kept, func(g *group) bool { return creatable[g.node] })
}

// tend brings each group to one task of the current revision. creatable says
// where new tasks may be made.
func (r *round) tend(groups []*group, creatable func(*group) bool) {
	for _, g := range groups {
		r.evict(g)
		r.dedupe(g)
	}
	r.update(groups, creatable)
	for _, g := range groups {
		r.replace(g, creatable(g))
		r.trim(g)
	}
}

// evict stops tasks that may not stay where they are: on a drained node, or on
// one that the constraints of their own revision exclude by now. Constraints of
// a newer revision take effect as the update gets there.
func (r *round) evict(g *group) {
	for _, it := range g.items {
		if !it.wanted() || it.t.GetNodeId() == "" {
			continue
		}
		n := r.in.Node(it.t.GetNodeId())
		current := it.t.GetRevision() == r.in.Service.GetRevision()
		if store.Effective(n) == store.Drain || current && !r.in.Request.Matches(n) {
			r.stop(it)
		}
	}
}

// dedupe keeps one wanted task: that of the current revision, then the one that
// came furthest, then the oldest. There is more than one only after a write
// whose outcome the leader could not know.
func (r *round) dedupe(g *group) {
	var best *item
	for _, it := range g.items {
		if !it.wanted() {
			continue
		}
		if best == nil {
			best = it
			continue
		}
		if r.better(it, best) {
			it, best = best, it
		}
		r.stop(it)
	}
}

func (r *round) better(a, b *item) bool {
	current := func(it *item) bool { return it.t.GetRevision() == r.in.Service.GetRevision() }
	if current(a) != current(b) {
		return current(a)
	}
	return store.State(a.t) > store.State(b.t)
}
