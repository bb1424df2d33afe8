package orchestrator

import (
	"cmp"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// makeWay keeps a task that is moved until the one it makes way for runs. Where that one
// has ended, found no node or is gone, it stays: what serves is never given up for what
// does not.
func (r *round) makeWay(g *group, it *item) {
	id := it.t.GetMakesWayFor()
	if id == "" {
		return
	}
	var next *item
	for _, o := range g.items {
		if o.t.GetId() == id && !o.gone {
			next = o
		}
	}
	switch {
	case store.State(it.t) != store.Running || !r.isCurrent(it.t):
		it.edit().MakesWayFor = "" // the rules for those hold
	case next != nil && next.wanted() && store.State(next.t) == store.Running:
		r.stop(it)
	case next != nil && next.wanted() && next.t.GetNodeId() != "":
		it.leaving = true
	default:
		it.edit().MakesWayFor = ""
		r.stuck = r.whyStuck(g, it, next)
	}
}

func (r *round) whyStuck(g *group, it, next *item) string {
	what := fmt.Sprintf("task %d stays on node %s: ", g.slot, it.t.GetNodeId())
	switch {
	case next == nil:
		return what + "the one it made way for is gone"
	case next.t.GetNodeId() == "":
		return what + "no node took the one it made way for"
	default:
		return what + "the one it made way for did not come up: " + failureText(next.t)
	}
}

// rebalance moves a task to where it would be placed now, while all that should run does,
// until no move gains anything, or one comes to nothing.
func (s *Service) rebalance(r *round, want int) {
	st := r.in.Service.GetRebalanceStatus()
	moving := st.GetState() == store.Moving
	switch {
	case moving && r.stuck != "":
		s.endRebalance(r, store.MovingStopped, r.stuck)
		return
	case moving && s.waiting > 0 && r.creates == 0 && len(s.stale) == 0 && !s.rule.active: // what this plan makes has no node yet
		s.endRebalance(r, store.MovingStopped, fmt.Sprintf("no node takes %d of its tasks: redoubt service explain says why", s.waiting))
		return
	case !moving && !r.in.Service.GetSpec().GetRebalance().GetAutomatic(), r.in.Surplus == nil:
		return
	case s.settled != want || s.present != want || len(s.stale) > 0 || s.rule.active:
		if moving {
			s.wait(r, want)
		}
		return // when that is over it is looked at again
	case s.pausing(r):
		return
	}
	node, why, ok := r.in.Surplus()
	if !ok {
		if moving {
			s.endRebalance(r, store.MovingCompleted, "every task is where it would be placed now")
		}
		return
	}
	g, it := s.on(r, node)
	if g == nil || r.creates >= maxCreates {
		return
	}
	r.create(g, 0, nil)
	it.edit().MakesWayFor = g.items[len(g.items)-1].t.GetId()
	it.leaving = true
	s.sum(r, g)

	next := proto.CloneOf(st)
	if !moving {
		next = &schedulerpb.RebalanceStatus{State: store.Moving, StartedAt: r.in.Now.UnixNano(), Automatic: true}
	}
	next.Moves++
	next.Message = fmt.Sprintf("task %d leaves node %s: %s", g.slot, node, why)
	r.rebalance = next
}

// wait gives up where what should run has not done so for long.
func (s *Service) wait(r *round, want int) {
	end := time.Unix(0, r.in.Service.GetMeta().GetUpdatedAt()).Add(rebalanceWait)
	if end.After(r.in.Now) {
		r.pause = end
		return
	}
	s.endRebalance(r, store.MovingStopped, fmt.Sprintf("%d of %d tasks run, each alone in its place and as the service is now: that was waited for for %v", s.settled, want, rebalanceWait))
}

// pausing reports whether the last replacement serves too shortly for another move of
// which nobody asked for. The time is of the newest task, whatever it was made for: an
// update is a disruption, too.
func (s *Service) pausing(r *round) bool {
	st := r.in.Service.GetRebalanceStatus()
	if st.GetState() == store.Moving && !st.GetAutomatic() {
		return false
	}
	pause := time.Duration(cmp.Or(r.in.Service.GetSpec().GetRebalance().GetPauseNs(), int64(spec.DefaultRebalancePause)))
	var newest int64
	for t := range r.in.Tasks {
		if store.State(t) == store.Running {
			newest = max(newest, t.GetRunningAt())
		}
	}
	end := time.Unix(0, newest).Add(pause)
	if !end.After(r.in.Now) {
		return false
	}
	r.pause = end
	return true
}

// on finds the slot of a settled task on a node, the highest.
func (s *Service) on(r *round, node string) (found *group, task *item) {
	for t := range r.in.Tasks {
		if t.GetNodeId() != node || !store.Wanted(t) || t.GetSlot() == 0 || found != nil && t.GetSlot() <= found.slot {
			continue
		}
		g := r.look(place{slot: t.GetSlot()})
		if it := g.main(); it != nil && it.t.GetId() == t.GetId() && r.isCurrent(it.t) && store.State(it.t) == store.Running {
			found, task = g, it
		}
	}
	return found, task
}

func (s *Service) endRebalance(r *round, state schedulerpb.RebalanceStatus_State, message string) {
	next := proto.CloneOf(r.in.Service.GetRebalanceStatus())
	next.State, next.Message, next.CompletedAt = state, message, r.in.Now.UnixNano()
	r.rebalance = next
}
