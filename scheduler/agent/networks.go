package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// networks checks the sequence of a session's NetworkSets and makes views of
// them. A session begins with a complete set, so a new one begins with nothing.
type networks struct {
	sequence uint64
	heard    bool // a complete set has taken effect
	open     bool // a set goes on in the next message
	view     *overlay.View
}

// add returns the view that a message makes, or nil where it is not whole yet.
// The contract: the first message is complete with sequence 1, each later one
// has the next number, a set in parts is continued without anything between. An
// error leaves the session of no use.
func (n *networks) add(m *schedulerpb.NetworkSet) (*overlay.View, error) {
	if m.Sequence != n.sequence+1 {
		return nil, fmt.Errorf("networks %d arrived after %d: some are missing", m.Sequence, n.sequence)
	}
	n.sequence++
	switch {
	case m.Complete && n.open, m.Complete && len(m.Remove)+len(m.RemovePeers)+len(m.RemovePools)+len(m.RemoveNodes)+len(m.RemovePublished) > 0:
		return nil, errors.New("a complete set of networks is malformed")
	case m.Complete:
		n.view = &overlay.View{Peers: map[string]overlay.Node{}, Networks: map[string]*overlay.Network{}}
	case n.view == nil:
		return nil, errors.New("the first networks are not complete")
	case !n.open: // what was given away is not changed
		n.view = &overlay.View{Self: n.view.Self, Peers: maps.Clone(n.view.Peers), Networks: maps.Clone(n.view.Networks), Pools: n.view.Pools, Reach: n.view.Reach}
	}
	n.open = m.More
	if err := n.take(m); err != nil {
		return nil, err
	}
	if n.open {
		return nil, nil
	}
	n.heard = true
	return n.view, nil
}

func (n *networks) take(m *schedulerpb.NetworkSet) error {
	v := n.view
	for _, id := range m.RemovePeers {
		delete(v.Peers, id)
	}
	for _, p := range m.Peers {
		node, err := nodeOf(p)
		if err != nil {
			return err
		}
		v.Peers[node.ID] = node
	}
	if m.Self != nil {
		node, err := nodeOf(m.Self)
		if err != nil {
			return err
		}
		v.Self = node
	}
	pools, err := poolsOf(v.Pools, m)
	if err != nil {
		return err
	}
	v.Pools = pools
	if v.Reach, err = reachOf(v.Reach, m); err != nil {
		return err
	}
	for _, id := range m.Remove {
		delete(v.Networks, id)
	}
	for _, u := range m.Update {
		if !ident.Valid(u.Id) {
			return fmt.Errorf("%.60q is no id of a network", u.Id)
		}
		made, err := networkOf(v.Networks[u.Id], u)
		if err != nil {
			return fmt.Errorf("network %s: %w", u.Id, err)
		}
		v.Networks[u.Id] = made
	}
	if len(v.Networks) > maxNetworks || len(v.Peers) > maxPeers {
		return fmt.Errorf("%d networks and %d peers: at most %d and %d are possible on a node", len(v.Networks), len(v.Peers), maxNetworks, maxPeers)
	}
	return nil
}

// poolsOf are the pools after m; old is not changed.
func poolsOf(old []netip.Prefix, m *schedulerpb.NetworkSet) ([]netip.Prefix, error) {
	if len(m.Pools)+len(m.RemovePools) == 0 {
		return old, nil
	}
	pools := map[netip.Prefix]bool{}
	for _, p := range old {
		pools[p] = true
	}
	for i, text := range slices.Concat(m.RemovePools, m.Pools) {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() || p.Bits() < minPoolBits {
			return nil, fmt.Errorf("pool %.60q is malformed", text)
		}
		if i < len(m.RemovePools) {
			delete(pools, p)
		} else {
			pools[p] = true
		}
	}
	if len(pools) > maxPools {
		return nil, fmt.Errorf("%d pools: at most %d are possible", len(pools), maxPools)
	}
	return slices.SortedFunc(maps.Keys(pools), netip.Prefix.Compare), nil
}

func nodeOf(p *schedulerpb.PeerView) (overlay.Node, error) {
	if !ident.Valid(p.GetNodeId()) {
		return overlay.Node{}, fmt.Errorf("%.60q is no id of a node", p.GetNodeId())
	}
	n := overlay.Node{ID: p.GetNodeId(), Underlay: p.GetUnderlay()}
	if p.GetMeshAddress() == "" {
		return n, nil // it has none yet
	}
	a, err := overlay.ParseAddrs([]string{p.GetMeshAddress()})
	if err != nil || !a[0].Is4() {
		return n, fmt.Errorf("node %s: %.60q is no address in the mesh", n.ID, p.GetMeshAddress())
	}
	if n.Mesh = netip.PrefixFrom(a[0], int(p.GetMeshBits())); p.GetMeshBits() < 8 || p.GetMeshBits() > 30 {
		return n, fmt.Errorf("node %s: a mesh of /%d is none", n.ID, p.GetMeshBits())
	}
	return n, nil
}

// networkOf is the network after u; old, which is not changed, is what was said
// of it before.
func networkOf(old *overlay.Network, u *schedulerpb.NetworkView) (*overlay.Network, error) {
	n := &overlay.Network{ID: u.Id, Name: u.Name, Driver: u.Driver, Kind: u.Kind, VNI: u.Vni, Internal: u.Internal, DefaultDeny: u.DefaultDeny, Options: u.Options,
		ServiceID: u.ServiceId, Endpoints: map[string]overlay.Endpoint{}, Services: map[string]overlay.Service{}}
	switch {
	case u.Changes && old == nil:
		return nil, errors.New("changes of what was never said")
	case u.Changes:
		n.Endpoints, n.Services, n.Rules, n.Entries = maps.Clone(old.Endpoints), maps.Clone(old.Services), old.Rules, maps.Clone(old.Entries)
	case len(u.RemoveEndpoints)+len(u.RemoveServices)+len(u.RemoveEntries) > 0 || u.PolicyChanged:
		return nil, errors.New("changes, in what takes its place")
	}
	if u.Vni >= 1<<24 || u.Kind == meshpb.Kind_KIND_OVERLAY && (u.Vni == 0 || len(u.Subnets) == 0) {
		return nil, fmt.Errorf("VNI %d and %d subnets do not make an overlay", u.Vni, len(u.Subnets))
	}
	if err := checkOptions(u.Options); err != nil {
		return nil, err
	}
	if err := subnetsOf(n, u.Subnets); err != nil {
		return nil, err
	}
	if u.Kind == meshpb.Kind_KIND_INGRESS {
		if err := publishedOf(n, u); err != nil {
			return nil, err
		}
	}
	for _, id := range u.RemoveServices {
		delete(n.Services, id)
	}
	for _, id := range u.RemoveEndpoints {
		delete(n.Endpoints, id)
	}
	for _, s := range u.Services {
		if err := serviceOf(n, s); err != nil {
			return nil, fmt.Errorf("service %.60q: %w", s.ServiceId, err)
		}
	}
	for _, e := range u.Endpoints {
		if err := endpointOf(n, e); err != nil {
			return nil, fmt.Errorf("task %.60q: %w", e.TaskId, err)
		}
	}
	if !u.Changes || u.PolicyChanged {
		n.Rules = nil
		for _, r := range u.Policy {
			made, err := ruleOf(r)
			if err != nil {
				return nil, err
			}
			n.Rules = append(n.Rules, made)
		}
	}
	if len(n.Endpoints) > maxEndpoints || len(n.Services) > maxServices || len(n.Rules) > maxRules {
		return nil, fmt.Errorf("%d tasks, %d services and %d rules: at most %d, %d and %d are possible",
			len(n.Endpoints), len(n.Services), len(n.Rules), maxEndpoints, maxServices, maxRules)
	}
	return n, nil
}

func subnetsOf(n *overlay.Network, list []*meshpb.Subnet) error {
	if len(list) > 2 {
		return fmt.Errorf("%d subnets: there is one of each family at most", len(list))
	}
	for i, s := range list {
		p, err := netip.ParsePrefix(s.GetSubnet())
		if n.Kind == meshpb.Kind_KIND_INGRESS && err == nil && p == p.Masked() && (i == 0 || p.Addr().Is6()) {
			n.Subnets = append(n.Subnets, overlay.Subnet{Prefix: p}) // netd knows its gateway
			continue
		}
		gateway, gerr := overlay.ParseAddrs([]string{s.GetGateway()})
		if err != nil || gerr != nil || p != p.Masked() || !p.Contains(gateway[0]) || i > 0 && p.Addr().Is4() {
			return fmt.Errorf("subnet %.60q with gateway %.60q is malformed", s.GetSubnet(), s.GetGateway())
		}
		n.Subnets = append(n.Subnets, overlay.Subnet{Prefix: p, Gateway: gateway[0]})
	}
	return nil
}

func serviceOf(n *overlay.Network, s *schedulerpb.NetworkServiceView) error {
	if !ident.Valid(s.ServiceId) {
		return errors.New("it is no id")
	}
	vips, err := overlay.ParseAddrs(s.Vips)
	if err != nil {
		return err
	}
	for _, name := range append([]string{s.Name}, s.Aliases...) {
		if err := ident.CheckName(name); err != nil {
			return err
		}
	}
	if len(s.Aliases) > maxAliases || !n.Within(vips) {
		return fmt.Errorf("%d aliases, or a virtual address outside of the network", len(s.Aliases))
	}
	n.Services[s.ServiceId] = overlay.Service{Name: s.Name, VIPs: vips, Aliases: s.Aliases,
		Unnamed: s.EndpointMode == schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR}
	return nil
}

func endpointOf(n *overlay.Network, e *schedulerpb.EndpointView) error {
	if !ident.Valid(e.TaskId) || !ident.Valid(e.ServiceId) || !ident.Valid(e.NodeId) {
		return errors.New("it, its service or its node is no id")
	}
	addrs, err := overlay.ParseAddrs(e.Addresses)
	if err != nil {
		return err
	}
	if !addrs[0].IsValid() || !n.Within(addrs) {
		return errors.New("it has no address, or one outside of the network")
	}
	n.Endpoints[e.TaskId] = overlay.Endpoint{Service: e.ServiceId, Node: e.NodeId, Slot: e.Slot, Addrs: addrs, Serving: e.Serving}
	return nil
}

// protocols are IP's numbers.
var protocols = map[meshpb.Protocol]uint8{meshpb.Protocol_PROTOCOL_UNSPECIFIED: 0,
	meshpb.Protocol_PROTOCOL_TCP: 6, meshpb.Protocol_PROTOCOL_UDP: 17, meshpb.Protocol_PROTOCOL_ICMP: 1}

func ruleOf(r *schedulerpb.PolicyRuleView) (overlay.Rule, error) {
	rule := r.GetRule()
	protocol, known := protocols[rule.GetProtocol()]
	first, last := rule.GetFirstPort(), rule.GetLastPort()
	// One that is not understood may allow less than it seems to.
	if !ident.Valid(r.GetPolicyId()) || !known || first > last || last > 65535 || first == 0 && last != 0 || last != 0 && protocol != 6 && protocol != 17 {
		return overlay.Rule{}, fmt.Errorf("rule %d of policy %.60q is malformed", r.GetIndex(), r.GetPolicyId())
	}
	return overlay.Rule{ID: fmt.Sprintf("%s/%d", r.GetPolicyId(), r.GetIndex()), From: rule.GetFromService(), To: rule.GetToService(),
		Protocol: protocol, First: uint16(first), Last: uint16(last)}, nil
}
