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
	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// CreateNetwork validates and stores.
func (s *Server) CreateNetwork(ctx context.Context, req *controlpb.CreateNetworkRequest) (*controlpb.CreateNetworkResponse, error) {
	sp, err := meshspec.Network(req.GetSpec())
	if err != nil {
		return nil, apierr.Invalid("", "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	if err := s.carried(ctx, sp); err != nil {
		return nil, err
	}
	id, err := meshstore.CreateNetwork(ctx, s.c.Store, s.c.ClusterID, sp)
	if err != nil {
		return nil, err
	}
	resp := &controlpb.CreateNetworkResponse{Id: id}
	s.warn(ctx, &resp.Warnings, func(r raftstore.Reader) []string { return networkWarnings(r, id) })
	return resp, nil
}

// carried refuses a network of the mesh where every node is in FIPS mode: none could
// carry it. Where some are not, tasks are placed there.
func (s *Server) carried(ctx context.Context, sp *meshpb.NetworkSpec) error {
	if !meshspec.Given(sp.GetDriver()) {
		return nil
	}
	return s.view(ctx, func(r *raftstore.ReadTx) error {
		nodes := 0
		for n := range schedstore.Nodes.All(r) {
			nodes++
			if !slices.ContainsFunc(n.GetDescription().GetFeatures(), func(f *taskpb.Feature) bool { return f.GetName() == meshspec.FIPSFeature }) {
				return nil
			}
		}
		if nodes == 0 {
			return nil
		}
		return apierr.State("let services publish ports of their own node (mode=host), or add a node that is not in FIPS mode", "every node is in FIPS mode: %s", meshspec.NoMeshInFIPS)
	})
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
		detailUse(r, n, v)
	}
	return v
}

// detailUse says who is on a network: services that are to be, and tasks that may
// have a container.
func detailUse(r raftstore.Reader, n *meshpb.Network, v *controlpb.NetworkDetail) {
	for svc := range schedstore.Services.By(r, "network", n.GetId()) {
		if len(v.UsedBy) == maxUsers {
			break
		}
		on := addressOn(svc, n.GetId())
		v.UsedBy = append(v.UsedBy, &controlpb.NetworkService{Id: svc.GetId(), Name: svc.GetSpec().GetName(),
			EndpointMode: svc.GetSpec().GetEndpointMode(), Vips: on.GetAddresses(), Aliases: on.GetAliases()})
	}
	slices.SortFunc(v.UsedBy, func(a, b *controlpb.NetworkService) int { return cmp.Compare(a.GetName(), b.GetName()) })
	schedstore.OnNetwork(r, n, func(t *schedulerpb.Task) bool {
		if v.Tasks++; len(v.Endpoints) < maxEndpoints {
			svc, _ := schedstore.Services.Get(r, t.GetServiceId())
			e := &controlpb.NetworkEndpoint{TaskId: t.GetId(), TaskName: schedstore.TaskName(cmp.Or(svc.GetSpec().GetName(), t.GetServiceId()), t), ServiceId: t.GetServiceId(),
				NodeId: t.GetNodeId(), NodeName: nodeName(r, t.GetNodeId()), Serving: netview.Serving(t)}
			for _, a := range t.GetAttachments() {
				if a.GetNetworkId() == n.GetId() {
					e.Addresses = addressesOf(t, a)
				}
			}
			v.Endpoints = append(v.Endpoints, e)
		}
		return true
	})
	v.Notices = notices(r, v.Endpoints)
	slices.SortFunc(v.Endpoints, func(a, b *controlpb.NetworkEndpoint) int {
		return cmp.Or(cmp.Compare(a.GetTaskName(), b.GetTaskName()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
}

// addressOn is what a service has on a network.
func addressOn(svc *schedulerpb.Service, network string) *controlpb.NetworkAddress {
	v := &controlpb.NetworkAddress{NetworkId: network}
	for _, a := range svc.GetVips() {
		if a.GetNetworkId() == network && svc.GetVipsUntil() == 0 {
			v.Addresses = a.GetAddresses()
		}
	}
	for _, u := range svc.GetSpec().GetTask().GetNetworks() {
		if u.GetNetwork() == network {
			v.Aliases = u.GetAliases()
		}
	}
	return v
}

// serviceNetworks are those that a service is on, in the order of its spec.
func serviceNetworks(r raftstore.Reader, svc *schedulerpb.Service) (out []*controlpb.NetworkAddress) {
	for _, u := range svc.GetSpec().GetTask().GetNetworks() {
		v := addressOn(svc, u.GetNetwork())
		n, _ := meshstore.Networks.Get(r, u.GetNetwork())
		v.NetworkName = n.GetSpec().GetName()
		out = append(out, v)
	}
	return out
}

// taskNetworks are a task's addresses. They are its own while it may have a
// container.
func taskNetworks(r raftstore.Reader, t *schedulerpb.Task) (out []*controlpb.NetworkAddress) {
	if !schedstore.Live(t) {
		return nil
	}
	for _, a := range t.GetAttachments() {
		n, _ := meshstore.Networks.Get(r, a.GetNetworkId())
		if n.GetKind() == meshpb.Kind_KIND_INGRESS {
			continue // its ports say so
		}
		out = append(out, &controlpb.NetworkAddress{NetworkId: a.GetNetworkId(), NetworkName: n.GetSpec().GetName(), Addresses: addressesOf(t, a)})
	}
	return out
}

// addressesOf are those that a task was given on a network, or else those that its
// node says it has there.
func addressesOf(t *schedulerpb.Task, on *taskpb.Attachment) []string {
	if len(on.GetAddresses()) > 0 {
		return on.GetAddresses()
	}
	for _, a := range t.GetStatus().GetLocal() {
		if a.GetNetworkId() == on.GetNetworkId() {
			return a.GetAddresses()
		}
	}
	return nil
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
	resp := &controlpb.CreatePolicyResponse{Id: id}
	s.warn(ctx, &resp.Warnings, func(r raftstore.Reader) []string { return policyWarnings(r, id) })
	return resp, nil
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

// notices are of nodes with these endpoints, whose rules for networks somebody
// changed lately.
func notices(r raftstore.Reader, endpoints []*controlpb.NetworkEndpoint) (out []*controlpb.NetworkNotice) {
	seen := make(map[string]bool)
	for _, e := range endpoints {
		if id := e.GetNodeId(); !seen[id] {
			seen[id] = true
			n, _ := schedstore.Nodes.Get(r, id)
			if text := schedstore.Meddled(n); text != "" {
				out = append(out, &controlpb.NetworkNotice{NodeId: id, NodeName: e.GetNodeName(), Message: text})
			}
		}
	}
	slices.SortFunc(out, func(a, b *controlpb.NetworkNotice) int { return cmp.Compare(a.GetNodeName(), b.GetNodeName()) })
	return out
}
