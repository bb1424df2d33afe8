package control

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// CreateNetwork validates and stores.
func (s *Server) CreateNetwork(ctx context.Context, req *controlpb.CreateNetworkRequest) (*controlpb.CreateNetworkResponse, error) {
	sp, err := meshspec.Network(req.GetSpec())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := meshstore.CreateNetwork(ctx, s.c.Store, s.c.ClusterID, sp)
	if err != nil {
		return nil, err
	}
	return &controlpb.CreateNetworkResponse{Id: id}, nil
}

// StreamNetworks lists the named ones, or all by name.
func (s *Server) StreamNetworks(req *controlpb.StreamNetworksRequest, stream controlpb.Control_StreamNetworksServer) error {
	p := &pages[*controlpb.NetworkDetail]{send: func(page []*controlpb.NetworkDetail) error {
		return stream.Send(&controlpb.StreamNetworksResponse{Networks: page})
	}}
	return p.end(s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		all, err := chosen(r, req.GetNetworks(), meshstore.Networks.All(r), meshstore.ResolveNetwork, func(n *meshpb.Network) string { return n.GetSpec().GetName() })
		if err != nil {
			return err
		}
		for _, n := range all {
			if err := p.add(networkDetail(r, n, len(req.GetNetworks()) > 0)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// chosen are the objects that refs stand for, in their order, or all by name.
func chosen[T any](r raftstore.Reader, refs []string, all iter.Seq[T], find func(raftstore.Reader, string) (T, error), name func(T) string) (out []T, err error) {
	if len(refs) == 0 {
		return slices.SortedFunc(all, func(a, b T) int { return cmp.Compare(name(a), name(b)) }), nil
	}
	if len(refs) > maxNetworks {
		return nil, apierr.Invalid("", "%d are asked for: name 1 to %d", len(refs), maxNetworks)
	}
	for _, ref := range refs {
		o, err := find(r, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func networkDetail(r raftstore.Reader, n *meshpb.Network, count bool) *controlpb.NetworkDetail {
	v := &controlpb.NetworkDetail{Network: n, Services: schedstore.UsersOf(r, n, maxUsers)}
	for p := range meshstore.Policies.By(r, "network", n.GetId()) {
		v.Policies = append(v.Policies, p.GetSpec().GetName())
	}
	slices.Sort(v.Policies)
	if count {
		schedstore.OnNetwork(r, n, func(*schedulerpb.Task) bool { v.Tasks++; return true })
	}
	return v
}

// RemoveNetwork removes one network.
func (s *Server) RemoveNetwork(ctx context.Context, req *controlpb.RemoveNetworkRequest) (*controlpb.RemoveNetworkResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := schedstore.RemoveNetwork(ctx, s.c.Store, req.GetNetwork())
	if err != nil {
		return nil, err
	}
	return &controlpb.RemoveNetworkResponse{Id: id}, nil
}

// CreatePolicy validates and stores.
func (s *Server) CreatePolicy(ctx context.Context, req *controlpb.CreatePolicyRequest) (*controlpb.CreatePolicyResponse, error) {
	sp, err := meshspec.Policy(req.GetSpec())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := meshstore.CreatePolicy(ctx, s.c.Store, sp)
	if err != nil {
		return nil, err
	}
	return &controlpb.CreatePolicyResponse{Id: id}, nil
}

// StreamPolicies lists the named ones, or all by name.
func (s *Server) StreamPolicies(req *controlpb.StreamPoliciesRequest, stream controlpb.Control_StreamPoliciesServer) error {
	p := &pages[*controlpb.PolicyDetail]{send: func(page []*controlpb.PolicyDetail) error {
		return stream.Send(&controlpb.StreamPoliciesResponse{Policies: page})
	}}
	return p.end(s.view(stream.Context(), func(r *raftstore.ReadTx) error {
		all, err := chosen(r, req.GetPolicies(), meshstore.Policies.All(r), meshstore.ResolvePolicy, func(p *meshpb.Policy) string { return p.GetSpec().GetName() })
		if err != nil {
			return err
		}
		for _, one := range all {
			n, _ := meshstore.Networks.Get(r, one.GetSpec().GetNetwork())
			if err := p.add(&controlpb.PolicyDetail{Policy: one, NetworkName: n.GetSpec().GetName()}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// RemovePolicy removes one policy.
func (s *Server) RemovePolicy(ctx context.Context, req *controlpb.RemovePolicyRequest) (*controlpb.RemovePolicyResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	id, err := meshstore.RemovePolicy(ctx, s.c.Store, req.GetPolicy())
	if err != nil {
		return nil, err
	}
	return &controlpb.RemovePolicyResponse{Id: id}, nil
}
