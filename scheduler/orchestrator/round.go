package orchestrator

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// item is a task as it was and as the plan leaves it.
type item struct {
	old  *schedulerpb.Task // nil: made by this plan
	t    *schedulerpb.Task // old itself until something is changed
	gone bool
	// leaving: it runs on a drained node, or under an older revision, until its
	// replacement does.
	leaving bool
}

// live, like store.Live, but for what the plan forgets.
func (it *item) live() bool   { return !it.gone && store.Live(it.t) }
func (it *item) wanted() bool { return !it.gone && store.Wanted(it.t) }

// stays: wanted, and not to be replaced.
func (it *item) stays() bool { return it.wanted() && !it.leaving }

// group is the tasks of one slot, or of one node of a global service, of one run where
// it is a job's, oldest first.
type group struct {
	place
	items []*item
	spare bool // what is made here is of one more slot
	timed bool // it is to be looked at again when round.until is reached
}

// round is the making of one plan.
type round struct {
	in     Input
	rule   rule
	groups map[place]*group
	// creates counts; over are the groups for which there was no room.
	creates int
	over    []*group
	// until is when the first of the timed groups is to be looked at; zero: there
	// are none.
	until time.Time
	// See Plan.
	status    *schedulerpb.UpdateStatus
	rollBack  string
	runs      []store.RunEnd
	rebalance *schedulerpb.RebalanceStatus
	// stuck is why a move came to nothing; empty: none did.
	stuck string
	// pause is when the next move may be made; zero: there is none to wait for.
	pause time.Time
}

// wake has a group looked at again at that time, or before.
func (r *round) wake(g *group, at time.Time) {
	g.timed = true
	if r.until.IsZero() || at.Before(r.until) {
		r.until = at
	}
}

// look reads a group, and gives up those of its tasks whose node is lost.
func (r *round) look(p place) *group {
	if g := r.groups[p]; g != nil {
		return g
	}
	g := &group{place: p}
	r.groups[p] = g
	for t := range r.in.Slot(p.slot, p.node) {
		if t.GetIteration() != p.run {
			continue
		}
		it := &item{old: t, t: t}
		g.items = append(g.items, it)
		r.orphanIfLost(it)
	}
	slices.SortFunc(g.items, func(a, b *item) int {
		switch {
		case a.old.GetId() == b.old.GetId():
			return 0
		case store.Newer(a.old, b.old):
			return 1
		}
		return -1
	})
	return g
}

// main is the task that the group is about: the wanted one, and of one that
// leaves and its replacement the latter. nil: none is wanted.
func (g *group) main() (found *item) {
	for _, it := range g.items {
		if it.stays() {
			return it
		}
		if it.leaving && it.wanted() {
			found = it
		}
	}
	return found
}

// sorted gives the groups looked at in the order of slots and nodes.
func (r *round) sorted() []*group {
	return slices.SortedFunc(maps.Values(r.groups), func(a, b *group) int { return a.place.compare(b.place) })
}

// edit returns the task to change.
func (it *item) edit() *schedulerpb.Task {
	if it.t == it.old {
		it.t = proto.CloneOf(it.old)
	}
	return it.t
}

// want raises the desired state.
func (it *item) want(s schedulerpb.TaskState) {
	if it.t.GetDesired() < s {
		it.edit().Desired = s
	}
}

// orphanIfLost gives up a task whose node is down or was removed. Its container
// may still run there: should the node come back, the desired state tells it to
// stop.
func (r *round) orphanIfLost(it *item) {
	if !it.live() || it.t.GetNodeId() == "" {
		return
	}
	n := r.in.Node(it.t.GetNodeId())
	var message string
	switch {
	case n == nil:
		message = "its node was removed"
	case n.GetState() == schedulerpb.NodeState_NODE_STATE_DOWN:
		message = "its node is down"
	default:
		return
	}
	t := it.edit()
	t.Status = proto.CloneOf(t.GetStatus())
	t.Status.State, t.Status.At, t.Status.Message = store.Orphaned, r.in.Now.UnixNano(), message
	it.want(store.Shutdown)
}

// stop asks a task to end. One without a node has nothing to end and is
// forgotten.
func (r *round) stop(it *item) {
	it.want(store.Shutdown)
	if it.t.GetNodeId() == "" {
		it.gone = true
	}
}

// remove asks a task to end and forgets it when it has.
func (r *round) remove(it *item) {
	it.want(store.Remove)
	if !store.Live(it.t) || it.t.GetNodeId() == "" {
		it.gone = true
	}
}

// create adds a new task to the group, unless the plan is full.
func (r *round) create(g *group, notBefore int64, restarts []int64) {
	if r.creates >= maxCreates {
		r.over = append(r.over, g)
		return
	}
	r.creates++
	message := ""
	if notBefore > r.in.Now.UnixNano() {
		message = "waiting for the restart delay"
	}
	it := &item{t: &schedulerpb.Task{
		Id:           r.in.NewID(),
		ServiceId:    r.in.ServiceID,
		Slot:         g.slot,
		TargetNodeId: g.node,
		Revision:     r.revision(g),
		Iteration:    g.run,
		Desired:      store.Running,
		Status:       &schedulerpb.TaskStatus{State: store.Pending, At: r.in.Now.UnixNano(), Message: message},
		NotBefore:    notBefore,
		RestartsAt:   restarts,
	}}
	g.items = append(g.items, it)
}

// trim marks what ended as such and forgets what is too long ago.
func (r *round) trim(g *group) {
	kept := 0
	for _, it := range slices.Backward(g.items) {
		if it.gone || it.live() {
			continue
		}
		it.want(store.Shutdown) // its node must not start it again
		if kept++; kept > MaxHistory {
			it.gone = true
		}
	}
}

// changes of every group, in order.
func (r *round) changes() (out [][]Change) {
	for _, g := range r.sorted() {
		if c := g.changes(); len(c) > 0 {
			out = append(out, c)
		}
	}
	return out
}

func (g *group) changes() (out []Change) {
	for _, it := range g.items {
		switch {
		case it.gone && it.old != nil:
			out = append(out, Change{Old: it.old})
		case !it.gone && it.t != it.old:
			out = append(out, Change{Old: it.old, New: it.t, Spare: g.spare && it.old == nil})
		}
	}
	return out
}
