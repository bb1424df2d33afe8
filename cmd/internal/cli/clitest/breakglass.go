package clitest

import (
	"context"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// BreakGlass implements Access: it began at the epoch.
func (n *Node) BreakGlass(_ context.Context, r *controlpb.BreakGlassRequest) (*controlpb.BreakGlassResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	until := r.GetSeconds() * 1e9
	n.broken = append(n.broken, &controlpb.BreakGlassView{Principal: "root:manager-1", NodeId: "manager-1", Reason: r.GetReason(), Until: until, Times: 1, Active: true, Witnesses: []string{"alice"}})
	return &controlpb.BreakGlassResponse{Until: until, Witnesses: []string{"alice"}}, nil
}

// EndBreakGlass implements Access.
func (n *Node) EndBreakGlass(context.Context, *controlpb.EndBreakGlassRequest) (*controlpb.EndBreakGlassResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, b := range n.broken {
		b.Active = false
	}
	return &controlpb.EndBreakGlassResponse{}, nil
}

// AcknowledgeBreakGlass implements Access.
func (n *Node) AcknowledgeBreakGlass(_ context.Context, r *controlpb.AcknowledgeBreakGlassRequest) (*controlpb.AcknowledgeBreakGlassResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.broken) == 0 {
		return nil, apierr.NotFound("`redoubt break-glass ls` lists them", "there is no break-glass of root:%s to acknowledge", r.GetNode())
	}
	n.broken = nil
	return &controlpb.AcknowledgeBreakGlassResponse{}, nil
}

// ListBreakGlasses implements Access.
func (n *Node) ListBreakGlasses(context.Context, *controlpb.ListBreakGlassesRequest) (*controlpb.ListBreakGlassesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListBreakGlassesResponse{BreakGlasses: n.broken}, nil
}
