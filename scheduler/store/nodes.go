package store

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Short names of availabilities.
const (
	Auto   = schedulerpb.Availability_AVAILABILITY_AUTO
	Active = schedulerpb.Availability_AVAILABILITY_ACTIVE
	Pause  = schedulerpb.Availability_AVAILABILITY_PAUSE
	Drain  = schedulerpb.Availability_AVAILABILITY_DRAIN
)

// Effective is the availability in force, after auto and its latch.
func Effective(n *schedulerpb.Node) schedulerpb.Availability {
	switch a := n.GetAvailability(); a {
	case Active, Pause, Drain:
		return a
	case Auto:
		if n.GetAutoDrained() {
			return Drain
		}
		return Active
	}
	return Pause // a record that says nothing gets nothing
}

// Up reports whether the node has a session, able to run tasks or not.
func Up(n *schedulerpb.Node) bool {
	s := n.GetState()
	return s == schedulerpb.NodeState_NODE_STATE_READY || s == schedulerpb.NodeState_NODE_STATE_NOT_READY
}

// RegisterNode makes the scheduler's record of a node, and gives it its address in
// the mesh, in the transaction that admits it. It changes nothing for a node that
// is known (one that joined again under its id). Managers are auto: active until
// the first worker joins.
func RegisterNode(tx *raftstore.Tx, id string, manager bool) error {
	if err := meshstore.RegisterNode(tx, id); err != nil {
		return err
	}
	if old, ok := Nodes.Get(tx, id); ok {
		if old.GetManager() != manager {
			return refuse("node %s is known in the other role: remove it first", id)
		}
		return nil
	}
	n := &schedulerpb.Node{Id: id, Manager: manager, Availability: Active}
	if manager {
		n.Availability = Auto
		n.AutoDrained = latched(tx)
	}
	if err := Nodes.Put(tx, n); err != nil {
		return err
	}
	if manager {
		return nil
	}
	return LatchManagers(tx)
}

// SetNodeRole records that a node became a manager, or a worker again. It keeps
// its tasks: a promoted worker stays as available as it was, and auto, which is
// for managers, becomes active.
func SetNodeRole(tx *raftstore.Tx, id string, manager bool) error {
	return updateNode(tx, id, func(n *schedulerpb.Node) {
		n.Manager = manager
		if !manager {
			n.AutoDrained = false
			if n.Availability == Auto {
				n.Availability = Active
			}
		}
	})
}

// latched reports whether a worker has ever joined, as far as can be seen.
func latched(r raftstore.Reader) bool {
	for n := range Nodes.All(r) {
		if !n.GetManager() || n.GetAutoDrained() {
			return true
		}
	}
	return false
}

// LatchManagers drains every auto manager for good. The leader calls it again
// whenever a worker is known, so that two joins at the same moment cannot leave
// a manager out.
func LatchManagers(tx *raftstore.Tx) error {
	for _, n := range unlatched(tx) {
		if err := updateNode(tx, n.GetId(), func(n *schedulerpb.Node) { n.AutoDrained = true }); err != nil {
			return err
		}
	}
	return nil
}

// NeedsLatch reports whether LatchManagers has anything to do.
func NeedsLatch(r raftstore.Reader) bool { return latched(r) && len(unlatched(r)) > 0 }

// AddressNodes gives nodes their addresses in the mesh that were admitted before
// the managers understood such. It reports whether some may be left.
func AddressNodes(ctx context.Context, s *raftstore.Store) (more bool, err error) {
	var without []string
	if err := s.View(func(r *raftstore.ReadTx) error {
		if more = r.Level() < meshstore.Level; more {
			return nil
		}
		for n := range Nodes.All(r) {
			if _, ok := meshstore.Nodes.Get(r, n.GetId()); !ok {
				without = append(without, n.GetId())
			}
		}
		return nil
	}); err != nil {
		return true, err
	}
	for some := range slices.Chunk(without, maxAddressed) {
		if err := meshstore.Retry(ctx, s, func(tx *raftstore.Tx) error {
			for _, id := range some {
				if _, ok := Nodes.Get(tx, id); !ok {
					continue
				}
				if err := meshstore.RegisterNode(tx, id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return true, err
		}
	}
	return more, nil
}

// maxAddressed is how many nodes get an address in one transaction.
const maxAddressed = 500

func unlatched(r raftstore.Reader) (out []*schedulerpb.Node) {
	for n := range Nodes.All(r) {
		if n.GetManager() && !n.GetAutoDrained() {
			out = append(out, n)
		}
	}
	return out
}

// SetNodeState records whether the node has a session. address is the host the
// session came from; empty leaves it as it was.
func SetNodeState(tx *raftstore.Tx, id string, state schedulerpb.NodeState, message, address string) error {
	return MoveNode(tx, id, state, message, address, "")
}

// MoveNode is SetNodeState for a node whose session at the address before still
// lived, if that is given.
func MoveNode(tx *raftstore.Tx, id string, state schedulerpb.NodeState, message, address, before string) error {
	return updateNode(tx, id, func(n *schedulerpb.Node) {
		n.State, n.Message = state, message
		if state != schedulerpb.NodeState_NODE_STATE_DOWN {
			n.DownSince = 0
		}
		if address == "" || n.Address == address {
			return
		}
		n.Address, n.AddressSince, n.AddressBefore = address, 0, ""
		if tx.Level() >= meshstore.Level {
			n.AddressSince, n.AddressBefore = tx.Now().UnixNano(), before
		}
	})
}

// SetDownSince records when a node that is down was last heard. A later moment than
// the one on record changes nothing.
func SetDownSince(tx *raftstore.Tx, id string, heard time.Time) error {
	return updateNode(tx, id, func(n *schedulerpb.Node) {
		if at := heard.UnixNano(); n.State == schedulerpb.NodeState_NODE_STATE_DOWN && tx.Level() >= meshstore.Level &&
			(n.DownSince == 0 || at < n.DownSince) {
			n.DownSince = at
		}
	})
}

// UpdateDescription records the node's own report, without fields that this
// version does not know. The caller has bounded its size.
func UpdateDescription(tx *raftstore.Tx, id string, d *schedulerpb.NodeDescription) error {
	d, err := known(d)
	if err != nil {
		return err
	}
	d = permitted(d, tx.Level())
	var had *schedulerpb.NodeVolumes
	err = updateNode(tx, id, func(n *schedulerpb.Node) {
		had = n.GetDescription().GetVolumes()
		if d.Volumes == nil && had != nil { // it does not know yet
			d = proto.CloneOf(d)
			d.Volumes = had
		}
		n.Description = d
	})
	if err != nil {
		return err
	}
	return forgetVolumes(tx, had, d.GetVolumes())
}

// permitted is a description without what a store of that level does not take. Its nodes
// may be newer than a manager is.
func permitted(d *schedulerpb.NodeDescription, level uint32) *schedulerpb.NodeDescription {
	if level < Volumes.Since() {
		d.Volumes = nil
	}
	return d
}

// NodeUpdate is what an operator may change of a node.
type NodeUpdate struct {
	// Availability UNSPECIFIED leaves it as it is.
	Availability schedulerpb.Availability
	LabelAdd     map[string]string
	LabelRemove  []string
	// DrainBy, in Unix nanoseconds and with Drain only: when what still runs
	// there is killed. 0: never before its stop grace is over.
	DrainBy int64
}

// UpdateNodeSpec changes availability and labels.
func UpdateNodeSpec(tx *raftstore.Tx, id string, u NodeUpdate) error {
	old, ok := Nodes.Get(tx, id)
	if !ok {
		return &resolve.Error{Kind: "node", Ref: id}
	}
	switch u.Availability {
	case schedulerpb.Availability_AVAILABILITY_UNSPECIFIED, Active, Pause, Drain:
	case Auto:
		if !old.GetManager() {
			return refuse("availability auto is for managers: use active, pause or drain")
		}
	default:
		return refuse("availability %d is unknown: use active, pause or drain", u.Availability)
	}
	if u.DrainBy != 0 && u.Availability != Drain {
		return refuse("a deadline is for availability drain")
	}
	labels := maps.Clone(old.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	for _, k := range u.LabelRemove {
		if _, ok := labels[k]; !ok {
			return refuse("node %s has no label %q: nothing was changed", id, k)
		}
		delete(labels, k)
	}
	maps.Copy(labels, u.LabelAdd)
	if err := ident.CheckLabels("node label", labels); err != nil {
		return refuse("%v", err)
	}
	return updateNode(tx, id, func(n *schedulerpb.Node) {
		n.Labels = labels
		if u.Availability != schedulerpb.Availability_AVAILABILITY_UNSPECIFIED {
			n.Availability, n.DrainBy = u.Availability, u.DrainBy
		}
	})
}

// RemoveNode forgets a node. The leader then gives up its tasks and replaces
// them. Removing an unknown node is no error.
func RemoveNode(tx *raftstore.Tx, id string) error {
	if err := meshstore.RemoveNode(tx, id); err != nil {
		return err
	}
	n, ok := Nodes.Get(tx, id)
	if !ok {
		return nil
	}
	if err := Nodes.Delete(tx, id); err != nil {
		return err
	}
	return forgetVolumes(tx, n.GetDescription().GetVolumes(), nil)
}

// updateNode writes the node changed by fn, where that makes a difference.
func updateNode(tx *raftstore.Tx, id string, fn func(*schedulerpb.Node)) error {
	old, ok := Nodes.Get(tx, id)
	if !ok {
		return &resolve.Error{Kind: "node", Ref: id}
	}
	n := proto.CloneOf(old)
	fn(n)
	if proto.Equal(old, n) {
		return nil
	}
	return Nodes.Put(tx, n)
}
