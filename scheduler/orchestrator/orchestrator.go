// Package orchestrator decides, for one service at a time, which tasks must be
// made, stopped or forgotten so that what is becomes what was asked for.
//
// It owns the rules of replicas and slots, of global services, of restarts, of
// rolling updates, of tasks lost with their node, and of what is kept of the
// past. It refuses to act: a plan is made from what is known of a service,
// without store, clock or goroutine. The leader loop (package scheduler) asks
// again whenever anything has changed, for ever; a plan that was half carried
// out, by this leader or the one before, is simply planned again from where it
// stopped.
//
// The cost of a plan grows with what changed. A Service remembers a few bytes of
// each slot, which are what the rules about all slots together need (how many
// there are, which one is next to be updated), and is told which slots to look
// at again (Touch); all other rules look at one slot alone. Everything it
// remembers can be had from the store again: a new Service looks at all slots.
//
// The invariants that every plan keeps:
//
//   - a slot (or a node, for a global service) has at most one task that may
//     have a container; a replacement is made when its predecessor has ended,
//     was never given a node, or was lost with its node. One that serves on a
//     drained node is the exception, and one that serves under an older
//     revision where new tasks are started first, or is moved to another node: its
//     replacement is made beside it, and it ends when that one runs;
//   - a task that is moved ends only when its replacement runs, whatever becomes of
//     that. One moves at a time, while all that should run does;
//   - an update stops no more tasks that serve than its parallelism, and none
//     before another serves in its place where new tasks are started first. What
//     it knows of how far it is stands in the store: in the tasks, and in the
//     service's UpdateStatus;
//   - state and desired state of a task only grow;
//   - the restart policy governs tasks that ended by themselves. What the
//     cluster stopped (update, drain, changed labels) or lost (node down or
//     removed) is replaced at once, whatever the policy, and without its delay;
//   - a live task is never forgotten: it is asked to stop first, and its record
//     goes when its node said that it ended, or the node itself is lost.
package orchestrator

import (
	"iter"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/placement"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Input is what is known of one service.
type Input struct {
	ServiceID string
	// Service is nil where it was removed.
	Service *schedulerpb.Service
	// Request is the service's current revision, compiled; nil where it was
	// removed.
	Request *placement.Request
	// Tasks are all of the service; read where all slots are looked at.
	Tasks iter.Seq[*schedulerpb.Task]
	// Slot gives the tasks of one slot, or of one node of a global service.
	Slot func(slot uint32, targetNode string) iter.Seq[*schedulerpb.Task]
	// Revisions are the ids of those that are stored.
	Revisions []string
	// Node gives nil for a node that was removed.
	Node func(id string) *schedulerpb.Node
	// Runs are a job's, ascending by number. RequestOf gives the request of a revision
	// that is not the current; nil: it is not there.
	Runs      []*schedulerpb.ServiceRun
	RequestOf func(revision uint64) *placement.Request
	// Surplus says on which node a task of the current revision is too many, and why;
	// nil: none is to be moved now.
	Surplus func() (nodeID, why string, ok bool)
	// Nodes is read for global services only.
	Nodes iter.Seq[*schedulerpb.Node]
	// NewID makes the ids of new tasks.
	NewID func() string
	Now   time.Time
}

// Read says how to get the input from the store. Request, RequestOf, NewID and
// Now are the caller's to fill.
func Read(r raftstore.Reader, serviceID string) Input {
	in := Input{
		ServiceID: serviceID,
		Tasks:     store.OfService(r, serviceID),
		Slot: func(slot uint32, targetNode string) iter.Seq[*schedulerpb.Task] {
			return store.Tasks.By(r, "slot", store.SlotKey(serviceID, slot, targetNode))
		},
		Nodes: store.Nodes.All(r),
		Node: func(id string) *schedulerpb.Node {
			n, _ := store.Nodes.Get(r, id)
			return n
		},
	}
	in.Service, _ = store.Services.Get(r, serviceID)
	if spec.IsJob(in.Service.GetSpec()) {
		in.Runs = store.Runs(r, serviceID)
	}
	for rev := range store.Revisions.By(r, "service", serviceID) {
		in.Revisions = append(in.Revisions, rev.GetId())
	}
	return in
}

// Change is one task to write: Old is absent for a new task, New for one to
// forget.
type Change struct {
	Old, New *schedulerpb.Task
	// Spare: New is of one more slot. It may be left out while there is no node
	// for it and others wait already.
	Spare bool
}

// Plan is what to do now. It holds for the service as it was at ServiceVersion
// (0: removed) and for each task as Old has it; where that is no longer so, the
// part must be left out and its slot touched.
type Plan struct {
	ServiceID      string
	ServiceVersion uint64
	// Slots has the changes of each slot that has any. Those of one slot are
	// made together or not at all: a replacement without the end of what it
	// replaces would be one task too many.
	Slots [][]Change
	// Revisions to forget.
	Revisions []string
	// More: some slots were not looked at yet, so that one large service does
	// not keep the others waiting.
	More bool
	// Status is what the service's UpdateStatus becomes; nil: it stays. RollBack, if not
	// empty, says why the service is to go back to the spec that its update began from;
	// where that cannot be it has Status.
	Status   *schedulerpb.UpdateStatus
	RollBack string
	// Runs have ended, or go on again.
	Runs []store.RunEnd
	// Rebalance is what the service's RebalanceStatus becomes; nil: it stays.
	Rebalance *schedulerpb.RebalanceStatus
	// Again is when the service must be planned again though nothing changed;
	// zero: never.
	Again time.Time
}

// Wanted is the number of tasks a service that is no job should have running now. A global
// service wants one on each node that may get one, and keeps those it has on
// nodes that may not get another (paused ones).
func Wanted(s *schedulerpb.Service, req *placement.Request, nodes iter.Seq[*schedulerpb.Node], tasks iter.Seq[*schedulerpb.Task]) uint64 {
	if s.GetSpec().GetGlobal() == nil {
		return s.GetSpec().GetReplicated().GetReplicas()
	}
	on := map[string]bool{}
	for node := range nodes {
		if Welcomes(node, req) {
			on[node.GetId()] = true
		}
	}
	for t := range tasks {
		if store.Wanted(t) && t.GetNodeId() != "" {
			on[t.GetNodeId()] = true
		}
	}
	return uint64(len(on))
}

// Held is how many of the wanted tasks of a service are not made, as MaxWaiting
// wait already.
func Held(wanted uint64, c store.Count) uint64 {
	if c.Waiting < MaxWaiting || c.Wanted >= wanted {
		return 0
	}
	return wanted - c.Wanted
}

// Welcomes reports whether the node may get a new task of a global service.
func Welcomes(n *schedulerpb.Node, req *placement.Request) bool {
	return n != nil && n.GetState() == schedulerpb.NodeState_NODE_STATE_READY &&
		store.Effective(n) == store.Active && req.Matches(n) && req.Able(n)
}
