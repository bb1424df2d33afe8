package orchestrator

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// world is a store, nodes and a placement small enough to reason about. It
// carries plans out and refuses, as the invariants of the package say, what no
// plan may ask for.
type world struct {
	t       rapid.TB
	service *schedulerpb.Service
	tasks   map[string]*schedulerpb.Task
	nodes   map[string]*schedulerpb.Node
	revs    map[string]*taskpb.TaskSpec
	now     time.Time
	version uint64
	ids     int
	// memory is what a leader remembers of the service.
	memory *Service
	// seen are the nodes as they were at the last plan.
	seen map[string]*schedulerpb.Node
	// drained are the nodes that were so at any time.
	drained map[string]bool
	// overlaps: new tasks were started first at some time.
	overlaps bool
	// least is how many tasks served when the last plan was carried out.
	least int
	// uneven: tasks may be moved from the nodes with most to those with least. wayMade
	// are those that made way at any time.
	uneven  bool
	wayMade map[string]bool
	// before is the revision that an update goes back to.
	before uint64
}

func newWorld(t rapid.TB, global bool, policy *taskpb.RestartPolicy) *world {
	w := &world{
		t: t, now: time.Unix(1_000_000, 0),
		memory: NewService(), drained: map[string]bool{}, wayMade: map[string]bool{},
		tasks: map[string]*schedulerpb.Task{}, nodes: map[string]*schedulerpb.Node{}, revs: map[string]*taskpb.TaskSpec{},
	}
	sp := &schedulerpb.ServiceSpec{Name: "web", Task: &taskpb.TaskSpec{Restart: policy}}
	if global {
		sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	} else {
		sp.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 3}}
	}
	w.service = &schedulerpb.Service{Meta: w.meta(nil), Id: "svc", Spec: sp, Revision: 1}
	w.revs[store.RevisionID("svc", 1)] = sp.Task
	for range 3 {
		w.addNode()
	}
	return w
}

func (w *world) meta(old *raftstorepb.Meta) *raftstorepb.Meta {
	w.version++
	m := &raftstorepb.Meta{Version: w.version, CreatedAt: w.now.UnixNano(), UpdatedAt: w.now.UnixNano()}
	if old != nil {
		m.CreatedAt = old.CreatedAt
	}
	return m
}

func (w *world) id(prefix string) string {
	w.ids++
	return fmt.Sprintf("%s%04d", prefix, w.ids)
}

func (w *world) addNode() string {
	id := w.id("node")
	w.nodes[id] = &schedulerpb.Node{Id: id, Availability: store.Active, State: schedulerpb.NodeState_NODE_STATE_READY}
	return id
}

func (w *world) request() *placement.Request {
	if w.service == nil {
		return nil
	}
	r, err := placement.Compile("svc", w.service.GetRevision(), w.service.GetSpec().GetTask(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) input() Input {
	return Input{
		ServiceID: "svc", Service: w.service, Request: w.request(),
		Tasks: maps.Values(w.tasks),
		Slot: func(slot uint32, node string) iter.Seq[*schedulerpb.Task] {
			return func(yield func(*schedulerpb.Task) bool) {
				for _, t := range w.tasks {
					if t.GetSlot() == slot && t.GetTargetNodeId() == node && !yield(t) {
						return
					}
				}
			}
		},
		Revisions: slices.Sorted(maps.Keys(w.revs)),
		Node:      func(id string) *schedulerpb.Node { return w.nodes[id] },
		Nodes:     maps.Values(w.nodes),
		NewID:     func() string { return w.id("task") },
		Now:       w.now,
		Surplus:   w.surplus(),
	}
}

// surplus is a node with two tasks more than another.
func (w *world) surplus() func() (string, string, bool) {
	if !w.uneven {
		return nil
	}
	return func() (string, string, bool) {
		count := map[string]int{}
		for id, n := range w.nodes {
			if Welcomes(n, w.request()) {
				count[id] = 0
			}
		}
		for _, t := range w.tasks {
			if _, ok := count[t.GetNodeId()]; ok && store.Wanted(t) {
				count[t.GetNodeId()]++
			}
		}
		most, least := "", ""
		for _, id := range slices.Sorted(maps.Keys(count)) {
			if most == "" || count[id] > count[most] {
				most = id
			}
			if least == "" || count[id] < count[least] {
				least = id
			}
		}
		return most, fmt.Sprintf("it has %d, %s has %d", count[most], least, count[least]), most != "" && count[most]-count[least] >= 2
	}
}

// reconcile carries out the changes of a plan that pass, and reports how many
// there were in all.
func (w *world) reconcile(pass func() bool) int {
	w.observeNodes()
	p := w.memory.Plan(w.input())
	for _, slot := range p.Slots {
		passed := pass()
		for _, c := range slot {
			w.touch(cmp.Or(c.Old, c.New)) // also what is left out
			if !passed {
				continue
			}
			w.check(c)
			if c.New == nil {
				delete(w.tasks, c.Old.GetId())
				continue
			}
			w.put(c.New)
		}
	}
	for _, id := range p.Revisions {
		if !pass() {
			continue
		}
		for _, t := range w.tasks {
			if store.RevisionID("svc", t.GetRevision()) == id {
				w.t.Fatalf("revision %s is forgotten while task %s refers to it", id, t.GetId())
			}
		}
		delete(w.revs, id)
	}
	if p.Status != nil && pass() {
		w.advance(p)
	}
	if p.Rebalance != nil && pass() && w.service.GetMeta().GetVersion() == p.ServiceVersion {
		w.bump(func(s *schedulerpb.Service) { s.RebalanceStatus = p.Rebalance })
	}
	w.invariants()
	n := len(p.Slots) + len(p.Revisions)
	if p.Status != nil || p.Rebalance != nil || p.Again.After(w.now) {
		n++
	}
	return n
}

func (w *world) check(c Change) {
	switch {
	case c.Old == nil:
		if c.New.GetRevision() != w.service.GetRevision() || c.New.GetDesired() != store.Running {
			w.t.Fatalf("made a task nobody wants: %v", c.New)
		}
	case c.New == nil:
		n := w.nodes[c.Old.GetNodeId()]
		lost := n == nil || n.GetState() == schedulerpb.NodeState_NODE_STATE_DOWN
		if store.Live(c.Old) && c.Old.GetNodeId() != "" && !lost {
			w.t.Fatalf("forgot a task that may have a container: %v", c.Old)
		}
	default:
		if err := store.CheckGrowth(c.Old, c.New); err != nil {
			w.t.Fatal(err)
		}
	}
}

// invariants holds at every moment, however plans are cut short: one live task
// of a slot, or two where one is on a node that was drained.
func (w *world) invariants() {
	live := map[string][]*schedulerpb.Task{}
	for _, t := range w.tasks {
		if !store.Live(t) {
			continue
		}
		key := store.SlotKey("svc", t.GetSlot(), t.GetTargetNodeId())
		live[key] = append(live[key], t)
	}
	for key, tasks := range live {
		leaves := func(t *schedulerpb.Task) bool {
			return t.GetSlot() > 0 && w.drained[t.GetNodeId()] || w.overlaps || w.wayMade[t.GetId()]
		}
		if len(tasks) > 2 || len(tasks) == 2 && !slices.ContainsFunc(tasks, leaves) {
			w.t.Fatalf("live in %s: %v", key, tasks)
		}
	}
}

func (w *world) touch(t *schedulerpb.Task) { w.memory.Touch(t) }

// observeNodes touches what the leader's loop does for each that has changed.
func (w *world) observeNodes() {
	for _, t := range w.tasks {
		if id := t.GetNodeId(); !proto.Equal(w.seen[id], w.nodes[id]) {
			w.touch(t)
		}
	}
	before := w.seen
	w.seen = map[string]*schedulerpb.Node{}
	for id, n := range w.nodes {
		w.drained[id] = w.drained[id] || store.Effective(n) == store.Drain
		w.seen[id] = proto.CloneOf(n)
		if !proto.Equal(before[id], n) {
			w.memory.TouchNode(id)
		}
	}
	for id := range before {
		if w.nodes[id] == nil {
			w.memory.TouchNode(id)
		}
	}
}

func (w *world) put(t *schedulerpb.Task) {
	w.touch(t)
	t = proto.CloneOf(t)
	w.wayMade[t.GetId()] = w.wayMade[t.GetId()] || t.GetMakesWayFor() != ""
	t.Meta = w.meta(t.Meta)
	w.tasks[t.GetId()] = t
}

// place gives every waiting task the node with the fewest tasks.
func (w *world) place() {
	for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
		t := w.tasks[id]
		if t.GetNodeId() != "" || !store.Wanted(t) {
			continue
		}
		best, fewest := "", 0
		for _, nid := range slices.Sorted(maps.Keys(w.nodes)) {
			if !Welcomes(w.nodes[nid], w.request()) || t.GetTargetNodeId() != "" && t.GetTargetNodeId() != nid {
				continue
			}
			count := 0
			for _, o := range w.tasks {
				if o.GetNodeId() == nid && store.Live(o) {
					count++
				}
			}
			if best == "" || count < fewest {
				best, fewest = nid, count
			}
		}
		if best != "" {
			next := proto.CloneOf(t)
			next.NodeId = best
			next.Status.State = store.Assigned
			w.put(next)
		}
	}
}

// agent does on a task's node what its node would do next, and reports whether
// that was anything.
func (w *world) agent(id string, fails bool) bool {
	t := w.tasks[id]
	n := w.nodes[t.GetNodeId()]
	if n == nil || n.GetState() != schedulerpb.NodeState_NODE_STATE_READY || !store.Live(t) {
		return false
	}
	next := proto.CloneOf(t)
	switch {
	case t.GetDesired() > store.Running:
		next.Status.State = store.Shutdown
	case fails:
		next.Status.State = store.Failed
	case store.State(t) == store.Running:
		return false
	default:
		next.Status.State = store.Running
		next.RunningAt = w.now.UnixNano()
	}
	w.put(next)
	return true
}

func (w *world) bump(change func(*schedulerpb.Service)) {
	s := proto.CloneOf(w.service)
	change(s)
	s.Meta = w.meta(s.Meta)
	w.service = s
}

func (w *world) update() {
	w.bump(func(s *schedulerpb.Service) { s.Revision++; s.Spec.Task.Force++ })
	w.revs[store.RevisionID("svc", w.service.GetRevision())] = w.service.Spec.Task
}

// settle lets everybody work until nothing changes.
func (w *world) settle() {
	for range 2000 {
		w.now = w.now.Add(time.Second)
		n := w.reconcile(func() bool { return true })
		w.place()
		for _, id := range slices.Sorted(maps.Keys(w.tasks)) {
			if w.agent(id, false) {
				n++
			}
		}
		if n == 0 {
			return
		}
	}
	w.t.Fatal("it never comes to rest")
}

func (w *world) running() uint64 {
	var c store.Count
	for _, t := range w.tasks {
		c.Add(t)
	}
	return c.Running
}

func (w *world) converged(t rapid.TB) {
	if w.service == nil {
		if len(w.tasks) > 0 || len(w.revs) > 0 {
			t.Fatalf("the service is gone and left %d tasks and %d revisions", len(w.tasks), len(w.revs))
		}
		return
	}
	want := Wanted(w.service, w.request(), maps.Values(w.nodes), maps.Values(w.tasks))
	if n := w.running(); n != want {
		t.Fatalf("%d tasks run, %d wanted", n, want)
	}
	history := map[string]int{}
	used := map[string]bool{store.RevisionID("svc", w.service.GetRevision()): true}
	for _, task := range w.tasks {
		used[store.RevisionID("svc", task.GetRevision())] = true
		if store.Live(task) && task.GetRevision() != w.service.GetRevision() {
			t.Fatalf("a task of revision %d is live, revision %d was asked for", task.GetRevision(), w.service.GetRevision())
		}
		if !store.Live(task) {
			if task.GetDesired() <= store.Running {
				t.Fatalf("a task that ended is still wanted: %v", task)
			}
			history[store.SlotKey("", task.GetSlot(), task.GetTargetNodeId())]++
		}
	}
	for key, n := range history {
		if n > MaxHistory {
			t.Fatalf("%d ended tasks are kept in %s", n, key)
		}
	}
	if len(used) != len(w.revs) {
		t.Fatalf("revisions %v are kept, %v are in use", slices.Sorted(maps.Keys(w.revs)), slices.Sorted(maps.Keys(used)))
	}
}
