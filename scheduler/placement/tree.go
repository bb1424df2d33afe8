package placement

import (
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// branch is the nodes that are alike in the levels above it: a zone, a rack of it. Where
// there is no level below it is the nodes themselves.
type branch struct {
	value string
	// stays is how many tasks of the service are in it, also on nodes without room,
	// with those that were taken.
	stays int
	below []*branch // those with room, a heap, the best first
	nodes candidates
	packs bool
	// index is by value, of all that were made.
	index map[string]*branch
}

// packs reports whether nodes are filled one after the other. Who reserves nothing would
// fill the first with all there is.
func (c *Cluster) packs(r *Request) bool {
	if r.strategy == spec.BinPack || r.strategy == 0 && c.strategy == spec.BinPack {
		return r.reserves
	}
	return false
}

// tree has the nodes that could run one more task, and why the others could not. added
// are tasks of r that are meant for nodes and not counted yet.
func (c *Cluster) tree(r *Request, now time.Time, added map[*nodeInfo]int) (*branch, *Refusal) {
	refusal, homes := &Refusal{}, c.homes(r, added)
	packs := c.packs(r)
	root := &branch{packs: packs}
	if len(r.preferences) == 0 {
		root.nodes = make(candidates, 0, len(c.nodes))
	}
	own, failures := c.services[r.ServiceID], c.failures[revisionKey{r.ServiceID, r.Revision}]
	for _, info := range c.nodes {
		here := own[info]
		why := info.refuses(r, here.live, added[info])
		if why == nil {
			why = away(homes, info)
		}
		if why != nil {
			refusal.add(*why)
			continue
		}
		n := candidate{info: info, failing: failing(failures[info], now), service: here.live, live: info.live, added: added[info]}
		if packs {
			n.full = info.fullness(r, added[info])
		}
		b := root
		for _, p := range r.preferences {
			b = b.into(value(info.node, p))
		}
		b.nodes = append(b.nodes, n)
	}
	for info, here := range own {
		root.keep(r, info, here.stays)
	}
	for info, n := range added {
		root.keep(r, info, n)
	}
	root.init()
	return root, refusal
}

// keep counts tasks that stay on a node in all branches that it is in.
func (b *branch) keep(r *Request, info *nodeInfo, n int) {
	if info.node == nil || info.empties {
		return
	}
	for _, p := range r.preferences {
		b.stays += n
		if b = b.index[value(info.node, p)]; b == nil {
			return
		}
	}
	b.stays += n
}

// into is the branch below for a value, which it makes where there is none.
func (b *branch) into(value string) *branch {
	c := b.index[value]
	if c == nil {
		if c = (&branch{value: value, packs: b.packs}); b.index == nil {
			b.index = map[string]*branch{}
		}
		b.index[value] = c
		b.below = append(b.below, c)
	}
	return c
}

func (b *branch) init() {
	b.nodes.init()
	for _, c := range b.below {
		c.init()
	}
	for i := len(b.below)/2 - 1; i >= 0; i-- {
		b.down(i)
	}
}

// empty reports whether there is no room.
func (b *branch) empty() bool { return len(b.below) == 0 && len(b.nodes) == 0 }

// best is the node that is taken next.
func (b *branch) best() *candidate {
	for len(b.below) > 0 {
		b = b.below[0]
	}
	return &b.nodes[0]
}

// before compares two that have room, and where they are alike what is best in each: so
// what is taken next is best at each level, whichever way one goes.
func (a *branch) before(b *branch) bool {
	if x, y := a.best().failing, b.best().failing; x != y {
		return !x
	}
	for {
		switch {
		case a.stays != b.stays:
			return a.stays < b.stays
		case len(a.below) == 0:
			return a.nodes[0].before(&b.nodes[0])
		}
		a, b = a.below[0], b.below[0]
	}
}

func (b *branch) down(i int) {
	for {
		best := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(b.below); child++ {
			if b.below[child].before(b.below[best]) {
				best = child
			}
		}
		if best == i {
			return
		}
		b.below[i], b.below[best] = b.below[best], b.below[i]
		i = best
	}
}

// take gives the node that comes next one task more.
func (b *branch) take(r *Request, refusal *Refusal) string {
	b.stays++
	if len(b.below) > 0 {
		c := b.below[0]
		id := c.take(r, refusal)
		if c.empty() {
			last := len(b.below) - 1
			b.below[0] = b.below[last]
			b.below = b.below[:last]
		}
		if len(b.below) > 0 {
			b.down(0)
		}
		return id
	}
	h := b.nodes
	best := &h[0]
	id := best.info.node.GetId()
	best.added++
	if b.packs {
		best.full = best.info.fullness(r, best.added)
	}
	if why := best.info.refuses(r, best.service, best.added); why != nil {
		refusal.add(*why)
		h[0] = h[len(h)-1]
		h = h[:len(h)-1]
		b.nodes = h
	}
	h.down(0)
	return id
}
