package overlay

import (
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Ingress is the one id, for rund, of the namespace that all ingress networks of
// a node share.
const Ingress = "ingress"

// ingressPlan is what netd should have of the routing mesh. As with plan, it is
// computed whole.
type ingressPlan struct {
	mesh     string
	subnets  [2]netip.Prefix // IPv4 and IPv6
	services map[string]*published
	pools    []netip.Prefix
}

// published is one service of it.
type published struct {
	vni       uint32
	ports     []Port
	entry     bool            // this node answers
	entries   map[string]bool // mesh addresses of the others that do
	endpoints map[string]ingressEndpoint
}

type ingressEndpoint struct {
	addrs   Addrs
	node    string // mesh address; empty: it is here
	serving bool
	netns   string
}

// isIngress reports whether the network carries published ports.
func (n *Network) isIngress() bool { return n.Kind == meshpb.Kind_KIND_INGRESS && n.VNI != 0 }

// prefixes are the network's subnets by family.
func (n *Network) prefixes() (p [2]netip.Prefix) {
	for _, s := range n.Subnets {
		if s.Prefix.Addr().Is4() {
			p[0] = s.Prefix
		} else {
			p[1] = s.Prefix
		}
	}
	return p
}

// makeIngress is nil while it cannot be said what netd should have.
func makeIngress(v *View, tasks []Task, made bool) *ingressPlan {
	if v == nil || !v.Self.Mesh.IsValid() {
		return nil
	}
	p := &ingressPlan{mesh: v.Self.Mesh.Addr().String(), services: map[string]*published{}, pools: v.Pools}
	if !made {
		return p
	}
	of := map[string]string{} // service by network
	for _, id := range slices.Sorted(maps.Keys(v.Networks)) {
		n := v.Networks[id]
		if !n.isIngress() || p.services[n.ServiceID] != nil {
			continue
		}
		if len(p.services) == 0 {
			p.subnets = n.prefixes()
		} else if n.prefixes() != p.subnets {
			continue // there is one for all; netd would refuse the others as well
		}
		p.services[n.ServiceID], of[id] = n.published(v), n.ServiceID
	}
	for _, t := range tasks {
		for _, a := range t.Attachments {
			s := p.services[of[a.Network]]
			if s == nil || !t.Bridged || !a.Addrs[0].IsValid() || !v.Networks[a.Network].Within(a.Addrs) || v.Networks[a.Network].reused(t.ID, a.Addrs) {
				continue
			}
			s.endpoints[t.ID] = ingressEndpoint{addrs: a.Addrs, serving: t.Serving, netns: t.Netns}
		}
	}
	return p
}

// published has everything but this node's own tasks.
func (n *Network) published(v *View) *published {
	s := &published{vni: n.VNI, ports: n.Ports, entry: n.Entries[v.Self.ID], entries: map[string]bool{}, endpoints: make(map[string]ingressEndpoint, len(n.Endpoints))}
	for id := range n.Entries {
		if node, ok := v.Peers[id]; ok && id != v.Self.ID && node.Mesh.IsValid() {
			s.entries[node.Mesh.Addr().String()] = true
		}
	}
	for task, e := range n.Endpoints {
		node, ok := v.Peers[e.Node]
		if e.Node == v.Self.ID || !ok || !node.Mesh.IsValid() || !e.Addrs[0].IsValid() {
			continue
		}
		s.endpoints[task] = ingressEndpoint{addrs: e.Addrs, node: node.Mesh.Addr().String(), serving: e.Serving}
	}
	return s
}

// whole declares all of p.
func (p *ingressPlan) whole(generation uint64) *netdpb.IngressRequest {
	req := &netdpb.IngressRequest{Generation: generation, MeshAddress: p.mesh}
	if len(p.services) > 0 {
		req.Netns, req.Pools = Netns(Ingress), netdpb.PoolsOf(p.pools)
		p.setSubnets(req)
	}
	for _, id := range slices.Sorted(maps.Keys(p.services)) {
		req.Services = append(req.Services, p.services[id].message(id))
	}
	return req
}

func (p *ingressPlan) setSubnets(req *netdpb.IngressRequest) {
	req.Subnet = p.subnets[0].String()
	if p.subnets[1].IsValid() {
		req.Subnet6 = p.subnets[1].String()
	}
}

func (s *published) message(id string) *netdpb.IngressService {
	m := &netdpb.IngressService{ServiceId: id, Vni: s.vni, Entry: proto.Bool(s.entry), Entries: slices.Sorted(maps.Keys(s.entries))}
	for _, p := range led(s.ports) {
		m.Ports = append(m.Ports, p.message())
	}
	for _, task := range slices.Sorted(maps.Keys(s.endpoints)) {
		m.Endpoints = append(m.Endpoints, s.endpoints[task].message(task))
	}
	return m
}

func (p Port) message() *netdpb.IngressPort {
	m := &netdpb.IngressPort{Published: uint32(p.Published), Target: uint32(p.Target), Udp: p.UDP, PreferLocal: p.PreferLocal}
	if p.Host.IsValid() {
		m.HostIp = p.Host.String()
	}
	return m
}

func (e ingressEndpoint) message(task string) *netdpb.IngressEndpoint {
	m := &netdpb.IngressEndpoint{TaskId: task, Address: e.addrs[0].String(), Node: e.node, Serving: e.serving, Netns: e.netns}
	if e.addrs[1].IsValid() {
		m.Address6 = e.addrs[1].String()
	}
	return m
}

// difference declares what p has and old has not, on top of old; nil: they are
// the same. What of p's own tasks again names is said in any case.
func (p *ingressPlan) difference(old *ingressPlan, again map[string]bool, generation, base uint64) *netdpb.IngressRequest {
	if len(p.services) > 0 && len(old.services) > 0 && p.subnets != old.subnets {
		return p.whole(generation) // no task keeps its address
	}
	req := &netdpb.IngressRequest{Generation: generation, Base: base}
	if p.mesh != old.mesh {
		req.MeshAddress = p.mesh
	}
	if len(old.services) == 0 && len(p.services) > 0 {
		return p.whole(generation)
	}
	if len(p.services) > 0 && !slices.Equal(p.pools, old.pools) {
		req.Pools = netdpb.PoolsOf(p.pools)
	}
	for _, id := range slices.Sorted(maps.Keys(old.services)) {
		if p.services[id] == nil {
			req.Removed = append(req.Removed, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.services)) {
		s, o := p.services[id], old.services[id]
		if o == nil || s.vni != o.vni || !slices.Equal(s.ports, o.ports) {
			req.Services = append(req.Services, s.message(id))
		} else if m := s.changes(o, id, again); m != nil {
			req.Services = append(req.Services, m)
		}
	}
	if req.MeshAddress == "" && req.Pools == nil && len(req.Services)+len(req.Removed) == 0 {
		return nil
	}
	return req
}

func (s *published) changes(o *published, id string, again map[string]bool) *netdpb.IngressService {
	m := &netdpb.IngressService{ServiceId: id, Changes: true}
	if s.entry != o.entry {
		m.Entry = proto.Bool(s.entry)
	}
	for _, a := range slices.Sorted(maps.Keys(s.entries)) {
		if !o.entries[a] {
			m.Entries = append(m.Entries, a)
		}
	}
	for _, a := range slices.Sorted(maps.Keys(o.entries)) {
		if !s.entries[a] {
			m.RemovedEntries = append(m.RemovedEntries, a)
		}
	}
	for _, task := range slices.Sorted(maps.Keys(s.endpoints)) {
		e := s.endpoints[task]
		if was, ok := o.endpoints[task]; !ok || was != e || again[task] && e.node == "" {
			m.Endpoints = append(m.Endpoints, e.message(task))
		}
	}
	for _, task := range slices.Sorted(maps.Keys(o.endpoints)) {
		if _, ok := s.endpoints[task]; !ok {
			m.RemovedEndpoints = append(m.RemovedEndpoints, task)
		}
	}
	if m.Entry == nil && len(m.Entries)+len(m.RemovedEntries)+len(m.Endpoints)+len(m.RemovedEndpoints) == 0 {
		return nil
	}
	return m
}
