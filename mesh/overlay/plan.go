package overlay

import (
	"cmp"
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// plan is what netd should have. It is computed whole from what is known, and
// compared with what netd was told: so nothing that happened meanwhile matters.
type plan struct {
	mesh      string
	networks  map[string]*planned
	sandboxes map[string]string // of tasks on none of these that are told names
}

// planned is one network of a plan.
type planned struct {
	vni            uint32
	subnets        []Subnet
	internal, deny bool
	endpoints      map[string]endpoint // by task
	services       map[string]Addrs
	rules          []rule
}

type endpoint struct {
	service string
	addrs   Addrs
	node    string // mesh address; empty: it is here
	serving bool
	netns   string
	index   uint32
}

type rule struct {
	id          string
	from, to    []string
	protocol    uint32
	first, last uint32
}

// makes reports whether netd can make the network.
func (n *Network) makes() bool { return n.Kind != meshpb.Kind_KIND_INGRESS && n.VNI != 0 }

// makePlan is nil while it cannot be said what netd should have. Networks are in
// it whose namespaces were made.
func makePlan(v *View, tasks []Task, made map[string]bool) *plan {
	if v == nil || !v.Self.Mesh.IsValid() {
		return nil
	}
	p := &plan{mesh: v.Self.Mesh.Addr().String(), networks: map[string]*planned{}, sandboxes: sandboxes(v, tasks)}
	for id, n := range v.Networks {
		if made[id] && n.makes() {
			p.networks[id] = n.plan(v)
		}
	}
	for _, t := range tasks {
		i := 0 // of its interfaces
		for _, a := range t.Attachments {
			if n := v.Networks[a.Network]; n != nil && n.isIngress() {
				continue
			}
			if n := p.networks[a.Network]; n != nil && a.Addrs != (Addrs{}) && !v.Networks[a.Network].reused(t.ID, a.Addrs) {
				n.endpoints[t.ID] = endpoint{service: t.ServiceID, addrs: a.Addrs, serving: t.Serving, netns: t.Netns, index: uint32(i)}
			}
			i++
		}
	}
	return p
}

// reused reports whether managers gave an address of a task of this node to
// another one: they take the former for gone, as after this node was away.
func (n *Network) reused(task string, a Addrs) bool {
	if _, known := n.Endpoints[task]; known {
		return false
	}
	for _, e := range n.Endpoints {
		for _, addr := range e.Addrs {
			if addr.IsValid() && (addr == a[0] || addr == a[1]) {
				return true
			}
		}
	}
	return false
}

// plan has everything but this node's own tasks. A task whose node is not known
// is left out: there is no way to it.
func (n *Network) plan(v *View) *planned {
	p := &planned{vni: n.VNI, subnets: n.Subnets, internal: n.Internal, deny: n.DefaultDeny,
		endpoints: make(map[string]endpoint, len(n.Endpoints)), services: map[string]Addrs{}}
	for task, e := range n.Endpoints {
		node, ok := v.Peers[e.Node]
		if e.Node == v.Self.ID || !ok || !node.Mesh.IsValid() {
			continue
		}
		p.endpoints[task] = endpoint{service: e.Service, addrs: e.Addrs, node: node.Mesh.Addr().String(), serving: e.Serving}
	}
	byName := map[string][]string{}
	for id, s := range n.Services {
		byName[s.Name] = append(byName[s.Name], id)
		if s.VIPs != (Addrs{}) {
			p.services[id] = s.VIPs
		}
	}
	for _, r := range n.Rules {
		from, to := byName[r.From], byName[r.To]
		if len(from) == 0 || len(to) == 0 {
			continue // nobody of that name is here
		}
		slices.Sort(from)
		slices.Sort(to)
		p.rules = append(p.rules, rule{r.ID, from, to, uint32(r.Protocol), uint32(r.First), uint32(r.Last)})
	}
	return p
}

func (r rule) equal(o rule) bool {
	return r.id == o.id && r.protocol == o.protocol && r.first == o.first && r.last == o.last && slices.Equal(r.from, o.from) && slices.Equal(r.to, o.to)
}

// sameHead: what a difference cannot change is as before.
func (n *planned) sameHead(o *planned) bool {
	return n.vni == o.vni && n.internal == o.internal && n.deny == o.deny && slices.Equal(n.subnets, o.subnets)
}

// whole declares all of p.
func (p *plan) whole(generation uint64) *netdpb.OverlayRequest {
	req := &netdpb.OverlayRequest{Generation: generation, MeshAddress: p.mesh, Sandboxes: sandboxMessages(p.sandboxes)}
	for _, id := range slices.Sorted(maps.Keys(p.networks)) {
		req.Networks = append(req.Networks, p.networks[id].message(id))
	}
	return req
}

func (n *planned) message(id string) *netdpb.OverlayNetwork {
	m := &netdpb.OverlayNetwork{Id: id, Vni: n.vni, Netns: Netns(id), Internal: n.internal, DefaultDeny: n.deny, Rules: rules(n.rules)}
	for _, s := range n.subnets {
		m.Subnets = append(m.Subnets, &netdpb.OverlaySubnet{Subnet: s.Prefix.String(), Gateway: s.Gateway.String()})
	}
	for task, e := range n.endpoints {
		m.Endpoints = append(m.Endpoints, e.message(task))
	}
	for service, vips := range n.services {
		m.Services = append(m.Services, &netdpb.OverlayService{ServiceId: service, Vips: vips.Strings()})
	}
	return sorted(m)
}

func sorted(m *netdpb.OverlayNetwork) *netdpb.OverlayNetwork {
	slices.SortFunc(m.Endpoints, func(a, b *netdpb.OverlayEndpoint) int { return cmp.Compare(a.TaskId, b.TaskId) })
	slices.SortFunc(m.Services, func(a, b *netdpb.OverlayService) int { return cmp.Compare(a.ServiceId, b.ServiceId) })
	slices.Sort(m.RemovedEndpoints)
	slices.Sort(m.RemovedServices)
	return m
}

func (e endpoint) message(task string) *netdpb.OverlayEndpoint {
	return &netdpb.OverlayEndpoint{TaskId: task, ServiceId: e.service, Addresses: e.addrs.Strings(), Node: e.node, Serving: e.serving, Netns: e.netns, Index: e.index}
}

func rules(list []rule) (out []*netdpb.OverlayRule) {
	for _, r := range list {
		out = append(out, &netdpb.OverlayRule{Id: r.id, From: r.from, To: r.to, Protocol: r.protocol, FirstPort: r.first, LastPort: r.last})
	}
	return out
}

// difference declares what p has and old has not, on top of old; nil: they are
// the same. What of p's own tasks again names is said in any case.
func (p *plan) difference(old *plan, again map[ref]bool, generation, base uint64) *netdpb.OverlayRequest {
	req := &netdpb.OverlayRequest{Generation: generation, Base: base}
	if p.mesh != old.mesh {
		req.MeshAddress = p.mesh
	}
	for id := range old.networks {
		if p.networks[id] == nil {
			req.Removed = append(req.Removed, id)
		}
	}
	slices.Sort(req.Removed)
	for _, id := range slices.Sorted(maps.Keys(p.networks)) {
		n, o := p.networks[id], old.networks[id]
		if o == nil || !n.sameHead(o) {
			req.Networks = append(req.Networks, n.message(id))
		} else if m := n.changes(o, id, again); m != nil {
			req.Networks = append(req.Networks, m)
		}
	}
	p.sandboxesInto(req, old)
	if req.MeshAddress == "" && !req.SandboxesChanged && len(req.Networks)+len(req.Removed) == 0 {
		return nil
	}
	return req
}

func (n *planned) changes(o *planned, id string, again map[ref]bool) *netdpb.OverlayNetwork {
	m := &netdpb.OverlayNetwork{Id: id, Changes: true}
	for task, e := range n.endpoints {
		if was, ok := o.endpoints[task]; !ok || was != e || again[ref{id, task}] {
			m.Endpoints = append(m.Endpoints, e.message(task))
		}
	}
	for task := range o.endpoints {
		if _, ok := n.endpoints[task]; !ok {
			m.RemovedEndpoints = append(m.RemovedEndpoints, task)
		}
	}
	for service, vips := range n.services {
		if was, ok := o.services[service]; !ok || was != vips {
			m.Services = append(m.Services, &netdpb.OverlayService{ServiceId: service, Vips: vips.Strings()})
		}
	}
	for service := range o.services {
		if _, ok := n.services[service]; !ok {
			m.RemovedServices = append(m.RemovedServices, service)
		}
	}
	if !slices.EqualFunc(n.rules, o.rules, rule.equal) {
		m.RulesChanged, m.Rules = true, rules(n.rules)
	}
	if len(m.Endpoints)+len(m.RemovedEndpoints)+len(m.Services)+len(m.RemovedServices) == 0 && !m.RulesChanged {
		return nil
	}
	return sorted(m)
}
