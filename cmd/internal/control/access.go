package control

import (
	"context"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// ListRoles implements Access.
func (s *Server) ListRoles(ctx context.Context, _ *controlpb.ListRolesRequest) (*controlpb.ListRolesResponse, error) {
	resp := &controlpb.ListRolesResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		set, err := s.c.Roles.Set(r)
		if err != nil {
			return err
		}
		for _, role := range set.Roles() {
			resp.Roles = append(resp.Roles, &controlpb.RoleView{Name: role.Name, Description: role.Description,
				Builtin: role.Builtin, Verbs: role.Verbs, Text: role.Text})
		}
		return nil
	})
	return resp, err
}

// CreateRole implements Access.
func (s *Server) CreateRole(ctx context.Context, req *controlpb.CreateRoleRequest) (*controlpb.CreateRoleResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		return roles.CreateRole(tx, req.GetName(), req.GetDescription(), req.GetVerbs())
	})
	return &controlpb.CreateRoleResponse{}, err
}

// RemoveRole implements Access.
func (s *Server) RemoveRole(ctx context.Context, req *controlpb.RemoveRoleRequest) (*controlpb.RemoveRoleResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error { return roles.RemoveRole(tx, req.GetName()) })
	return &controlpb.RemoveRoleResponse{}, err
}

// ListBindings implements Access: those in the store, and what local root is without one.
func (s *Server) ListBindings(ctx context.Context, _ *controlpb.ListBindingsRequest) (*controlpb.ListBindingsResponse, error) {
	resp := &controlpb.ListBindingsResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		set, err := s.c.Roles.Set(r)
		if err != nil {
			return err
		}
		for _, role := range localRootRoles(r, set) {
			resp.Bindings = append(resp.Bindings, &controlpb.BindingView{Role: role, Principal: "root:*", Implied: true})
		}
		var own []*controlpb.BindingView
		for b := range pkistore.RoleBindings.All(r) {
			own = append(own, &controlpb.BindingView{Role: b.GetRole(), Principal: roles.Named(r, roles.PrincipalOf(b.GetPrincipal())), Labels: b.GetLabels()})
		}
		slices.SortFunc(own, func(a, b *controlpb.BindingView) int {
			return strings.Compare(a.GetPrincipal()+" "+a.GetRole(), b.GetPrincipal()+" "+b.GetRole())
		})
		resp.Bindings = append(resp.Bindings, own...)
		return nil
	})
	return resp, err
}

// localRootRoles are what local root of every manager has without a binding.
func localRootRoles(r raftstore.Reader, set *roles.Set) []string {
	if roles.RootIsAdmin(r, set) {
		return []string{roles.Operator, roles.SecurityAdmin}
	}
	return []string{roles.Operator}
}

// principal reads one as people write it; its node is an id after that.
func principal(r raftstore.Reader, text string) (roles.Principal, error) {
	p, err := roles.ParsePrincipal(text)
	if err != nil {
		return p, apierr.Invalid("", "%v", err)
	}
	if p.Kind != pkipb.Principal_KIND_PERSON {
		n, err := resolveNode(r, p.Node)
		if err != nil {
			return p, err
		}
		p.Node = n.GetId()
	}
	return p, nil
}

// Bind implements Access.
func (s *Server) Bind(ctx context.Context, req *controlpb.BindRequest) (*controlpb.BindResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		p, err := principal(tx, req.GetPrincipal())
		if err == nil {
			_, err = roles.Bind(tx, req.GetRole(), p, req.GetLabels())
		}
		return err
	})
	return &controlpb.BindResponse{}, err
}

// Unbind implements Access.
func (s *Server) Unbind(ctx context.Context, req *controlpb.UnbindRequest) (*controlpb.UnbindResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error {
		p, err := principal(tx, req.GetPrincipal())
		if err == nil {
			err = roles.Unbind(tx, req.GetRole(), p, req.GetLabels())
		}
		return err
	})
	return &controlpb.UnbindResponse{}, err
}

// ListAccessPolicies implements Access.
func (s *Server) ListAccessPolicies(ctx context.Context, _ *controlpb.ListAccessPoliciesRequest) (*controlpb.ListAccessPoliciesResponse, error) {
	resp := &controlpb.ListAccessPoliciesResponse{}
	err := s.view(ctx, func(r *raftstore.ReadTx) error {
		for p := range pkistore.AccessPolicies.All(r) {
			resp.Policies = append(resp.Policies, &controlpb.AccessPolicyView{Name: p.GetId(), Text: p.GetText(), UpdatedAt: p.GetMeta().GetUpdatedAt(), Suspended: p.GetSuspended()})
		}
		return nil
	})
	return resp, err
}

// SetAccessPolicy implements Access.
func (s *Server) SetAccessPolicy(ctx context.Context, req *controlpb.SetAccessPolicyRequest) (*controlpb.SetAccessPolicyResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error { return roles.SetPolicy(tx, req.GetName(), req.GetText()) })
	return &controlpb.SetAccessPolicyResponse{}, err
}

// RemoveAccessPolicy implements Access.
func (s *Server) RemoveAccessPolicy(ctx context.Context, req *controlpb.RemoveAccessPolicyRequest) (*controlpb.RemoveAccessPolicyResponse, error) {
	err := s.update(ctx, func(tx *raftstore.Tx) error { return roles.RemovePolicy(tx, req.GetName()) })
	return &controlpb.RemoveAccessPolicyResponse{}, err
}

// CanI implements Access.
func (s *Server) CanI(ctx context.Context, req *controlpb.CanIRequest) (*controlpb.CanIResponse, error) {
	p, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	return s.may(ctx, req, func(raftstore.Reader) (roles.Principal, error) { return p, nil })
}

// CanThey implements Access.
func (s *Server) CanThey(ctx context.Context, req *controlpb.CanTheyRequest) (*controlpb.CanIResponse, error) {
	return s.may(ctx, req.GetWhat(), func(r raftstore.Reader) (roles.Principal, error) { return principal(r, req.GetPrincipal()) })
}

func (s *Server) may(ctx context.Context, req *controlpb.CanIRequest, who func(raftstore.Reader) (roles.Principal, error)) (*controlpb.CanIResponse, error) {
	kinds, ok := roles.KindsOf(req.GetVerb())
	if !ok {
		return nil, apierr.Invalid("`redoubt auth verbs` lists them", "there is no verb %q", ident.Clip(req.GetVerb()))
	}
	act, err := actOn(req.GetVerb(), req.GetResource(), kinds)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.CanIResponse{}
	return resp, s.view(ctx, func(r *raftstore.ReadTx) error {
		p, err := who(r)
		if err != nil {
			return err
		}
		on := roles.ResourceOf(r, act)
		d, err := s.c.Roles.Decide(r, p, act.Verb, on)
		resp.Allowed, resp.Principal, resp.Resource = d.Allowed, roles.Named(r, p), on.String()
		resp.Roles, resp.By, resp.Why = d.Roles, d.By, d.Why()
		return err
	})
}

// actOn reads "service:web". Without a resource it is about the cluster.
func actOn(verb, resource string, kinds []string) (authz.Act, error) {
	act := authz.Act{Verb: verb}
	if resource != "" {
		kind, ref, ok := strings.Cut(resource, ":")
		i := slices.IndexFunc(authz.Kinds, func(k string) bool { return strings.EqualFold(k, kind) })
		if !ok || i < 0 || ref == "" {
			return act, apierr.Invalid("write it as in service:web", "%q is no resource", ident.Clip(resource))
		}
		act.Kind, act.Ref = authz.Kinds[i], ref
	}
	if !slices.Contains(kinds, act.Kind) {
		return act, apierr.Invalid("", "%s is done to %s", verb, strings.Join(onWords(kinds), ", "))
	}
	return act, nil
}

func onWords(kinds []string) (out []string) {
	for _, k := range kinds {
		if k == "" {
			k = "cluster"
		}
		out = append(out, strings.ToLower(k))
	}
	return out
}

// ListVerbs implements Access.
func (s *Server) ListVerbs(context.Context, *controlpb.ListVerbsRequest) (*controlpb.ListVerbsResponse, error) {
	verbs, err := roles.Verbs()
	if err != nil {
		return nil, err
	}
	resp := &controlpb.ListVerbsResponse{}
	for _, v := range verbs {
		kinds, _ := roles.KindsOf(v)
		resp.Verbs = append(resp.Verbs, &controlpb.VerbView{Name: v, On: onWords(kinds)})
	}
	return resp, nil
}
