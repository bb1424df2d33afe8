package clitest

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// CreatePolicy implements Control.
func (n *Node) CreatePolicy(_ context.Context, r *controlpb.CreatePolicyRequest) (*controlpb.CreatePolicyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, w := n.network(r.GetSpec().GetNetwork())
	if w == nil {
		return nil, apierr.NotFound("list them with `redoubt network ls`", "no network %q", r.GetSpec().GetNetwork())
	}
	p := &meshpb.Policy{Id: ident.New(), Spec: r.GetSpec()}
	p.Spec.Network = w.GetId()
	n.rules = append(n.rules, p)
	return &controlpb.CreatePolicyResponse{Id: p.GetId()}, n.manager()
}

// StreamPolicies implements Control: all of them.
func (n *Node) StreamPolicies(_ *controlpb.StreamPoliciesRequest, s grpc.ServerStreamingServer[controlpb.StreamPoliciesResponse]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	page := &controlpb.StreamPoliciesResponse{}
	for _, p := range n.rules {
		page.Policies = append(page.Policies, &controlpb.PolicyDetail{Policy: p})
	}
	return onePage(s)(page, n.manager())
}

// RemovePolicy implements Control.
func (n *Node) RemovePolicy(_ context.Context, r *controlpb.RemovePolicyRequest) (*controlpb.RemovePolicyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules = slices.DeleteFunc(n.rules, func(p *meshpb.Policy) bool { return p.GetId() == r.GetPolicy() })
	return &controlpb.RemovePolicyResponse{Id: r.GetPolicy()}, n.manager()
}
