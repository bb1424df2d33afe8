package scheduler

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/orchestrator"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// loop is the leader's memory: what placement sums up of the nodes, and what is
// worth a look. Everything in it can be read from the store again.
type loop struct {
	cfg     Config
	cluster *placement.Cluster
	// requests has the compiled revisions by id.
	requests map[string]*placement.Request
	// services has what is remembered of each, and dirty those to look at.
	services map[string]*orchestrator.Service
	dirty    map[string]bool
	// retry: tasks without a node may have a chance now.
	retry bool
	// wake is when the next task that waits for its restart delay is due; zero:
	// none waits.
	wake time.Time
	// dependedOn are the names of services that tasks without a node wait for.
	dependedOn map[string]bool
	// again is when services are to be looked at though nothing changed.
	again map[string]time.Time
	// statuses are how far updates are, as plans say, to be written.
	statuses []statusChange
	// due are jobs of which a run may begin, as they are now; waiting those of which none
	// may yet; ends are runs that have ended, as plans say, to be written.
	due, waiting map[string]waiting
	ends         []store.RunEnd
	// drop has services whose virtual addresses stayed long enough, and until when.
	drop   map[string]int64
	uneven uneven
	// yielding are tasks that end so that others have their place.
	yielding map[string]yield
	// preempted is when victims were last sought for a task, or in vain for a batch.
	// preempts counts the searches of this plan.
	preempted map[string]time.Time
	preempts  int
	// latch: managers' availability may have to be latched.
	latch bool
	// address: nodes may have no address in the mesh. It is tried from time to
	// time: the store's level may have to be raised first.
	address bool
}

func newLoop(cfg Config) *loop {
	return &loop{
		cfg:        cfg,
		cluster:    placement.NewCluster(),
		requests:   map[string]*placement.Request{},
		services:   map[string]*orchestrator.Service{},
		dirty:      map[string]bool{},
		dependedOn: map[string]bool{},
		again:      map[string]time.Time{},
		drop:       map[string]int64{},
		due:        map[string]waiting{},
		waiting:    map[string]waiting{},
		uneven:     newUneven(),
		yielding:   map[string]yield{}, preempted: map[string]time.Time{},
		retry:   true,
		latch:   true,
		address: true,
	}
}

// work reports whether there is anything to look at.
func (l *loop) work() bool { return len(l.dirty) > 0 || l.retry || l.latch }

// service has one looked at.
func (l *loop) service(id string) *orchestrator.Service {
	l.dirty[id] = true
	s := l.services[id]
	if s == nil {
		s = orchestrator.NewService()
		l.services[id] = s
	}
	return s
}

// load reads everything.
func (l *loop) load(r *raftstore.ReadTx) error {
	l.cluster.SetStrategy(store.Strategy(r))
	for n := range store.Nodes.All(r) {
		l.cluster.SetNode(n)
	}
	for s := range store.Services.All(r) {
		l.service(s.GetId())
		l.levels(s)
	}
	for rev := range store.Revisions.All(r) {
		l.service(rev.GetServiceId()) // also of services that were removed
	}
	for t := range store.Tasks.All(r) {
		l.service(t.GetServiceId())
		l.count(r, t)
	}
	return nil
}

// observe takes note of changes. An event only says where to look: what is
// there is read from one snapshot, which also has what the loop itself wrote.
func (l *loop) observe(events []raftstore.Event) error {
	return l.cfg.Store.View(func(r *raftstore.ReadTx) error {
		nodes, tasks := map[string]bool{}, map[string]*schedulerpb.Task{}
		for _, e := range events {
			if old, now, ok := store.Tasks.Event(e); ok {
				t := either(now, old)
				tasks[t.GetId()] = t
			} else if old, now, ok := store.Nodes.Event(e); ok {
				nodes[either(old, now).GetId()] = true
			} else if old, now, ok := store.Services.Event(e); ok {
				l.service(either(old, now).GetId())
				l.levels(now)
				l.changed(either(now, old).GetSpec().GetName())
			} else if old, now, ok := store.ServiceRuns.Event(e); ok {
				l.service(either(old, now).GetServiceId())
				l.came(r, either(old, now).GetServiceId())
			} else if old, now, ok := store.Revisions.Event(e); ok && now == nil {
				delete(l.requests, old.GetId())
				if l.services[old.GetServiceId()] != nil {
					l.service(old.GetServiceId())
				}
			}
		}
		l.cluster.SetStrategy(store.Strategy(r))
		for id := range nodes {
			l.observeNode(r, id)
		}
		for _, t := range tasks {
			l.observeTask(r, t)
		}
		return nil
	})
}

func either[T comparable](a, b T) T {
	var zero T
	if b != zero {
		return b
	}
	return a
}

// observeTask looks once at a task of which there were any number of events.
func (l *loop) observeTask(r raftstore.Reader, t *schedulerpb.Task) {
	l.service(t.GetServiceId()).Touch(t)
	l.came(r, t.GetServiceId())
	now, ok := store.Tasks.Get(r, t.GetId())
	if !ok {
		l.cluster.RemoveTask(t.GetId())
		l.mark(&schedulerpb.Task{Id: t.GetId()})
	} else {
		l.count(r, now)
	}
	if !ok || now.GetNodeId() == "" || !store.Live(now) {
		l.retry = true // there is one more to place, or more room
	}
}

// observeNode marks what a changed node concerns: the services with tasks there
// and the global ones. Reports that change nothing for the scheduler end here.
func (l *loop) observeNode(r raftstore.Reader, id string) {
	before := l.cluster.Node(id)
	now, ok := store.Nodes.Get(r, id)
	if ok {
		l.cluster.SetNode(now)
	} else {
		l.cluster.RemoveNode(id)
	}
	if ok && before != nil && sameForScheduling(before, now) {
		return
	}
	l.retry, l.latch = true, true
	for t := range store.Tasks.By(r, "node", id) {
		l.service(t.GetServiceId()).Touch(t)
	}
	for s := range store.Services.All(r) {
		if spec.PerNode(s.GetSpec()) {
			l.service(s.GetId()).TouchNode(id)
		}
		if s.GetSpec().GetRebalance().GetAutomatic() {
			l.service(s.GetId())
			l.uneven.services[s.GetId()] = true
		}
	}
}

func sameForScheduling(a, b *schedulerpb.Node) bool {
	x, y := a.GetDescription(), b.GetDescription()
	return a.GetState() == b.GetState() && a.GetManager() == b.GetManager() &&
		store.Effective(a) == store.Effective(b) && a.GetDrainBy() == b.GetDrainBy() && maps.Equal(a.GetLabels(), b.GetLabels()) &&
		x.GetHostname() == y.GetHostname() && x.GetOs() == y.GetOs() && x.GetArch() == y.GetArch() &&
		proto.Equal(x.GetResources(), y.GetResources()) &&
		slices.EqualFunc(x.GetFeatures(), y.GetFeatures(), func(f, g *taskpb.Feature) bool {
			return f.GetName() == g.GetName() && f.GetPresent() == g.GetPresent() && f.GetRequired() == g.GetRequired()
		})
}

// count tells placement of a task as it is stored now.
func (l *loop) count(r raftstore.Reader, t *schedulerpb.Task) {
	req := l.request(r, t.GetServiceId(), t.GetRevision())
	if req == nil {
		req = &placement.Request{ServiceID: t.GetServiceId(), Revision: t.GetRevision()}
	}
	l.cluster.SetTask(t, req)
	l.mark(t)
}

// request gives the compiled revision, or nil where it cannot be had; that is
// logged, as validation lets no such revision in.
func (l *loop) request(r raftstore.Reader, serviceID string, revision uint64) *placement.Request {
	id := store.RevisionID(serviceID, revision)
	if req, ok := l.requests[id]; ok && req.Current(func(name string) string { return store.VolumeID(r, name) }) {
		return req
	}
	rev, ok := store.Revisions.Get(r, id)
	if !ok {
		return nil
	}
	req, err := placement.Compile(serviceID, revision, rev.GetSpec(), meshstore.NodeFeature(r))
	if err != nil {
		l.cfg.Logger.Error("a stored revision cannot be used", "revision", id, "err", err)
		return nil
	}
	req.Have(store.VolumesOf(r, rev.GetSpec().GetContainer()), true)
	l.requests[id] = req
	return req
}
