// Package store holds the scheduler's replicated tables and the transactions
// that change them: services, their revisions, their tasks, and what the
// scheduler keeps of nodes.
//
// It owns the rules that must hold however many writers there are: a task's
// state and desired state only ever grow, a task that has a node was placed
// there by the leader, a revision never changes, a service's spec was validated
// before it was stored, and a manager whose availability is auto stays drained
// once a worker has joined. It refuses any write that breaks one.
//
// It does not decide where tasks go or when they are replaced (placement and
// orchestrator do), and it knows nothing of identities: that a node exists and
// may call is pki's record.
//
// Helpers that take a *raftstore.Tx are parts of a transaction that the caller
// runs; those that take a *raftstore.Store run their own. Objects that are read
// are shared: clone before changing.
package store

import (
	"fmt"
	"iter"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Unassigned is the key in the tasks' index "node" of those that have no node
// yet. It cannot be a node's id.
const Unassigned = "unassigned"

var (
	// Services has the unique indexes "name" and "vip" (ipam.Key of its virtual
	// addresses), and the indexes "network" (ids of its networks) and "port" (PortKey
	// of what it publishes).
	Services = raftstore.NewTable("services",
		raftstore.Index[*schedulerpb.Service]{
			Name: "name", Unique: true,
			Keys: func(s *schedulerpb.Service) []string { return []string{s.GetSpec().GetName()} },
		},
		raftstore.Index[*schedulerpb.Service]{
			Name: "vip", Unique: true,
			Keys: func(s *schedulerpb.Service) []string { return addressKeys(s.GetVips()) },
		},
		raftstore.Index[*schedulerpb.Service]{
			Name: "network",
			Keys: func(s *schedulerpb.Service) (out []string) {
				for _, u := range s.GetSpec().GetTask().GetNetworks() {
					out = append(out, u.GetNetwork())
				}
				return out
			},
		},
		raftstore.Index[*schedulerpb.Service]{
			Name: "port",
			Keys: func(s *schedulerpb.Service) []string { return portKeys(s.GetSpec().GetTask()) },
		},
	)

	// PublishedPorts has no index but the id, which PortKey makes.
	PublishedPorts = raftstore.NewTable[*schedulerpb.PublishedPort]("published_ports")

	// Revisions has the index "service"; ids are those RevisionID makes.
	Revisions = raftstore.NewTable("revisions", raftstore.Index[*schedulerpb.Revision]{
		Name: "service",
		Keys: func(r *schedulerpb.Revision) []string { return []string{r.GetServiceId()} },
	})

	// SpecRecords has the index "service"; ids are those RecordID makes.
	SpecRecords = raftstore.NewTable("service_specs", raftstore.Index[*schedulerpb.ServiceSpecRecord]{
		Name: "service",
		Keys: func(r *schedulerpb.ServiceSpecRecord) []string { return []string{r.GetServiceId()} },
	})

	// ServiceRuns has the index "service"; ids are those RunID makes.
	ServiceRuns = raftstore.NewTable("service_runs", raftstore.Index[*schedulerpb.ServiceRun]{
		Name: "service",
		Keys: func(r *schedulerpb.ServiceRun) []string { return []string{r.GetServiceId()} },
	})

	// Tasks has the indexes "node" (or Unassigned) and "slot", whose keys SlotKey
	// makes; OfService goes by the latter. Each index costs some 0.4 KiB a task,
	// which is as much as the task itself. CountOf and LiveOn count without them.
	// The unique index "address" (ipam.Key) has the addresses of tasks that may
	// have a container. It goes by the address alone, as subnets do not overlap,
	// and those of ingress networks share one. The index "local" has, for the same
	// tasks, the ids of networks on which the store gives no addresses.
	Tasks = raftstore.NewTable("tasks",
		raftstore.Index[*schedulerpb.Task]{
			Name: "node",
			Keys: func(t *schedulerpb.Task) []string {
				if t.GetNodeId() == "" {
					return []string{Unassigned}
				}
				return []string{t.GetNodeId()}
			},
		},
		raftstore.Index[*schedulerpb.Task]{
			Name: "slot",
			Keys: func(t *schedulerpb.Task) []string {
				return []string{SlotKey(t.GetServiceId(), t.GetSlot(), t.GetTargetNodeId())}
			},
		},
		raftstore.Index[*schedulerpb.Task]{
			Name: "address", Unique: true,
			Keys: func(t *schedulerpb.Task) []string {
				if !Live(t) {
					return nil
				}
				return addressKeys(t.GetAttachments())
			},
		},
		raftstore.Index[*schedulerpb.Task]{
			Name: "local",
			Keys: func(t *schedulerpb.Task) (out []string) {
				for _, a := range t.GetAttachments() {
					if Live(t) && len(a.GetAddresses()) == 0 {
						out = append(out, a.GetNetworkId())
					}
				}
				return out
			},
		},
	).Summing(
		raftstore.Sum[*schedulerpb.Task]{Name: sumService, Of: countByService},
		raftstore.Sum[*schedulerpb.Task]{Name: sumNode, Of: countByNode},
	)

	// Nodes has no index but the id.
	Nodes = raftstore.NewTable[*schedulerpb.Node]("sched_nodes")
)

// Tables lists what the composition root registers with the store.
func Tables() []raftstore.Registered {
	return []raftstore.Registered{Services, Revisions, SpecRecords, ServiceRuns, Tasks, Nodes, PublishedPorts, ImagePolicies, PlacementConfigs, Volumes}
}

// RevisionID is the id of a service's revision.
func RevisionID(serviceID string, revision uint64) string {
	return fmt.Sprintf("%s/%d", serviceID, revision)
}

// SlotKey is the key in the tasks' index "slot" of all tasks, past and present,
// that have the same place in a service: a slot of a replicated one, a node of
// a global one (slot 0).
func SlotKey(serviceID string, slot uint32, targetNodeID string) string {
	if slot == 0 {
		return serviceID + "/" + targetNodeID
	}
	return fmt.Sprintf("%s/%d", serviceID, slot)
}

// OfService yields the tasks of a service, also of one that was removed, in no
// order that means anything.
func OfService(r raftstore.Reader, serviceID string) iter.Seq[*schedulerpb.Task] {
	return Tasks.ByPrefix(r, "slot", serviceID+"/")
}
