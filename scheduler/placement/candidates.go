package placement

import "github.com/redoubt-cluster/redoubt/scheduler/generic"

// candidate is a node in the order of preference.
type candidate struct {
	info          *nodeInfo
	failing       bool
	full          float64 // of who packs: how much of it is reserved
	service, live int     // tasks before
	added         int     // tasks this Place has put there
}

func (a *candidate) before(b *candidate) bool {
	if a.failing != b.failing {
		return !a.failing
	}
	if a.full != b.full {
		return a.full > b.full
	}
	if x, y := a.service+a.added, b.service+b.added; x != y {
		return x < y
	}
	if x, y := a.live+a.added, b.live+b.added; x != y {
		return x < y
	}
	if a.info.order != b.info.order {
		return a.info.order < b.info.order
	}
	return a.info.node.GetId() < b.info.node.GetId()
}

// fullness is how much of what r reserves would be reserved of a node with n more of r,
// the sum over its kinds.
func (i *nodeInfo) fullness(r *Request, n int) (sum float64) {
	have := i.node.GetDescription().GetResources()
	part := func(used, each, all int64) {
		if each > 0 && all > 0 {
			sum += (float64(used) + float64(n)*float64(each)) / float64(all)
		}
	}
	part(i.nanoCPUs, r.nanoCPUs, have.GetNanoCpus())
	part(i.memory, r.memory, have.GetMemoryBytes())
	for _, g := range r.generic {
		all := generic.Total(generic.Of(have.GetGeneric(), g.GetKind()))
		part(all-i.free(g.GetKind()), g.GetCount(), all)
	}
	return sum
}

// candidates is a heap, the best first. container/heap would call every
// comparison through an interface, and those are all that Place does for long.
type candidates []candidate

func (h candidates) init() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

// down puts the i-th in its place among those below it.
func (h candidates) down(i int) {
	for {
		best := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h); child++ {
			if h[child].before(&h[best]) {
				best = child
			}
		}
		if best == i {
			return
		}
		h[i], h[best] = h[best], h[i]
		i = best
	}
}
