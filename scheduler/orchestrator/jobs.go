package orchestrator

import (
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// A job has its tasks by runs: each is of one run and one slot of it, or one node. A
// slot is done when one of its tasks has completed; what was lost with its node or
// stopped with it may have done its work, too, and is made again: at least once is what
// a job is run. Which runs there are is the store's to say; here they come to their end.

// tally is what the rules of a run need of its groups.
type tally struct {
	// live have a task that is or may be; done one that completed; lost is where nothing
	// is tried any more; open are those of which more is expected, none of a slot that
	// was not begun.
	live, done, lost, open int
	low                    uint32 // every slot below was begun
	why                    string // how one was lost, for people
}

// standing is one group's part in its tally.
type standing struct{ live, done, lost, open bool }

// held is what there is of a run's tasks.
type held struct {
	tasks uint64
	// done are its slots and nodes of which a task has completed; lost those where nothing
	// is tried any more.
	done, lost map[place]bool
}

func (h *held) add(t *schedulerpb.Task) {
	p := place{t.GetSlot(), t.GetTargetNodeId(), t.GetIteration()}
	switch h.tasks++; {
	case store.State(t) == store.Complete:
		h.done[p] = true
		delete(h.lost, p)
	case t.GetSettled() && !h.done[p]:
		h.lost[p] = true
	}
}

// learn takes note of the runs that there are, and of what tasks there are of each.
func (s *Service) learn(in Input, of map[uint64]*held) {
	s.runs, s.tallies, s.kept, s.going, s.untold = runsKey(in.Runs), map[uint64]*tally{}, map[uint64]bool{}, nil, nil
	ended := uint64(0)
	for _, run := range slices.Backward(in.Runs) {
		n, h := run.GetNumber(), of[run.GetNumber()]
		switch {
		case goes(in, run):
			s.kept[n] = true
			s.going = append(s.going, n)
		case h == nil:
			s.kept[n] = true
		case ended+h.tasks <= MaxEndedTasks:
			s.kept[n] = true
			ended += h.tasks
		case run.GetState() == store.RunStopped && run.GetCompleted()+run.GetFailed() == 0 && len(h.done)+len(h.lost) > 0:
			// Its record has to say first how far it came. When it does, this is
			// learned anew.
			s.kept[n] = true
			next := proto.CloneOf(run)
			next.Completed, next.Failed = uint64(len(h.done)), uint64(len(h.lost))
			s.untold = append(s.untold, store.RunEnd{Version: run.GetMeta().GetVersion(), Run: next})
		}
	}
}

// runsKey is another where any run begins or ends, or its record says how far it came.
func runsKey(runs []*schedulerpb.ServiceRun) string {
	var key []byte
	for _, run := range runs {
		key = fmt.Appendf(key, "%d %d %d ", run.GetNumber(), run.GetState(), run.GetCompleted()+run.GetFailed())
	}
	return string(key)
}

// goes reports whether a run may have new tasks: while it goes on, and the last of a
// global job without a schedule also for nodes that come later.
func goes(in Input, run *schedulerpb.ServiceRun) bool {
	switch run.GetState() {
	case store.RunGoing:
		return true
	case store.RunCompleted, store.RunFailed:
		sp := in.Service.GetSpec()
		return sp.GetGlobalJob() != nil && sp.GetSchedule() == nil && run.GetNumber() == in.Service.GetRun()
	}
	return false
}

func (r *round) run(g *group) *schedulerpb.ServiceRun {
	for _, run := range r.in.Runs {
		if run.GetNumber() == g.run {
			return run
		}
	}
	return nil
}

// revision is what new tasks of a group are made from.
func (r *round) revision(g *group) uint64 {
	if run := r.run(g); run != nil {
		return run.GetRevision()
	}
	return r.in.Service.GetRevision()
}

// request is the compiled revision of a group; nil where there is none.
func (r *round) request(g *group) *placement.Request {
	return r.requestOf(r.revision(g))
}

func (r *round) requestOf(revision uint64) *placement.Request {
	if revision != r.in.Service.GetRevision() {
		return r.in.RequestOf(revision)
	}
	return r.in.Request
}

// job has the runs that go on come to their end, and forgets the tasks of others.
func (s *Service) job(r *round) {
	for _, g := range r.sorted() {
		r.removeMarked(g)
		switch run := r.run(g); {
		case run == nil || !s.kept[g.run] || !r.fits(g):
			r.removeAll(g)
		case goes(r.in, run) && r.request(g) != nil:
			r.attempt(g)
		default:
			r.halt(g)
		}
		s.sum(r, g)
	}
	r.runs = append(r.runs, s.untold...)
	if !s.whole() {
		return
	}
	for _, run := range r.in.Runs {
		if goes(r.in, run) && r.requestOf(run.GetRevision()) != nil {
			s.begin(r, run, s.tally(run.GetNumber()))
		}
	}
	changing := map[uint64]bool{} // nothing that an end rests on is still to be written
	for p, g := range r.groups {
		changing[p.run] = changing[p.run] || len(g.changes()) > 0
	}
	for _, run := range r.in.Runs {
		if n := run.GetNumber(); !changing[n] && len(r.over) == 0 && !s.isUntold(n) {
			r.conclude(run, s.tally(n))
		}
	}
}

func (s *Service) isUntold(run uint64) bool {
	return slices.ContainsFunc(s.untold, func(e store.RunEnd) bool { return e.Run.GetNumber() == run })
}

// fits reports whether a group is of the mode that the job has.
func (r *round) fits(g *group) bool {
	return (g.slot == 0) == spec.PerNode(r.in.Service.GetSpec())
}

func (s *Service) tally(run uint64) *tally {
	t := s.tallies[run]
	if t == nil {
		t = &tally{low: 1}
		s.tallies[run] = t
	}
	return t
}

// begin makes a task in the lowest slots that had none, as many as may be at a time.
func (s *Service) begin(r *round, run *schedulerpb.ServiceRun, t *tally) {
	if spec.PerNode(r.in.Service.GetSpec()) {
		return
	}
	most := int(min(spec.Concurrent(r.in.Service.GetSpec()), math.MaxInt32))
	for slot := t.low; uint64(slot) <= run.GetWanted() && t.live < most && s.waiting < MaxWaiting && r.creates < maxCreates; slot++ {
		p := place{slot: slot, run: run.GetNumber()}
		if _, there := s.groups[p]; there {
			if t.low == slot {
				t.low++
			}
			continue
		}
		g := r.look(p)
		g.spare = true
		r.create(g, 0, nil)
		s.sum(r, g)
	}
}

// conclude says that a run has ended, or goes on again for a node that came, and how
// much was done of one that was stopped.
func (r *round) conclude(run *schedulerpb.ServiceRun, t *tally) {
	completed, failed := uint64(t.done), uint64(t.lost)
	same := completed == run.GetCompleted() && failed == run.GetFailed()
	over := t.live == 0 && t.open == 0 && completed+failed >= run.GetWanted() && completed+failed > 0
	next := proto.CloneOf(run)
	next.Completed, next.Failed = completed, failed
	switch going := run.GetState() == store.RunGoing; {
	case run.GetState() == store.RunStopped:
		if same || t.live > 0 || run.GetCompleted()+run.GetFailed() > 0 {
			return
		}
	case !goes(r.in, run), going && !over, !going && over && same:
		return
	case !over:
		next.State, next.EndedAt, next.Message, next.Completed, next.Failed = store.RunGoing, 0, "", 0, 0
	case failed > 0:
		next.State, next.Message = store.RunFailed, fmt.Sprintf("%d of %d failed: %s", failed, completed+failed, t.why)
	default:
		next.State, next.Message = store.RunCompleted, ""
	}
	r.runs = append(r.runs, store.RunEnd{Version: run.GetMeta().GetVersion(), Run: next})
}

// attempt brings a group of a run that goes on to its completion.
func (r *round) attempt(g *group) {
	for _, it := range g.items {
		if !it.wanted() {
			continue
		}
		n := r.in.Node(it.t.GetNodeId())
		switch {
		case it.t.GetNodeId() == "" && !r.creatable(g):
			r.stop(it)
		case it.t.GetNodeId() != "" && (store.Effective(n) == store.Drain || !r.request(g).Matches(n)):
			r.stop(it)
		}
	}
	r.dedupe(g)
	r.retry(g)
	if r.run(g).GetWanted() > MaxEndedTasks/MaxHistory && g.done() {
		r.onlyDone(g)
	}
	r.trim(g)
}

// onlyDone forgets the tries of a slot that did not complete: of each of many slots one
// task has to stay, and no more.
func (r *round) onlyDone(g *group) {
	found := false
	for _, it := range g.items {
		if it.gone || it.live() {
			continue
		}
		if store.State(it.t) == store.Complete && !found {
			found = true
			continue
		}
		it.want(store.Shutdown)
		it.gone = true
	}
}

// retry makes a task where there is none that is live, and none has completed.
func (r *round) retry(g *group) {
	if g.done() {
		for _, it := range g.items {
			if it.live() {
				r.stop(it)
			}
		}
		return
	}
	last := r.latest(g)
	switch {
	case slices.ContainsFunc(g.items, (*item).live):
	case last == nil:
		if g.slot == 0 && r.creatable(g) {
			r.create(g, 0, nil)
		}
	case !endedByItself(last.t):
		if r.creatable(g) {
			r.create(g, 0, last.t.GetRestartsAt())
		}
	case !last.t.GetSettled():
		policy := r.in.Service.GetSpec().GetTask().GetRestart()
		again, restarts := restart(policy, last.t, r.in.Now)
		if !again {
			last.edit().Settled = true
		} else if r.creatable(g) {
			r.create(g, r.in.Now.UnixNano()+r.delay(g, policy), restarts)
		}
	}
}

// halt stops what is left of a run that has ended.
func (r *round) halt(g *group) {
	for _, it := range g.items {
		if it.live() {
			r.stop(it)
		}
	}
	r.trim(g)
}

// done reports whether a task of the group has completed.
func (g *group) done() bool {
	return slices.ContainsFunc(g.items, func(it *item) bool { return !it.gone && store.State(it.t) == store.Complete })
}

// stands says what a group is in its run.
func (r *round) stands(g *group) (st standing) {
	st.live = slices.ContainsFunc(g.items, (*item).live)
	if st.done = g.done(); st.done {
		return st
	}
	last := r.latest(g)
	switch {
	case st.live:
		st.open = true
	case last == nil:
		st.open = g.slot == 0 && r.creatable(g)
	case last.t.GetSettled() || !r.creatable(g):
		st.lost = true // of a node that is gone it is not known
	default:
		st.open = true
	}
	return st
}

// tell brings the tally of a group's run up to date.
func (s *Service) tell(r *round, g *group, was, now standing) {
	t := s.tally(g.run)
	t.count(was, -1)
	t.count(now, 1)
	if !slices.ContainsFunc(g.items, func(it *item) bool { return !it.gone }) {
		t.low = min(t.low, max(g.slot, 1))
	}
	if now.lost && t.why == "" {
		t.why = failureText(r.latest(g).t)
	}
}

// count takes a group's standing into the tally of its run, or out of it.
func (t *tally) count(s standing, by int) {
	for _, c := range []struct {
		is bool
		n  *int
	}{{s.live, &t.live}, {s.done, &t.done}, {s.lost, &t.lost}, {s.open, &t.open}} {
		if c.is {
			*c.n += by
		}
	}
}
