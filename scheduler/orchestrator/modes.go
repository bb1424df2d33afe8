package orchestrator

import (
	"cmp"
	"slices"

	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// replicated keeps as many slots as there should be replicas.
func (s *Service) replicated(r *round) {
	want := int(r.in.Service.GetSpec().GetReplicated().GetReplicas())
	for _, g := range r.sorted() {
		r.removeMarked(g)
		if g.slot == 0 {
			r.removeAll(g) // of no slot: not of this mode
		}
		s.sum(r, g)
	}
	if s.whole() && s.present > want {
		s.scaleDown(r, s.present-want)
	}
	for _, g := range r.sorted() {
		if r.kept(g) {
			r.tend(g)
			s.sum(r, g)
		}
	}
	if s.whole() {
		if s.judge(r, s.present >= want || s.waiting >= MaxWaiting); r.status == nil {
			s.update(r)
		}
		s.scaleUp(r, want-s.present)
		s.rebalance(r, want)
	}
}

// removeMarked goes on with what was to be forgotten.
func (r *round) removeMarked(g *group) {
	for _, it := range g.items {
		if it.t.GetDesired() >= store.Remove {
			r.remove(it)
		}
	}
}

// scaleDown removes the n slots that serve least, then the highest.
func (s *Service) scaleDown(r *round, n int) {
	type slot struct {
		place
		rank uint8
	}
	var all []slot
	for p, sum := range s.groups {
		if sum.present && p.slot > 0 {
			all = append(all, slot{p, sum.rank})
		}
	}
	slices.SortFunc(all, func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), b.compare(a.place))
	})
	for _, v := range all[:min(n, maxLook)] {
		g := r.look(v.place)
		r.removeAll(g)
		s.sum(r, g)
	}
}

// scaleUp fills the n lowest free slots. A slot whose former tasks are still
// being removed is waited for, not passed over, so that slots stay dense. While
// enough slots wait for a node there is no use in making more: however many
// replicas are asked for, the store holds what the nodes do and a few more.
func (s *Service) scaleUp(r *round, n int) {
	if s.waiting >= MaxWaiting {
		return
	}
	for slot := s.low; n > 0 && r.creates < maxCreates; slot++ {
		p := place{slot: slot}
		sum, there := s.groups[p]
		if sum.present {
			if s.low == slot {
				s.low++
			}
			continue
		}
		n--
		if there {
			continue
		}
		g := r.look(p)
		if !slices.ContainsFunc(g.items, func(it *item) bool { return !it.gone }) {
			g.spare = true
			r.create(g, 0, nil)
			s.sum(r, g)
		}
	}
}

func (r *round) removeAll(g *group) {
	for _, it := range g.items {
		r.remove(it)
	}
}

// global keeps one task on every node that welcomes it.
func (s *Service) global(r *round) {
	for _, g := range r.sorted() {
		r.removeMarked(g)
		if r.kept(g) {
			for _, it := range g.items {
				if it.wanted() && it.t.GetNodeId() == "" && !r.creatable(g) {
					r.stop(it)
				}
			}
			r.tend(g)
		} else {
			r.removeAll(g) // not of this mode, or of a node that was removed
		}
		s.sum(r, g)
	}
	if s.whole() {
		if s.judge(r, true); r.status == nil {
			s.update(r)
		}
	}
}

// tend brings a group to one task of the current revision, but for one that
// runs an older: those take turns. A group is tended once in a plan.
func (r *round) tend(g *group) {
	r.evict(g)
	r.overlap(g)
	r.dedupe(g)
	r.renew(g)
	r.replace(g, r.creatable(g))
	r.trim(g)
}

// dedupe keeps one wanted task: that of the current revision, then the one that
// came furthest, then the oldest. There is more than one only after a write
// whose outcome the leader could not know, or where a drain was taken back.
func (r *round) dedupe(g *group) {
	var best *item
	for _, it := range g.items {
		if !it.stays() {
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
