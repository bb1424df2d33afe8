package clitest

import (
	"context"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// CreateWaiver implements Waivers: root asks, and cannot be the one who approves.
func (n *Node) CreateWaiver(_ context.Context, r *controlpb.CreateWaiverRequest) (*controlpb.CreateWaiverResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	if r.GetApprover() != "bob" {
		return nil, apierr.NotFound("see `redoubt person ls`", "there is no person %q to approve it", r.GetApprover())
	}
	w := &controlpb.WaiverView{Id: "w1", Control: r.GetControl(), NodeName: r.GetNode(), Reason: r.GetReason(), AskedBy: "root:m1", Approver: "person:bob", ExpiresAt: r.GetExpiresAt(), Evidence: r.GetEvidence(), State: controlpb.WaiverView_STATE_WAITING}
	if r.GetNode() != "" {
		w.NodeId = "id-of-" + r.GetNode()
	}
	n.waivers = append(n.waivers, w)
	return &controlpb.CreateWaiverResponse{Id: w.Id}, nil
}

// ApproveWaiver implements Waivers: whoever calls is bob.
func (n *Node) ApproveWaiver(_ context.Context, r *controlpb.ApproveWaiverRequest) (*controlpb.ApproveWaiverResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.waivers, func(w *controlpb.WaiverView) bool { return w.GetId() == r.GetId() })
	if i < 0 {
		return nil, apierr.NotFound("list them with `redoubt compliance waiver ls`", "there is no waiver %q", r.GetId())
	}
	n.waivers[i].ApprovedAt, n.waivers[i].State = 1, controlpb.WaiverView_STATE_IN_FORCE
	return &controlpb.ApproveWaiverResponse{Waiver: n.waivers[i]}, nil
}

// ListWaivers implements Waivers.
func (n *Node) ListWaivers(context.Context, *controlpb.ListWaiversRequest) (*controlpb.ListWaiversResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListWaiversResponse{Waivers: n.waivers}, n.manager()
}

// RemoveWaiver implements Waivers.
func (n *Node) RemoveWaiver(_ context.Context, r *controlpb.RemoveWaiverRequest) (*controlpb.RemoveWaiverResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.waivers)
	n.waivers = slices.DeleteFunc(n.waivers, func(w *controlpb.WaiverView) bool { return w.GetId() == r.GetId() })
	if len(n.waivers) == before {
		return nil, apierr.NotFound("list them with `redoubt compliance waiver ls`", "there is no waiver %q", r.GetId())
	}
	return &controlpb.RemoveWaiverResponse{}, nil
}
