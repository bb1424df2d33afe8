package scheduler

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// write is what is changed together or not at all, while what it was planned
// from holds.
type write struct {
	serviceID string
	// guarded: only while the service is at this version (0: removed).
	guarded bool
	version uint64
	tasks   []*edit
	// revision is forgotten; empty for none.
	revision string
	// preempts: tasks end so that another has their place, which is put on record.
	preempts bool
}

// edit is one task, old and new; nil for made and forgotten.
type edit struct {
	old, new *schedulerpb.Task
	spare    bool // see orchestrator.Change
	kept     bool // it had a node, and waits on for want of an address
	written  bool // it is in a write of its own
}

// step makes one plan and writes it.
func (l *loop) step(ctx context.Context) error {
	if l.latch {
		if err := l.latchManagers(ctx); err != nil {
			return err
		}
		l.latch = false
	}
	if l.address {
		var err error
		if l.address, err = store.AddressNodes(ctx, l.cfg.Store); err != nil && ctx.Err() == nil {
			l.cfg.Logger.Error("nodes have no address in the mesh yet", "err", err)
		}
	}
	writes, err := l.plan()
	if err != nil {
		return err
	}
	if l.address { // no table says when the level is raised
		l.wakeAt(time.Now().Add(addressPause))
	}
	if err := l.commit(ctx, writes); err != nil {
		return err
	}
	if err := l.advance(ctx); err != nil {
		return err
	}
	if err := l.jobs(ctx); err != nil {
		return err
	}
	return l.dropVIPs(ctx)
}

// linger takes note of virtual addresses that stay for a while.
func (l *loop) linger(s *schedulerpb.Service, now time.Time) {
	until := s.GetVipsUntil()
	if until == 0 {
		return
	}
	at := time.Unix(0, until)
	if !now.Before(at) {
		l.drop[s.GetId()] = until
	} else {
		l.againAt(s.GetId(), at)
	}
}

// againAt has a service looked at again by then.
func (l *loop) againAt(id string, at time.Time) {
	if next, ok := l.again[id]; !ok || at.Before(next) {
		l.again[id] = at
	}
}

// dropVIPs gives back those that stayed long enough.
func (l *loop) dropVIPs(ctx context.Context) error {
	if len(l.drop) == 0 {
		return nil
	}
	err := l.cfg.Store.Update(ctx, func(tx *raftstore.Tx) error {
		for id, until := range l.drop {
			if err := store.DropVIPs(tx, id, until); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, raftstore.ErrConflict) {
		for id := range l.drop { // it is looked at once more
			l.service(id)
		}
		err = nil
	}
	if err == nil {
		clear(l.drop)
	}
	return err
}

// plan makes a plan from one snapshot.
func (l *loop) plan() (writes []*write, err error) {
	err = l.cfg.Store.View(func(r *raftstore.ReadTx) error {
		now := time.Now()
		writes = l.planServices(r, now)
		if l.retry || len(writes) > 0 {
			writes = l.place(r, writes, now)
			writes = l.spare(writes)
		}
		return nil
	})
	return writes, err
}

func (l *loop) latchManagers(ctx context.Context) error {
	needed := false
	err := l.cfg.Store.View(func(r *raftstore.ReadTx) error {
		needed = store.NeedsLatch(r)
		return nil
	})
	if err != nil || !needed {
		return err
	}
	return l.cfg.Store.Update(ctx, store.LatchManagers)
}

// planServices looks at dirty services until the plan is full.
func (l *loop) planServices(r raftstore.Reader, now time.Time) (out []*write) {
	changes := 0
	l.uneven.moved, l.uneven.searches = false, 0
	for id := range l.dirty {
		if changes >= maxRound {
			break
		}
		delete(l.dirty, id)
		in := orchestrator.Read(r, id)
		in.NewID, in.Now = ident.New, now
		in.RequestOf = func(revision uint64) *placement.Request { return l.request(r, id, revision) }
		if in.Service != nil {
			if in.Request = l.request(r, id, in.Service.GetRevision()); in.Request == nil {
				l.cfg.Logger.Error("a service has no usable revision and is left as it is", "service", id)
				continue
			}
		}
		svc := l.services[id]
		sought := l.seek(r, &in, now)
		p := svc.Plan(in)
		sought()
		if p.More {
			l.dirty[id] = true
		}
		if delete(l.again, id); !p.Again.IsZero() {
			l.again[id] = p.Again
		}
		l.note(in.Service, p)
		l.ends = append(l.ends, p.Runs...)
		l.dueAt(in, now)
		l.linger(in.Service, now)
		if in.Service == nil && svc.Empty() && len(p.Revisions) == 0 {
			delete(l.services, id)
		}
		for _, slot := range p.Slots {
			w := &write{serviceID: id, guarded: true, version: p.ServiceVersion}
			for _, c := range slot {
				w.tasks = append(w.tasks, &edit{old: c.Old, new: c.New, spare: c.Spare})
			}
			out = append(out, w)
			changes += len(slot)
		}
		for _, rev := range p.Revisions {
			out = append(out, &write{serviceID: id, guarded: true, version: p.ServiceVersion, revision: rev})
		}
	}
	return out
}

// spare leaves out new slots for which there is no node, but for as many as may
// wait, to show what is missing and why.
func (l *loop) spare(writes []*write) []*write {
	waiting := map[string]int{} // of each service, without new slots
	isNew := func(w *write) bool { return len(w.tasks) == 1 && w.tasks[0].spare }
	for _, w := range writes {
		if !isNew(w) {
			continue
		}
		if _, ok := waiting[w.serviceID]; !ok {
			waiting[w.serviceID] = l.services[w.serviceID].Waiting()
		}
		waiting[w.serviceID]--
	}
	return slices.DeleteFunc(writes, func(w *write) bool {
		if !isNew(w) || w.tasks[0].new.GetNodeId() != "" {
			return false
		}
		if waiting[w.serviceID] < orchestrator.MaxWaiting {
			waiting[w.serviceID]++
			return false
		}
		t := w.tasks[0].new
		l.services[w.serviceID].Touch(t)
		return true
	})
}

// delayed reports whether a task still waits for its restart delay, and sees
// that the loop looks again when it is over. The delay is kept here and not by
// the node: one that fails everything at once, or says so, would else turn the
// cluster's log into its drum.
func (l *loop) delayed(t *schedulerpb.Task, now time.Time) bool {
	due := time.Unix(0, t.GetNotBefore())
	if !due.After(now) {
		return false
	}
	l.wakeAt(due)
	return true
}

// wakeAt sees that the loop looks again by then.
func (l *loop) wakeAt(due time.Time) {
	if l.wake.IsZero() || due.Before(l.wake) {
		l.wake = due
	}
}

// batch is equal tasks to place: those of one revision, for one node where they
// are meant for one.
type batch struct {
	req    *placement.Request
	target string
	tasks  []*edit
	waits  string // what it depends on that has not come so far; empty: nothing
}

// place gives nodes to the tasks the plan makes and to those that wait for one,
// the waiting ones first, and adds what changes of the latter to the plan.
func (l *loop) place(r raftstore.Reader, writes []*write, now time.Time) []*write {
	var planned []*edit
	seen := map[string]bool{}
	for _, w := range writes {
		for _, e := range w.tasks {
			planned = append(planned, e)
			if e.old != nil {
				seen[e.old.GetId()] = true
			}
		}
	}
	more := false
	l.wake = time.Time{}
	clear(l.dependedOn)
	var waiting []*edit
	for t := range store.Tasks.By(r, "node", store.Unassigned) {
		switch {
		case seen[t.GetId()] || !store.Wanted(t):
		case l.dirty[t.GetServiceId()]:
			more = true // first see what becomes of its service
		case l.delayed(t, now):
		default:
			waiting = append(waiting, &edit{old: t, new: t})
		}
	}
	l.retry = more
	slices.SortFunc(waiting, func(a, b *edit) int {
		if store.Newer(a.old, b.old) {
			return 1
		}
		return -1
	})
	l.preempts = 0
	maps.DeleteFunc(l.preempted, func(_ string, at time.Time) bool { return now.Sub(at) >= preemptPause })
	claims := l.claims(r)
	for _, b := range l.batches(r, slices.Concat(waiting, planned), now) {
		lifted := l.lift(claims, b)
		for _, e := range b.tasks[:l.placeBatch(b, now)] {
			delete(claims, e.new.GetId())
		}
		for _, c := range lifted {
			if claims[c.task.GetId()] != nil {
				l.keep(c)
			}
		}
		writes = append(writes, l.preempt(r, b, claims, seen, now)...)
	}
	for id := range claims {
		l.cluster.RemoveTask(id)
	}
	for _, e := range waiting {
		if e.new != e.old && !e.written {
			writes = append(writes, &write{serviceID: e.old.GetServiceId(), tasks: []*edit{e}})
		}
	}
	return writes
}

// batches groups tasks without a node, the highest priority first, and those of one in
// the order in which they come.
func (l *loop) batches(r raftstore.Reader, edits []*edit, now time.Time) []*batch {
	type key struct {
		revision, target string
	}
	found := map[key]*batch{}
	var out []*batch
	for _, e := range edits {
		t := e.new
		if t == nil || t.GetNodeId() != "" || !store.Wanted(t) || l.delayed(t, now) {
			continue
		}
		k := key{store.RevisionID(t.GetServiceId(), t.GetRevision()), t.GetTargetNodeId()}
		b := found[k]
		if b == nil {
			req := l.request(r, t.GetServiceId(), t.GetRevision())
			if req == nil {
				continue
			}
			b = &batch{req: req, target: t.GetTargetNodeId(), waits: l.waits(r, t.GetServiceId(), req)}
			found[k] = b
			out = append(out, b)
		}
		b.tasks = append(b.tasks, e)
	}
	slices.SortStableFunc(out, func(a, b *batch) int { return cmp.Compare(b.req.Priority, a.req.Priority) })
	return out
}

// waits says what tasks of a service wait for of others, and sees that the loop looks
// again when those have changed.
func (l *loop) waits(r raftstore.Reader, service string, req *placement.Request) string {
	if len(req.DependsOn) == 0 {
		return ""
	}
	s, ok := store.Services.Get(r, service)
	if !ok {
		return "" // its tasks are about to go
	}
	why := store.Waits(r, s, req.DependsOn)
	if why != "" {
		for _, d := range req.DependsOn {
			l.dependedOn[d.GetService()] = true
		}
	}
	return why
}

// came has what waits for a service of that id looked at again.
func (l *loop) came(r raftstore.Reader, id string) {
	if len(l.dependedOn)+len(l.uneven.held) == 0 {
		return
	}
	if s, ok := store.Services.Get(r, id); ok {
		l.changed(s.GetSpec().GetName())
	}
}

// changed has what waits for the service of that name looked at again: tasks without a
// node, and services of which none is moved meanwhile.
func (l *loop) changed(name string) {
	l.retry = l.retry || l.dependedOn[name]
	for id, names := range l.uneven.held {
		if slices.Contains(names, name) {
			delete(l.uneven.held, id)
			l.service(id)
		}
	}
}

// placeBatch says how many of the batch have a node now, the first ones.
func (l *loop) placeBatch(b *batch, now time.Time) int {
	var nodes []string
	var refusal *placement.Refusal
	if b.waits != "" {
		// It is given no node: what it would reserve there others can have.
	} else if b.target == "" {
		nodes, refusal = l.cluster.Place(b.req, len(b.tasks), now)
	} else if refusal = l.cluster.Check(b.req, b.target); refusal == nil {
		nodes = []string{b.target}
	}
	why := b.waits
	if refusal != nil {
		why = refusal.String()
	}
	for i, e := range b.tasks {
		switch {
		case i < len(nodes):
			t := e.clone()
			t.NodeId, t.Generic = nodes[i], l.cluster.Give(b.req, nodes[i])
			t.Status = &schedulerpb.TaskStatus{State: store.Assigned, At: now.UnixNano()}
			l.cluster.SetTask(t, b.req)
		default:
			text := why
			if n, nodeID := l.awaited(e.new.GetId()); n > 0 {
				text = l.awaits(n, nodeID)
			}
			if e.new.GetStatus().GetMessage() != text && !l.saidLately(e.old, now) {
				e.clone().Status.Message = text
			}
		}
	}
	return min(len(nodes), len(b.tasks))
}

// saidLately reports whether a task's reason to wait was written a moment ago.
// How many nodes lack what changes with every node, and each change would be an
// entry of the log for each task that waits: the newest word follows later.
func (l *loop) saidLately(t *schedulerpb.Task, now time.Time) bool {
	if t == nil || t.GetStatus().GetMessage() == "" {
		return false
	}
	again := time.Unix(0, t.GetMeta().GetUpdatedAt()).Add(messagePause)
	if !again.After(now) {
		return false
	}
	l.wakeAt(again)
	return true
}

// clone returns the new task to change, never the stored one.
func (e *edit) clone() *schedulerpb.Task {
	if e.new == e.old {
		e.new = proto.CloneOf(e.old)
	}
	return e.new
}
