package netview

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func endpoint(t *schedulerpb.Task, a *taskpb.Attachment) *schedulerpb.EndpointView {
	return &schedulerpb.EndpointView{TaskId: t.GetId(), ServiceId: t.GetServiceId(), NodeId: t.GetNodeId(),
		Slot: t.GetSlot(), Addresses: a.GetAddresses(), Serving: Serving(t)}
}

// peerView is what the node's peers, and it itself, are told of it; nil while it
// is no part of the mesh.
func (n *node) peerView() *schedulerpb.PeerView {
	if n.sched == nil || n.mesh.GetAddress() == "" || n.identity.GetDenied() {
		return nil
	}
	v := &schedulerpb.PeerView{NodeId: n.id, MeshAddress: n.mesh.GetAddress(), MeshBits: n.mesh.GetBits()}
	// A manager says where others reach it. Of a worker its session shows it.
	host := n.sched.GetAddress()
	if n.identity.GetRole() == profilepb.Role_ROLE_MANAGER {
		if h, _, err := net.SplitHostPort(n.identity.GetAddress()); err == nil {
			host = h
		}
	}
	if host != "" {
		v.Underlay = net.JoinHostPort(host, strconv.Itoa(PeerPort))
	}
	return v
}

// head is a view of the network by itself.
func (n *network) head() *schedulerpb.NetworkView {
	r := n.record
	return &schedulerpb.NetworkView{Id: r.GetId(), Name: r.GetSpec().GetName(), Driver: r.GetSpec().GetDriver(), Kind: r.GetKind(),
		Vni: r.GetVni(), Subnets: r.GetSubnets(), Internal: r.GetSpec().GetInternal(), DefaultDeny: r.GetSpec().GetDefaultDeny(),
		Options: r.GetSpec().GetOptions(), ServiceId: r.GetServiceId()}
}

// whole is a view of everything there is.
func (ix *Index) whole(n *network) *schedulerpb.NetworkView {
	v := n.head()
	services := maps.Clone(n.users)
	for _, e := range n.endpoints {
		v.Endpoints = append(v.Endpoints, e)
		services[e.GetServiceId()] = true
	}
	for id := range services {
		if s := ix.serviceView(n, id); s != nil {
			v.Services = append(v.Services, s)
		}
	}
	v.Policy = n.rules()
	sortView(v)
	return v
}

// since is a view of what changed after at; nil: nothing did. Ids of nodes whose
// part in the network changed are added to peers.
func (ix *Index) since(n *network, at uint64, peers map[string]bool) *schedulerpb.NetworkView {
	type key struct {
		kind kind
		id   string
	}
	seen := map[key]bool{}
	var v *schedulerpb.NetworkView
	for _, c := range slices.Backward(n.journal) {
		if c.at <= at {
			break
		}
		if c.kind == ofPeer {
			peers[c.id] = true
			continue
		}
		if seen[key{c.kind, c.id}] {
			continue
		}
		seen[key{c.kind, c.id}] = true
		if v == nil {
			v = n.head()
			v.Changes = true
		}
		switch c.kind {
		case ofEndpoint:
			if e := n.endpoints[c.id]; e != nil {
				v.Endpoints = append(v.Endpoints, e)
			} else {
				v.RemoveEndpoints = append(v.RemoveEndpoints, c.id)
			}
		case ofService:
			if s := ix.serviceView(n, c.id); s != nil {
				v.Services = append(v.Services, s)
			} else {
				v.RemoveServices = append(v.RemoveServices, c.id)
			}
		case ofPolicy:
			v.Policy, v.PolicyChanged = n.rules(), true
		}
	}
	if v != nil {
		sortView(v)
	}
	return v
}

func sortView(v *schedulerpb.NetworkView) {
	slices.SortFunc(v.Endpoints, func(a, b *schedulerpb.EndpointView) int { return cmp.Compare(a.GetTaskId(), b.GetTaskId()) })
	slices.SortFunc(v.Services, func(a, b *schedulerpb.NetworkServiceView) int {
		return cmp.Compare(a.GetServiceId(), b.GetServiceId())
	})
	slices.Sort(v.RemoveEndpoints)
	slices.Sort(v.RemoveServices)
}

// serviceView is a service on a network: one that is to be on it, or one that has
// tasks there still, which then has its name alone. nil: neither, or it is gone.
func (ix *Index) serviceView(n *network, id string) *schedulerpb.NetworkServiceView {
	s := ix.services[id]
	if s == nil || !n.users[id] && ix.spread[id][n.id] == 0 {
		return nil
	}
	v := &schedulerpb.NetworkServiceView{ServiceId: id, Name: s.GetSpec().GetName(), EndpointMode: s.GetSpec().GetEndpointMode()}
	for _, a := range s.GetVips() {
		if a.GetNetworkId() == n.id {
			v.Vips = a.GetAddresses()
		}
	}
	for _, u := range s.GetSpec().GetTask().GetNetworks() {
		if u.GetNetwork() == n.id {
			v.Aliases = u.GetAliases()
		}
	}
	return v
}

// rules are all of the network's policies, by their names.
func (n *network) rules() (out []*schedulerpb.PolicyRuleView) {
	for _, p := range slices.SortedFunc(maps.Values(n.policies), func(a, b *meshpb.Policy) int {
		return cmp.Or(cmp.Compare(a.GetSpec().GetName(), b.GetSpec().GetName()), cmp.Compare(a.GetId(), b.GetId()))
	}) {
		for i, r := range p.GetSpec().GetRules() {
			out = append(out, &schedulerpb.PolicyRuleView{PolicyId: p.GetId(), PolicyName: p.GetSpec().GetName(), Index: uint32(i), Rule: r})
		}
	}
	return out
}
