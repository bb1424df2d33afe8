package netview

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// group is the nodes that answer on the published ports of some services: of all
// that have the same constraints on them. Most have none, so there is one group of
// all nodes, and a node that comes or goes is a change of that and not of each
// service.
type group struct {
	key         string
	constraints []spec.Constraint
	nodes       map[string]bool
	networks    map[string]*network // ingress

	journal []change // of nodes, oldest first
	base    uint64   // the journal has what came after it
	changed uint64   // when a node last came, went or changed
	shape   uint64   // when a network last did
}

// role is what a node has to do with a network.
type role uint8

const (
	isMember role = 1 << iota // it has tasks there
	isEntry                   // it answers on the ports
)

// ingress reports whether the network carries published ports.
func (n *network) ingress() bool { return n.record.GetKind() == meshpb.Kind_KIND_INGRESS }

func (n *network) role(of *node) (r role) {
	if of.networks[n.id] > 0 {
		r |= isMember
	}
	if n.group != nil && n.group.nodes[of.id] {
		r |= isEntry
	}
	return r
}

// carry sees what a changed record of a network means for the service whose ports
// it carries.
func (ix *Index) carry(n *network, old, now *meshpb.Network) {
	if old.GetServiceId() == "" && now.GetServiceId() == "" {
		return
	}
	if id := old.GetServiceId(); id != "" {
		delete(n.users, id)
		delete(ix.carriers, id)
		ix.note(n, ofService, id)
	}
	var service *schedulerpb.Service
	if id := now.GetServiceId(); id != "" {
		n.users[id], ix.carriers[id] = true, n.id
		ix.note(n, ofService, id)
		service = ix.services[id]
	}
	ix.regroup(n, service)
}

// publish sees what a changed service means for the network that carries its ports.
func (ix *Index) publish(n *network, old, now *schedulerpb.Service) {
	same := func(a, b *taskpb.Port) bool { return proto.Equal(a, b) }
	if old == nil || !slices.EqualFunc(spec.IngressPorts(old.GetSpec().GetTask()), spec.IngressPorts(now.GetSpec().GetTask()), same) {
		ix.note(n, ofHead, "")
	}
	if old == nil || now == nil || !slices.Equal(old.GetSpec().GetIngressConstraints(), now.GetSpec().GetIngressConstraints()) {
		ix.note(n, ofService, now.GetId())
		ix.regroup(n, now)
	}
}

// regroup has a network's ports answered on by the nodes that its service wants;
// nil: by none.
func (ix *Index) regroup(n *network, s *schedulerpb.Service) {
	var g *group
	if s != nil {
		g = ix.group(s.GetSpec().GetIngressConstraints())
	}
	old := n.group
	if g == old {
		return
	}
	if g != nil {
		g.networks[n.id], g.shape = n, ix.at
		for id := range g.nodes {
			if old == nil || !old.nodes[id] {
				ix.note(n, ofEntry, id)
				ix.woken[id] = true
			}
		}
	}
	n.group, n.regrouped = g, ix.at
	if old == nil {
		return
	}
	for id := range old.nodes {
		if g == nil || !g.nodes[id] {
			ix.note(n, ofEntry, id)
			ix.woken[id] = true
		}
	}
	// What became of the former group shortly before is to be heard as well, by those
	// who did not listen since: its journal is no longer the network's.
	for _, c := range old.journal {
		ix.note(n, ofEntry, c.id)
	}
	n.base = max(n.base, old.base)
	old.shape = ix.at
	if delete(old.networks, n.id); len(old.networks) == 0 {
		for id := range old.nodes {
			member := ix.node(id)
			delete(member.groups, old.key)
			member.shape = ix.at
		}
		delete(ix.groups, old.key)
	}
}

func (ix *Index) group(constraints []string) *group {
	key := strings.Join(constraints, "\x00") // of which they have none
	if g := ix.groups[key]; g != nil {
		return g
	}
	g := &group{key: key, nodes: map[string]bool{}, networks: map[string]*network{}, base: ix.at}
	for _, text := range constraints {
		c, err := spec.ParseEntryConstraint(text)
		if err != nil {
			c = spec.Constraint{} // of a later version, perhaps: it keeps everybody out, see wants
		}
		g.constraints = append(g.constraints, c)
	}
	ix.groups[key] = g
	for _, n := range ix.nodes {
		ix.admit(g, n)
	}
	return g
}

// admit sees whether a node belongs to a group.
func (ix *Index) admit(g *group, n *node) {
	was, is := g.nodes[n.id], n.view != nil && g.wants(n.sched)
	switch {
	case was == is:
		return
	case is:
		g.nodes[n.id], n.groups[g.key] = true, g
	default:
		delete(g.nodes, n.id)
		delete(n.groups, g.key)
	}
	n.shape = ix.at
	ix.woken[n.id] = true
	ix.noteEntry(g, ofEntry, n.id)
}

// noteEntry says that a node of a group came, went or changed, to those who have
// it for a peer.
func (ix *Index) noteEntry(g *group, k kind, id string) {
	g.journal = append(g.journal, change{at: ix.at, kind: k, id: id})
	g.journal, g.base = trim(g.journal, g.base, ix.keep+2*len(g.nodes))
	g.changed = ix.at
	for _, n := range g.networks {
		for member := range n.members {
			ix.woken[member] = true
		}
	}
}

// wants looks at nothing that a node says of itself.
func (g *group) wants(n *schedulerpb.Node) bool {
	for _, c := range g.constraints {
		value, ok := "", true
		switch c.Attribute {
		case spec.NodeID:
			value = n.GetId()
		case spec.NodeRole:
			if value = "worker"; n.GetManager() {
				value = "manager"
			}
		case spec.NodeAvailability:
			switch store.Effective(n) {
			case store.Active:
				value = "active"
			case store.Drain:
				value = "drain"
			default:
				value = "pause"
			}
		case spec.NodeLabel:
			value, ok = n.GetLabels()[c.Label]
		default:
			return false
		}
		if has := ok && value == c.Value; has == c.Not {
			return false
		}
	}
	return true
}

func portViews(s *schedulerpb.Service) (out []*schedulerpb.IngressPortView) {
	for _, p := range spec.IngressPorts(s.GetSpec().GetTask()) {
		out = append(out, &schedulerpb.IngressPortView{Published: p.GetPublished(), Target: p.GetTarget(), Protocol: p.GetProtocol(),
			HostIp: p.GetHostIp(), PreferLocal: p.GetPreferLocal(), ProxyProtocol: p.GetProxyProtocol()})
	}
	return out
}
