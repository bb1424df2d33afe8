package placement

import (
	"cmp"
	"slices"
	"time"
)

// Preemption is whom one more task takes the place of.
type Preemption struct {
	NodeID string
	// Victims are ids of tasks to stop, all of a lower priority; none: what ends there
	// anyway makes room enough.
	Victims []string
}

// Preempt says on which node stopping what would make room for one more task of r; only,
// if not empty, is the one node that it may be. It takes as little as it can: first what
// costs the lowest priority at most, then the fewest tasks. Tasks of the same service
// are never taken, nor is a node where those of r keep failing, or one without the data of
// its volumes while another has it. False: there is none.
func (c *Cluster) Preempt(r *Request, only string, now time.Time) (Preemption, bool) {
	var best *offer
	homes := c.homes(r, nil)
	failures := c.failures[revisionKey{r.ServiceID, r.Revision}]
	for info, there := range c.lower(r) {
		id := info.node.GetId()
		if only != "" && only != id || info.barred(r) != nil || away(homes, info) != nil || failing(failures[info], now) {
			continue
		}
		if o := c.offer(info, r, there); o != nil && (best == nil || o.before(best)) {
			best = o
		}
	}
	if best == nil {
		return Preemption{}, false
	}
	p := Preemption{NodeID: best.info.node.GetId()}
	for _, v := range best.victims {
		p.Victims = append(p.Victims, v.id)
	}
	return p, true
}

// victim is a task that may have to end.
type victim struct {
	id string
	counted
}

// lower are the tasks that r may take the place of, and those that end, by node.
func (c *Cluster) lower(r *Request) map[*nodeInfo][]victim {
	out := map[*nodeInfo][]victim{}
	for id, t := range c.tasks {
		if !t.live || !t.ends && (t.request.Priority >= r.Priority || t.request.ServiceID == r.ServiceID) {
			continue
		}
		if info := c.nodes[t.nodeID]; info != nil {
			out[info] = append(out[info], victim{id, t})
		}
	}
	return out
}

// offer is what one node would cost.
type offer struct {
	info    *nodeInfo
	victims []victim
	highest uint32 // of their priorities
	sum     uint64
}

func (a *offer) before(b *offer) bool {
	return cmp.Or(cmp.Compare(a.highest, b.highest), cmp.Compare(len(a.victims), len(b.victims)), cmp.Compare(a.sum, b.sum),
		cmp.Compare(a.info.live, b.info.live), cmp.Compare(a.info.node.GetId(), b.info.node.GetId())) < 0
}

// offer counts the node without all that may go, and then lets back in whom there is
// room for: those that end count as gone, then come the highest priorities, then the
// services that have the fewest tasks, then the oldest tasks.
func (c *Cluster) offer(info *nodeInfo, r *Request, there []victim) *offer {
	for _, v := range there {
		c.count(info, v.counted, -1)
	}
	fits := func() bool { return info.refuses(r, c.services[r.ServiceID][info].live, 0) == nil }
	o := &offer{info: info}
	possible := fits()
	slices.SortFunc(there, func(a, b victim) int {
		return cmp.Or(cmp.Compare(b.request.Priority, a.request.Priority),
			cmp.Compare(len(c.services[a.request.ServiceID]), len(c.services[b.request.ServiceID])),
			cmp.Compare(a.created, b.created), cmp.Compare(a.id, b.id))
	})
	var out []victim
	for _, v := range there {
		if v.ends || !possible {
			out = append(out, v)
			continue
		}
		if c.count(info, v.counted, 1); fits() {
			continue
		}
		c.count(info, v.counted, -1)
		out = append(out, v)
		o.victims = append(o.victims, v)
		o.highest, o.sum = max(o.highest, v.request.Priority), o.sum+uint64(v.request.Priority)+1
	}
	for _, v := range out {
		c.count(info, v.counted, 1)
	}
	if !possible || len(o.victims) > maxVictims {
		return nil
	}
	return o
}
