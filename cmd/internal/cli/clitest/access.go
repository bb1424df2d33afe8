package clitest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// ListRoles implements Access.
func (n *Node) ListRoles(context.Context, *controlpb.ListRolesRequest) (*controlpb.ListRolesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.manager(); err != nil {
		return nil, err
	}
	viewer := &controlpb.RoleView{Name: "viewer", Description: "sees\x1b what there is", Builtin: true, Verbs: []string{"node.list"}, Text: "permit (principal in Redoubt::Role::\"viewer\", action, resource);\n"}
	return &controlpb.ListRolesResponse{Roles: append([]*controlpb.RoleView{viewer}, n.roles...)}, nil
}

// CreateRole implements Access.
func (n *Node) CreateRole(_ context.Context, r *controlpb.CreateRoleRequest) (*controlpb.CreateRoleResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.GetName() == "viewer" {
		return nil, apierr.Exists("choose another name", "there is a role viewer already")
	}
	if err := n.guarded(r.GetName()); err != nil {
		return nil, err
	}
	n.roles = append(n.roles, &controlpb.RoleView{Name: r.GetName(), Description: r.GetDescription(), Verbs: r.GetVerbs()})
	return &controlpb.CreateRoleResponse{}, nil
}

// RemoveRole implements Access.
func (n *Node) RemoveRole(_ context.Context, r *controlpb.RemoveRoleRequest) (*controlpb.RemoveRoleResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.roles)
	n.roles = slices.DeleteFunc(n.roles, func(v *controlpb.RoleView) bool { return v.GetName() == r.GetName() })
	if len(n.roles) == before {
		return nil, apierr.NotFound("`redoubt auth role ls` lists them", "there is no role %q", r.GetName())
	}
	return &controlpb.RemoveRoleResponse{}, nil
}

// ListBindings implements Access.
func (n *Node) ListBindings(context.Context, *controlpb.ListBindingsRequest) (*controlpb.ListBindingsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	root := &controlpb.BindingView{Role: "operator", Principal: "root:*", Implied: true}
	return &controlpb.ListBindingsResponse{Bindings: append([]*controlpb.BindingView{root}, n.bindings...)}, nil
}

// Bind implements Access.
func (n *Node) Bind(_ context.Context, r *controlpb.BindRequest) (*controlpb.BindResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bindings = append(n.bindings, &controlpb.BindingView{Role: r.GetRole(), Principal: r.GetPrincipal(), Labels: r.GetLabels()})
	return &controlpb.BindResponse{}, nil
}

// Unbind implements Access.
func (n *Node) Unbind(_ context.Context, r *controlpb.UnbindRequest) (*controlpb.UnbindResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.bindings)
	n.bindings = slices.DeleteFunc(n.bindings, func(v *controlpb.BindingView) bool {
		return v.GetRole() == r.GetRole() && v.GetPrincipal() == r.GetPrincipal() && maps.Equal(v.GetLabels(), r.GetLabels())
	})
	if len(n.bindings) == before {
		return nil, apierr.NotFound("`redoubt auth bindings` lists them", "%s has no such binding", r.GetPrincipal())
	}
	return &controlpb.UnbindResponse{}, nil
}

// ListAccessPolicies implements Access.
func (n *Node) ListAccessPolicies(context.Context, *controlpb.ListAccessPoliciesRequest) (*controlpb.ListAccessPoliciesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &controlpb.ListAccessPoliciesResponse{Policies: n.policies}, nil
}

// SetAccessPolicy implements Access: what begins with "bad" is refused.
func (n *Node) SetAccessPolicy(_ context.Context, r *controlpb.SetAccessPolicyRequest) (*controlpb.SetAccessPolicyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if strings.HasPrefix(r.GetText(), "bad") {
		return nil, apierr.Invalid("", "the policy does not parse: unexpected bad")
	}
	n.policies = append(n.policies, &controlpb.AccessPolicyView{Name: r.GetName(), Text: r.GetText()})
	return &controlpb.SetAccessPolicyResponse{}, nil
}

// RemoveAccessPolicy implements Access.
func (n *Node) RemoveAccessPolicy(_ context.Context, r *controlpb.RemoveAccessPolicyRequest) (*controlpb.RemoveAccessPolicyResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.policies = slices.DeleteFunc(n.policies, func(v *controlpb.AccessPolicyView) bool { return v.GetName() == r.GetName() })
	return &controlpb.RemoveAccessPolicyResponse{}, nil
}

// CanI implements Access.
func (n *Node) CanI(_ context.Context, r *controlpb.CanIRequest) (*controlpb.CanIResponse, error) {
	return &controlpb.CanIResponse{Allowed: r.GetVerb() != "slot.rotate" || !n.noSlots, Principal: "root:manager-1", Resource: "service web", Roles: []string{"operator"},
		By: []string{"role operator"}, Why: "permitted by role operator"}, nil
}

// CanThey implements Access.
func (n *Node) CanThey(_ context.Context, r *controlpb.CanTheyRequest) (*controlpb.CanIResponse, error) {
	return &controlpb.CanIResponse{Principal: r.GetPrincipal(), Resource: "the cluster", Why: "no role there and no policy permits it"}, nil
}

// ListVerbs implements Access.
func (n *Node) ListVerbs(context.Context, *controlpb.ListVerbsRequest) (*controlpb.ListVerbsResponse, error) {
	return &controlpb.ListVerbsResponse{Verbs: []*controlpb.VerbView{{Name: "node.list", On: []string{"cluster", "node"}}, {Name: "service.create", On: []string{"service"}}}}, nil
}
