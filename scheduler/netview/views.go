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
func (ix *Index) head(n *network) *schedulerpb.NetworkView {
	r := n.record
	v := &schedulerpb.NetworkView{Id: r.GetId(), Name: r.GetSpec().GetName(), Driver: r.GetSpec().GetDriver(), Kind: r.GetKind(),
		Vni: r.GetVni(), Subnets: r.GetSubnets(), Internal: r.GetSpec().GetInternal(), DefaultDeny: r.GetSpec().GetDefaultDeny(),
		Options: r.GetSpec().GetOptions(), ServiceId: r.GetServiceId()}
	if n.ingress() {
		v.Ports = portViews(ix.services[r.GetServiceId()])
	}
	return v
}

// memo is a view that was made, for all who need the same. Nobody changes it.
type memo struct {
	from, to uint64
	view     *schedulerpb.NetworkView
	peers    []string
}

// alone reports whether a node is told of its own endpoints only: where each node
// has its own network, and where it has tasks and does not answer on the ports.
func (n *network) alone(as role) bool { return n.confined || n.ingress() && as&isEntry == 0 }

// tells reports whether a node is told of an endpoint. Of one that was given no
// address nobody is: it is for its own node to find out.
func tells(e *schedulerpb.EndpointView, node string, alone bool) bool {
	return len(e.GetAddresses()) > 0 && (!alone || e.GetNodeId() == node)
}

// whole is a view of everything there is for a node.
func (ix *Index) whole(n *network, node string, as role) *schedulerpb.NetworkView {
	v := ix.everything(n, node, n.alone(as))
	if !n.ingress() {
		return v
	}
	v = &schedulerpb.NetworkView{Id: v.Id, Name: v.Name, Driver: v.Driver, Kind: v.Kind, Vni: v.Vni, Subnets: v.Subnets, Internal: v.Internal,
		Options: v.Options, ServiceId: v.ServiceId, Ports: v.Ports, Endpoints: v.Endpoints, Services: v.Services}
	switch {
	case as&isMember != 0 && n.group != nil:
		v.Entries = slices.Sorted(maps.Keys(n.group.nodes))
	case as&isEntry != 0:
		v.Entries = []string{node}
	}
	return v
}

// everything is whole without what depends on who asks, where they are not alone.
func (ix *Index) everything(n *network, node string, alone bool) *schedulerpb.NetworkView {
	if m := n.whole.Load(); !alone && m != nil && m.to >= n.changed {
		return m.view
	}
	v := ix.head(n)
	services := maps.Clone(n.users)
	for _, e := range n.endpoints {
		if tells(e, node, alone) {
			v.Endpoints = append(v.Endpoints, e)
		}
		services[e.GetServiceId()] = true
	}
	for id := range services {
		if s := ix.serviceView(n, id); s != nil {
			v.Services = append(v.Services, s)
		}
	}
	v.Policy = n.rules()
	sortView(v)
	if !alone {
		n.whole.Store(&memo{to: ix.at, view: v})
	}
	return v
}

// since is a view of what changed for a node after at; nil: nothing did. Ids of
// nodes whose part in the network changed are added to peers.
func (ix *Index) since(n *network, node string, as role, at uint64, peers map[string]bool) *schedulerpb.NetworkView {
	n.left(as, at, peers)
	if n.alone(as) {
		v, ids := ix.changes(n, node, at, true)
		return ix.entries(n, as, at, v, add(peers, ids))
	}
	m := n.last.Load()
	if m == nil || m.from != at || m.to != ix.at {
		m = &memo{from: at, to: ix.at}
		m.view, m.peers = ix.changes(n, node, at, false)
		n.last.Store(m)
	}
	return ix.entries(n, as, at, m.view, add(peers, m.peers))
}

func add(to map[string]bool, ids []string) map[string]bool {
	for _, id := range ids {
		to[id] = true
	}
	return to
}

// left adds the nodes that answered on a network's ports, and those that now do,
// where these became others after at.
func (n *network) left(as role, at uint64, peers map[string]bool) {
	if as&isMember == 0 || n.regrouped <= at {
		return
	}
	for _, c := range slices.Backward(n.journal) {
		if c.at <= at {
			break
		}
		if c.kind == ofEntry {
			peers[c.id] = true
		}
	}
}

// changes is since without what depends on who asks, where they are not alone.
func (ix *Index) changes(n *network, node string, at uint64, alone bool) (v *schedulerpb.NetworkView, peers []string) {
	type key struct {
		kind kind
		id   string
	}
	seen := map[key]bool{}
	for _, c := range slices.Backward(n.journal) {
		if c.at <= at {
			break
		}
		k := key{c.kind, c.id}
		if seen[k] || c.kind == ofEntry || alone && c.kind == ofEndpoint && c.on != node {
			continue
		}
		if seen[k] = true; c.kind == ofPeer {
			peers = append(peers, c.id)
			continue
		}
		if v == nil {
			v = ix.head(n)
			v.Changes = true
		}
		switch c.kind {
		case ofEndpoint:
			if e := n.endpoints[c.id]; e == nil {
				v.RemoveEndpoints = append(v.RemoveEndpoints, c.id)
			} else if tells(e, node, alone) {
				v.Endpoints = append(v.Endpoints, e)
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
	return v, peers
}

// entries adds to v what a node with tasks is told of those that answer. v may be
// shared, and then another is returned.
func (ix *Index) entries(n *network, as role, at uint64, v *schedulerpb.NetworkView, peers map[string]bool) *schedulerpb.NetworkView {
	if n.group == nil || as&isMember == 0 || n.group.changed <= at {
		return v
	}
	out := ix.head(n)
	out.Changes = true
	if v != nil {
		out.Endpoints, out.RemoveEndpoints, out.Services, out.RemoveServices = v.Endpoints, v.RemoveEndpoints, v.Services, v.RemoveServices
	}
	seen, news := map[string]bool{}, v != nil
	for _, c := range slices.Backward(n.group.journal) {
		if c.at <= at {
			break
		}
		peers[c.id] = true
		if c.kind != ofEntry || seen[c.id] {
			continue
		}
		if seen[c.id], news = true, true; n.group.nodes[c.id] {
			out.Entries = append(out.Entries, c.id)
		} else {
			out.RemoveEntries = append(out.RemoveEntries, c.id)
		}
	}
	if !news {
		return nil
	}
	slices.Sort(out.Entries)
	slices.Sort(out.RemoveEntries)
	return out
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
