package orchestrator

import (
	"cmp"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Service is what the leader remembers of one service from plan to plan. It
// belongs to one goroutine.
type Service struct {
	all bool // nothing is known yet
	// revision is that of the service for which the summaries hold; 0: removed.
	revision uint64
	rule     rule
	dirty    map[place]struct{}
	groups   map[place]summary // those with tasks

	// Sums over groups.
	present, busy, waiting, open, settled int
	stale                                 map[place]struct{}
	failures                              map[place]string // what failed, for people
	old                                   map[uint64]int   // groups with tasks of a revision that is not the current

	low uint32 // every slot below is present

	// timed are the groups that time alone changes: with a task that leaves a node which
	// has a deadline, or one that an update still watches or pauses after. due is when the
	// first of them is to be looked at; zero: there are none.
	timed map[place]struct{}
	due   time.Time

	// Of a job: the runs for which this holds, what is summed up of each, those the tasks
	// of which are kept, and among them those that go on; and those of which the record
	// is to say how far they came before their tasks can be forgotten.
	runs    string
	tallies map[uint64]*tally
	kept    map[uint64]bool
	going   []uint64
	untold  []store.RunEnd
}

// place is a slot of a replicated service, or a node of a global one (slot 0), in one of
// the runs of a job.
type place struct {
	slot uint32
	node string
	run  uint64
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.run, q.run), cmp.Compare(p.slot, q.slot), cmp.Compare(p.node, q.node))
}

// summary is what the rules about all groups together need of one.
type summary struct {
	present bool  // in use: not one that only waits for its tasks to be gone
	rank    uint8 // what it gives: 2 runs, 1 is on its way, 0 nothing
	busy    bool  // an update waits for it
	stale   bool  // it runs a task of an older revision, and has not had its turn
	open    bool  // an update is not over because of it
	failed  bool  // a task of the update has failed
	waiting bool  // its task has no node, and no restart delay to wait for
	in      standing
	settled bool // its one task runs, and is of the current revision
	// old are the revisions of its tasks other than the current; nil: none. A
	// pointer, as this is kept of each slot there is.
	old *[]uint64
}

func (s *summary) revisions() []uint64 {
	if s.old == nil {
		return nil
	}
	return *s.old
}

// NewService knows nothing: its first plans look at everything.
func NewService() *Service { return &Service{all: true} }

// Touch has the slot of a task, or its node in a global service, looked at again.
func (s *Service) Touch(t *schedulerpb.Task) {
	s.touch(place{t.GetSlot(), t.GetTargetNodeId(), t.GetIteration()})
}

// TouchNode has a node of a global service looked at again.
func (s *Service) TouchNode(id string) {
	if len(s.kept) == 0 {
		s.touch(place{node: id})
	}
	for _, run := range s.going {
		s.touch(place{node: id, run: run})
	}
}

func (s *Service) touch(p place) {
	if !s.all {
		s.dirty[p] = struct{}{}
	}
}

// Waiting is how many slots wait for a node.
func (s *Service) Waiting() int { return s.waiting }

// Empty reports whether nothing is left to plan for a service that was removed.
func (s *Service) Empty() bool { return !s.all && len(s.groups) == 0 && len(s.dirty) == 0 }

// reset forgets the summaries and has everything looked at.
func (s *Service) reset(in Input) {
	*s = Service{
		revision: in.Service.GetRevision(), rule: ruleOf(in.Service),
		dirty: map[place]struct{}{}, groups: map[place]summary{},
		stale: map[place]struct{}{}, timed: map[place]struct{}{}, failures: map[place]string{}, old: map[uint64]int{}, low: 1,
	}
	of := map[uint64]*held{} // by run
	for t := range in.Tasks {
		s.Touch(t)
		if n := t.GetIteration(); len(in.Runs) > 0 {
			if of[n] == nil {
				of[n] = &held{done: map[place]bool{}, lost: map[place]bool{}}
			}
			of[n].add(t)
		}
	}
	s.learn(in, of)
	if spec.PerNode(in.Service.GetSpec()) {
		for n := range in.Nodes {
			s.TouchNode(n.GetId())
		}
	}
}

// Plan plans the next step. An empty plan without more means that there is
// nothing to do until something changes. The caller touches every slot whose
// changes were made, or left out.
func (s *Service) Plan(in Input) Plan {
	if s.all || s.revision != in.Service.GetRevision() || s.rule != ruleOf(in.Service) || s.runs != runsKey(in.Runs) {
		s.reset(in)
	}
	if !s.due.IsZero() && !s.due.After(in.Now) {
		for p := range s.timed {
			s.dirty[p] = struct{}{}
		}
		s.due = time.Time{}
	}
	r := &round{in: in, rule: s.rule, groups: map[place]*group{}}
	for p := range s.dirty {
		if len(r.groups) >= maxLook {
			break
		}
		delete(s.dirty, p)
		r.look(p)
	}
	if len(s.dirty) == 0 {
		s.dirty = map[place]struct{}{} // a map never gives back what it grew to
	}
	switch {
	case in.Service == nil:
		for _, g := range r.groups {
			r.removeAll(g)
			s.sum(r, g)
		}
	case spec.IsJob(in.Service.GetSpec()):
		s.job(r)
	case in.Service.GetSpec().GetGlobal() != nil:
		s.global(r)
	default:
		s.replicated(r)
	}
	for _, g := range r.over {
		s.dirty[g.place] = struct{}{}
	}
	switch {
	case len(s.timed) == 0:
		s.due = time.Time{}
	case !r.until.IsZero() && (s.due.IsZero() || r.until.Before(s.due)):
		s.due = r.until
	}
	again := s.due
	if !r.pause.IsZero() && (again.IsZero() || r.pause.Before(again)) {
		again = r.pause
	}
	return Plan{
		ServiceID: in.ServiceID, ServiceVersion: in.Service.GetMeta().GetVersion(),
		Slots: r.changes(), Revisions: s.unused(in), More: len(s.dirty) > 0, Again: again,
		Status: r.status, RollBack: r.rollBack, Runs: r.runs, Rebalance: r.rebalance,
	}
}

// whole reports whether every summary is of now, so that rules about all of
// them may be applied.
func (s *Service) whole() bool { return len(s.dirty) == 0 }

// unused are the revisions that nothing refers to. Tasks forgotten by this plan
// still count: their revision goes when it is certain that they did.
func (s *Service) unused(in Input) (out []string) {
	if !s.whole() || in.Service != nil && len(in.Revisions) < 2 {
		return nil
	}
	used := map[string]bool{}
	if in.Service != nil {
		used[store.RevisionID(in.ServiceID, s.revision)] = true
	}
	for rev := range s.old {
		used[store.RevisionID(in.ServiceID, rev)] = true
	}
	for _, run := range in.Runs {
		if goes(in, run) {
			used[store.RevisionID(in.ServiceID, run.GetRevision())] = true
		}
	}
	for _, id := range in.Revisions {
		if !used[id] {
			out = append(out, id)
		}
	}
	return out
}

// sum brings the sums up to date with a group as the plan leaves it.
func (s *Service) sum(r *round, g *group) {
	was := s.groups[g.place]
	now, there := r.summarise(g)
	count := func(n *int, was, is bool) {
		if was {
			*n--
		}
		if is {
			*n++
		}
	}
	count(&s.present, was.present, now.present)
	count(&s.busy, was.busy, now.busy)
	count(&s.waiting, was.waiting, now.waiting)
	count(&s.open, was.open, now.open)
	if g.run > 0 {
		s.tell(r, g, was.in, now.in)
	}
	count(&s.settled, was.settled, now.settled)
	if delete(s.failures, g.place); now.failed {
		t, _ := r.failure(g)
		s.failures[g.place] = failureText(t)
	}
	for _, rev := range was.revisions() {
		if s.old[rev]--; s.old[rev] == 0 {
			delete(s.old, rev)
		}
	}
	for _, rev := range now.revisions() {
		s.old[rev]++
	}
	if delete(s.stale, g.place); now.stale {
		s.stale[g.place] = struct{}{}
	}
	if delete(s.timed, g.place); g.timed {
		s.timed[g.place] = struct{}{}
	}
	if !now.present && g.slot > 0 {
		s.low = min(s.low, g.slot)
	}
	if there {
		s.groups[g.place] = now
	} else {
		delete(s.groups, g.place)
	}
}

// summarise also reports whether anything is left of the group.
func (r *round) summarise(g *group) (s summary, there bool) {
	current := r.in.Service.GetRevision()
	var old []uint64
	for _, it := range g.items {
		there = there || !it.gone
		if it.old == nil || r.in.Service != nil && it.old.GetRevision() == current {
			continue
		}
		if rev := it.old.GetRevision(); !slices.Contains(old, rev) {
			old = append(old, rev)
		}
	}
	if len(old) > 0 {
		s.old, there = &old, true
	}
	s.present, s.rank = g.present(), g.rank()
	if it := g.main(); g.run > 0 && r.in.Service != nil {
		if r.fits(g) {
			s.in = r.stands(g)
		}
		s.waiting = it != nil && it.t.GetNodeId() == "" && it.t.GetNotBefore() == 0
		return s, there
	}
	if r.in.Service == nil || !r.kept(g) {
		return s, there
	}
	if it := g.main(); it != nil {
		s.waiting = it.t.GetNodeId() == "" && it.t.GetNotBefore() == 0
		s.settled = r.isCurrent(it.t) && store.State(it.t) == store.Running && !slices.ContainsFunc(g.items, func(o *item) bool { return o != it && o.live() })
	}
	r.progress(g, &s)
	return s, there
}

// present reports whether the slot is in use: not one that only waits for its
// tasks to be gone.
func (g *group) present() bool {
	return slices.ContainsFunc(g.items, func(it *item) bool {
		return !it.gone && it.t.GetDesired() < store.Remove
	})
}

// rank says what a slot gives: running, on its way, nothing.
func (g *group) rank() uint8 {
	best := uint8(0)
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

// kept reports whether the group is one of this service as it is now.
func (r *round) kept(g *group) bool {
	if r.in.Service.GetSpec().GetGlobal() != nil {
		return g.slot == 0 && r.in.Node(g.node) != nil
	}
	return g.slot > 0 && g.present()
}

// creatable reports whether a new task may be made in the group.
func (r *round) creatable(g *group) bool {
	req := r.request(g)
	return req != nil && (g.slot > 0 || Welcomes(r.in.Node(g.node), req))
}

// Reconcile plans for a service of which nothing is remembered.
func Reconcile(in Input) Plan { return NewService().Plan(in) }
