package clitest

import (
	"context"
	"strings"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// GetStatus implements Control.
func (n *Node) GetStatus(context.Context, *controlpb.GetStatusRequest) (*controlpb.GetStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.GetStatusResponse{ClusterId: n.cluster, Nodes: 1, NodesReady: 1, Autolock: true, SlotEpoch: n.slots.Epoch,
		Managers: []*controlpb.ManagerStatus{{NodeId: n.id, Name: "manager-1", Leader: true, Voter: true, Reachable: true}}}, n.manager()
}

// ListNodes implements Control.
func (n *Node) ListNodes(_ context.Context, r *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range r.Nodes {
		if name != "manager-1" {
			return nil, apierr.NotFound("see `redoubt node ls`", "no node %q", name)
		}
	}
	return &controlpb.ListNodesResponse{Self: n.id, Nodes: []*controlpb.NodeView{n.view()}}, n.manager()
}

func (n *Node) view() *controlpb.NodeView {
	return &controlpb.NodeView{Id: n.id, Name: "manager-1", Role: n.role, Effective: schedulerpb.Availability_AVAILABILITY_ACTIVE,
		Node: &schedulerpb.Node{State: schedulerpb.NodeState_NODE_STATE_READY, Availability: schedulerpb.Availability_AVAILABILITY_AUTO,
			Description: &schedulerpb.NodeDescription{RedoubtVersion: "fake\x1b[2J", Resources: &taskpb.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30}}},
		Reserved: &taskpb.Resources{NanoCpus: 15e8, MemoryBytes: 512 << 20}, Tasks: 3,
		Manager: &controlpb.ManagerStatus{Leader: true, Voter: true, Reachable: true, Address: "192.0.2.10:2377"}}
}

// UpdateNode implements Control.
func (n *Node) UpdateNode(context.Context, *controlpb.UpdateNodeRequest) (*controlpb.UpdateNodeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.UpdateNodeResponse{Node: n.view()}, n.manager()
}

// RemoveNode implements Control.
func (n *Node) RemoveNode(_ context.Context, r *controlpb.RemoveNodeRequest) (*controlpb.RemoveNodeResponse, error) {
	resp := &controlpb.RemoveNodeResponse{Id: r.Node, Manager: strings.HasPrefix(r.Node, "manager"), NoSlot: keyless(r.Node)}
	var err error
	switch {
	case r.Node == "manager-1":
		return nil, apierr.State("add another manager first", "manager-1 is the last manager")
	case r.Check:
	case resp.Manager:
		resp.Rotation, err = rotation(r.Node, r.Slot, r.Compromised)
		resp.Known = &controlpb.KnownSecrets{Secrets: []*controlpb.KnownSecret{{Name: "db-password", Versions: []uint64{1, 3}}, {Name: "tls", Versions: []uint64{2}}}, More: 7}
	case r.Compromised:
		resp.Services = []string{"web"}
		resp.Known = &controlpb.KnownSecrets{Secrets: []*controlpb.KnownSecret{{Name: "db-password", Versions: []uint64{3}}}}
	}
	resp.Unlisted = !r.Check && strings.HasSuffix(r.Node, "-3")
	return resp, err
}

// RevokeNode implements Revocation: worker-2 and manager-2 were revoked before, and
// nobody knows what the tasks of worker-3 held.
func (n *Node) RevokeNode(ctx context.Context, r *controlpb.RevokeNodeRequest) (*controlpb.RevokeNodeResponse, error) {
	if r.Node == "worker-2" || r.Node == "manager-2" {
		resp := &controlpb.RevokeNodeResponse{Id: r.Node, Already: true}
		if r.Node == "manager-2" {
			resp.Rotation = &controlpb.Rotation{KeysetEpoch: 2, SlotEpoch: 2, SlotsKept: []string{"officers"}, RootExposed: true}
		}
		return resp, nil
	}
	left, err := n.RemoveNode(ctx, &controlpb.RemoveNodeRequest{Node: r.Node, Slot: r.Slot, Check: r.Check, Compromised: true})
	return &controlpb.RevokeNodeResponse{Id: left.GetId(), Rotation: left.GetRotation(), Services: left.GetServices(), Manager: left.GetManager(),
		NoSlot: left.GetNoSlot(), Known: left.GetKnown(), Unlisted: left.GetUnlisted()}, err
}

// RevokeIdentity implements Revocation.
func (n *Node) RevokeIdentity(_ context.Context, r *controlpb.RevokeIdentityRequest) (*controlpb.RevokeIdentityResponse, error) {
	resp := &controlpb.RevokeIdentityResponse{Identity: &controlpb.DeniedIdentityView{Id: "spiffe://" + n.cluster + "/svc/default/" + r.Identity, DeniedAt: 1}}
	if r.Identity == "web" {
		resp.Tasks = []string{"web.1 on worker-1", "web.2 on worker\x1b-2"}
	}
	return resp, nil
}

// PromoteNode implements Control.
func (n *Node) PromoteNode(_ context.Context, r *controlpb.PromoteNodeRequest) (*controlpb.PromoteNodeResponse, error) {
	if strings.HasPrefix(r.Node, "manager") {
		return nil, apierr.State("", "node %s is a manager already", r.Node)
	}
	return &controlpb.PromoteNodeResponse{Id: r.Node}, nil
}

// DemoteNode implements Control.
func (n *Node) DemoteNode(_ context.Context, r *controlpb.DemoteNodeRequest) (*controlpb.DemoteNodeResponse, error) {
	if r.Node == "manager-1" {
		return nil, apierr.State("add another manager first", "manager-1 is the last manager")
	}
	if r.Check {
		return &controlpb.DemoteNodeResponse{Id: r.Node, NoSlot: keyless(r.Node)}, nil
	}
	t, err := rotation(r.Node, r.Slot, false)
	return &controlpb.DemoteNodeResponse{Id: r.Node, Rotation: t}, err
}

// keyless reports whether shares alone open that manager.
func keyless(name string) bool { return strings.HasSuffix(name, "-shares") }

func rotation(name string, slot *keydpb.Slot, exposed bool) (*controlpb.Rotation, error) {
	if keyless(name) {
		if slot != nil {
			return nil, apierr.Invalid("", "there is no operator key to be replaced")
		}
		return &controlpb.Rotation{KeysetEpoch: 2, SlotEpoch: 2, SlotsKept: []string{"officers"}, RootExposed: exposed}, nil
	}
	if slot == nil {
		return &controlpb.Rotation{KeysetEpoch: 2, SlotEpoch: 2, SlotsKept: []string{"operator"}, RootExposed: exposed}, nil
	}
	if err := autolock.CheckSlot(slot); err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	r := &controlpb.Rotation{KeysetEpoch: 2, SlotEpoch: 2, TokensVoid: 3, Away: []string{"manager-3"}, RootExposed: exposed}
	if strings.HasSuffix(name, "-external") {
		r.External = "https://ca.example.com:9000"
	}
	return r, nil
}

// ListPending implements Admission: nobody waits.
func (n *Node) ListPending(context.Context, *controlpb.ListPendingRequest) (*controlpb.ListPendingResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListPendingResponse{}, n.manager()
}
