package scheduler

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Preemption: a task that found no node takes the place of tasks of a lower priority.
// They are asked to end as by a drain, with their grace, and what they leave is kept for
// the one that waits until it has its node. What is known of it stands in the tasks that
// end (Task.preempted_by), so that another leader goes on with it.

// yield is that a task ends so that another has its place.
type yield struct {
	to, nodeID string
}

// mark notes what a task says of others: that it makes way for one, or ends for one.
func (l *loop) mark(t *schedulerpb.Task) {
	there := store.Live(t) && t.GetNodeId() != ""
	if there && t.GetMakesWayFor() != "" {
		l.uneven.moving[t.GetId()] = true
	} else {
		delete(l.uneven.moving, t.GetId())
	}
	if there && t.GetPreemptedBy() != "" {
		l.yielding[t.GetId()] = yield{t.GetPreemptedBy(), t.GetNodeId()}
	} else {
		delete(l.yielding, t.GetId())
	}
	if t.GetNodeId() != "" || !store.Wanted(t) || t.GetServiceId() == "" {
		delete(l.preempted, t.GetId())
	}
}

// awaited is how many tasks end for one that waits, and where.
func (l *loop) awaited(taskID string) (n int, nodeID string) {
	for _, y := range l.yielding {
		if y.to == taskID {
			n, nodeID = n+1, y.nodeID
		}
	}
	return n, nodeID
}

// claim is room that is kept for a task which waits, while others end there for it. It
// is counted as if the task were there, but when its turn comes, or that of a task of a
// higher priority.
type claim struct {
	task   *schedulerpb.Task
	req    *placement.Request
	nodeID string
}

func (l *loop) claims(r raftstore.Reader) map[string]*claim {
	out := map[string]*claim{}
	for _, y := range l.yielding {
		if out[y.to] != nil {
			continue
		}
		t, ok := store.Tasks.Get(r, y.to)
		if !ok || t.GetNodeId() != "" || !store.Wanted(t) {
			continue
		}
		if req := l.request(r, t.GetServiceId(), t.GetRevision()); req != nil {
			out[y.to] = &claim{t, req, y.nodeID}
			l.keep(out[y.to])
		}
	}
	return out
}

func (l *loop) keep(c *claim) {
	t := &schedulerpb.Task{Id: c.task.GetId(), ServiceId: c.task.GetServiceId(), NodeId: c.nodeID, Desired: store.Running,
		Status: &schedulerpb.TaskStatus{State: store.Assigned}}
	l.cluster.SetTask(t, c.req)
}

// lift takes back the claims that are not in a batch's way, and says which.
func (l *loop) lift(claims map[string]*claim, b *batch) (lifted []*claim) {
	in := map[string]bool{}
	for _, e := range b.tasks {
		in[e.new.GetId()] = true
	}
	for id, c := range claims {
		if in[id] || c.req.Priority < b.req.Priority {
			l.cluster.RemoveTask(id)
			lifted = append(lifted, c)
		}
	}
	return lifted
}

// preempt stops tasks for those of a batch that found no node, where that is possible
// and they may.
func (l *loop) preempt(r raftstore.Reader, b *batch, claims map[string]*claim, seen map[string]bool, now time.Time) (writes []*write) {
	if b.waits != "" || b.req.Priority == 0 || l.lately(b.key(), now) {
		return nil
	}
	for _, e := range b.tasks {
		id := e.new.GetId()
		if e.new.GetNodeId() != "" || e.old == nil || claims[id] != nil || l.lately(id, now) || restrained(r, e.old) {
			continue
		}
		if len(l.yielding) >= maxYielding || l.preempts >= maxPreempts {
			break // what ends, and what is written, has these looked at again
		}
		l.preempts++
		p, ok := l.cluster.Preempt(b.req, b.target, now)
		if !ok || len(p.Victims) == 0 {
			l.preempted[b.key()] = now // the others of the batch are no better off
			l.lately(b.key(), now)
			break
		}
		l.preempted[id] = now
		w := &write{serviceID: e.old.GetServiceId(), preempts: true}
		for _, victim := range p.Victims {
			t, ok := store.Tasks.Get(r, victim)
			if !ok || !store.Wanted(t) || seen[victim] {
				w = nil // the next plan knows more
				break
			}
			next := proto.CloneOf(t)
			next.Desired, next.PreemptedBy = store.Shutdown, id
			w.tasks = append(w.tasks, &edit{old: t, new: next})
		}
		if w == nil {
			continue
		}
		for _, v := range w.tasks {
			seen[v.old.GetId()] = true
			l.count(r, v.new)
		}
		e.clone().Status.Message = l.awaits(len(p.Victims), p.NodeID)
		e.written = true
		w.tasks = append(w.tasks, e)
		writes = append(writes, w)
		claims[id] = &claim{e.old, b.req, p.NodeID}
		l.keep(claims[id])
	}
	return writes
}

// lately reports whether victims were sought a moment ago for a task, or in vain for a
// batch, and sees that the loop looks again when that is over.
func (l *loop) lately(key string, now time.Time) bool {
	at, ok := l.preempted[key]
	again := at.Add(preemptPause)
	if !ok || !again.After(now) {
		delete(l.preempted, key)
		return false
	}
	l.wakeAt(again)
	return true
}

// key tells batches apart from plan to plan, and from tasks.
func (b *batch) key() string {
	return store.RevisionID(b.req.ServiceID, b.req.Revision) + "/" + b.target
}

func (l *loop) awaits(n int, nodeID string) string {
	name := l.cluster.Node(nodeID).GetDescription().GetHostname()
	if name == "" {
		name = nodeID
	}
	if n == 1 {
		return "waits on " + name + " for a task of a lower priority to end"
	}
	return fmt.Sprintf("waits on %s for %d tasks of a lower priority to end", name, n)
}

// restrained reports whether a task takes nobody's place: it is made in that of one whose
// place was taken, as else each would pass it on to the next, or another of its slot
// serves until it does.
func restrained(r raftstore.Reader, t *schedulerpb.Task) bool {
	var last *schedulerpb.Task
	for o := range store.Tasks.By(r, "slot", store.SlotKey(t.GetServiceId(), t.GetSlot(), t.GetTargetNodeId())) {
		if o.GetMakesWayFor() == t.GetId() {
			return true
		}
		if o.GetNodeId() != "" && (last == nil || store.Newer(o, last)) {
			last = o
		}
	}
	return last.GetPreemptedBy() != "" && last.GetRevision() == t.GetRevision()
}
