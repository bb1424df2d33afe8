package netview

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// reach is what containers reach of the cluster's nodes: at the nodes' addresses,
// the ports that services publish. A container's way out would lead it to all that
// a node shows to its neighbours otherwise. Every node of the mesh is told, as any
// may have containers. Nothing says which node has which address, or which service
// publishes a port.
//
// An address is one that the managers found themselves, or that a manager gives as
// its own: no worker has containers elsewhere cut off from what is not its own.
type reach struct {
	at    map[string][]netip.Addr // nodes
	ports map[string]int          // how many services publish each
	stale bool

	nodes, published []string // as told, in order; not changed once they were made
}

// settleAddresses takes what became of a node.
func (ix *Index) settleAddresses(n *node) {
	var at []netip.Addr
	if n.sched != nil {
		hosts := []string{n.sched.GetAddress()}
		if n.identity.GetRole() == profilepb.Role_ROLE_MANAGER {
			if h, _, err := net.SplitHostPort(n.identity.GetAddress()); err == nil {
				hosts = append(hosts, h)
			}
		}
		for _, h := range hosts { // one may be a name
			if a, err := netip.ParseAddr(h); err == nil && a.Zone() == "" && a.Unmap().IsGlobalUnicast() {
				at = append(at, a.Unmap())
			}
		}
	}
	r := &ix.reach
	if slices.Equal(r.at[n.id], at) {
		return
	}
	r.stale = true
	if at == nil {
		delete(r.at, n.id)
	} else {
		r.at[n.id] = at
	}
}

// service takes what became of one.
func (r *reach) service(old, now *schedulerpb.Service) {
	for _, p := range portsOf(old) {
		if r.ports[p]--; r.ports[p] == 0 {
			delete(r.ports, p)
			r.stale = true
		}
	}
	for _, p := range portsOf(now) {
		if r.ports[p]++; r.ports[p] == 1 {
			r.stale = true
		}
	}
}

// portsOf are the ports of a service, in either mode, each once.
func portsOf(s *schedulerpb.Service) (out []string) {
	for _, p := range s.GetSpec().GetTask().GetPorts() {
		if n := p.GetPublished(); n > 0 && n <= 65535 {
			out = append(out, portname.Port{UDP: p.GetProtocol() == taskpb.Port_PROTOCOL_UDP, Number: uint16(n)}.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// settleReach works out what nodes are to be told, and wakes them where that is
// another thing than it was.
func (ix *Index) settleReach() {
	r := &ix.reach
	if !r.stale {
		return
	}
	r.stale = false
	var nodes []string
	for _, at := range r.at {
		for _, a := range at {
			nodes = append(nodes, a.String())
		}
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	published := slices.Sorted(maps.Keys(r.ports))
	if slices.Equal(nodes, r.nodes) && slices.Equal(published, r.published) {
		return
	}
	r.nodes, r.published = nodes, published
	ix.wakeAll()
}

// wakeAll has every node of the mesh told something.
func (ix *Index) wakeAll() {
	for id, n := range ix.nodes {
		if n.view != nil {
			ix.woken[id] = true
		}
	}
}

// tellReach says what changed of it for a node of the mesh.
func (c *Cursor) tellReach(ix *Index, n *node, set *schedulerpb.NetworkSet) {
	var nodes, published []string
	if n.view != nil {
		nodes, published = ix.reach.nodes, ix.reach.published
	}
	set.Nodes, set.RemoveNodes = difference(c.nodes, nodes)
	set.Published, set.RemovePublished = difference(c.published, published)
	c.nodes, c.published = nodes, published
}

// difference is what became of a list; both are in order.
func difference[T cmp.Ordered](was, now []T) (added, removed []T) {
	for len(was) > 0 && len(now) > 0 {
		switch d := cmp.Compare(was[0], now[0]); {
		case d < 0:
			removed, was = append(removed, was[0]), was[1:]
		case d > 0:
			added, now = append(added, now[0]), now[1:]
		default:
			was, now = was[1:], now[1:]
		}
	}
	return append(added, now...), append(removed, was...)
}
