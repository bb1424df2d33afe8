package orchestrator

import (
	"cmp"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// evict stops tasks that may not stay where they are: on a drained node, or on
// one that the constraints of their own revision exclude by now, or whose networks
// are cut because it is in FIPS mode. Constraints of a newer revision take effect as
// the update gets there.
//
// One that serves on a drained node leaves only when its replacement runs, which
// is made beside it on another node, so that neither a port nor the bound of
// tasks of a node is in its way.
func (r *round) evict(g *group) {
	for _, it := range slices.Backward(g.items) { // replacements first
		if !it.wanted() || it.t.GetNodeId() == "" {
			continue
		}
		n := r.in.Node(it.t.GetNodeId())
		current := it.t.GetRevision() == r.in.Service.GetRevision()
		switch {
		case current && !r.in.Request.Matches(n):
			r.stop(it)
		case store.Effective(n) != store.Drain:
			r.makeWay(g, it)
		case current && g.slot > 0 && g.replaceable(it) && r.inTime(g, n):
			it.leaving = true
		default:
			r.stop(it)
		}
	}
}

// replaceable reports whether a task that serves is to be kept until its
// replacement does: while there is none yet, or one on its way. It is given up
// where no node can take the replacement, and where that has failed: a drain
// comes to its end.
func (g *group) replaceable(it *item) bool {
	if store.State(it.t) != store.Running {
		return false
	}
	for _, o := range slices.Backward(g.items) {
		switch {
		case o == it:
			return true
		case o.gone:
		case o.leaving, !o.live():
			return false
		case !o.wanted(): // it is being stopped, and something else comes after it
		case o.t.GetNodeId() == "", store.State(o.t) == store.Running:
			return false
		}
	}
	return true
}

// inTime reports whether a task on the drained node may go on: until so long
// before the deadline as it may take to stop.
func (r *round) inTime(g *group, n *schedulerpb.Node) bool {
	if n.GetDrainBy() == 0 {
		return true
	}
	grace := time.Duration(r.in.Service.GetSpec().GetTask().GetContainer().GetStopGraceNs())
	end := time.Unix(0, n.GetDrainBy()).Add(-cmp.Or(grace, defaultGrace))
	if !end.After(r.in.Now) {
		return false
	}
	r.wake(g, end)
	return true
}
