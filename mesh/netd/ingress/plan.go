package ingress

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
)

// A plan is what was declared. Generation 0: nothing was. Plans share what they
// have in common and are never changed.
type plan struct {
	generation uint64
	mesh       netip.Addr      // invalid: no mesh
	subnets    [2]netip.Prefix // of IPv4, and of IPv6 if it has any
	netns      string
	pools      pools.Pools // addresses that are the cluster's
	never      pools.Pools // what no client has: these, and what is nobody's
	poolsKey   string      // the same for the same
	services   map[string]*service
	kernel     kernelSide // not declared: how it is to be put in force here
	index      *index     // of the plan that was last made of this one, or of none
}

type service struct {
	id        string
	vni       uint32
	ports     []port
	entry     bool                // this node answers on the ports
	entries   map[netip.Addr]bool // the others that do
	endpoints map[string]endpoint
	// What follows from endpoints: those of this node, and whether there are others.
	locals    []endpoint
	elsewhere bool
}

type port struct {
	hold.Port
	target uint16
	local  bool // tasks of the entry node are preferred
}

type endpoint struct {
	task, netns string
	addrs       [2]netip.Addr // of IPv4, and of IPv6 or invalid
	node        netip.Addr    // invalid: this one
	serving     bool
}

func (e endpoint) isLocal() bool { return !e.node.IsValid() }

func emptyPlan() *plan {
	return (&plan{services: map[string]*service{}, index: new(index)}).withPools(nil)
}

// clone is one whose maps may be changed; services in it may not.
func (p *plan) clone() *plan {
	q := *p
	q.services = maps.Clone(p.services)
	return &q
}

func (s *service) clone() *service {
	t := *s
	t.endpoints, t.entries = maps.Clone(s.endpoints), maps.Clone(s.entries)
	return &t
}

// wanted is whether anything at all has to be there.
func (p *plan) wanted() bool { return len(p.services) > 0 }

// entry is whether this node answers for any service.
func (p *plan) entry() bool {
	for _, s := range p.services {
		if s.entry {
			return true
		}
	}
	return false
}

// indexed is the index of this plan, which was checked.
func (p *plan) indexed() *index {
	if p.index.of != p {
		p.index.of = nil
		p.index.check(p)
	}
	return p.index
}

// settle works out what follows from the endpoints.
func (s *service) settle() {
	s.locals, s.elsewhere = nil, false
	for _, e := range s.endpoints {
		if e.isLocal() {
			s.locals = append(s.locals, e)
		} else {
			s.elsewhere = true
		}
	}
	slices.SortFunc(s.locals, func(a, b endpoint) int { return strings.Compare(a.task, b.task) })
}

// uplink reports whether the node speaks with others about the service: it asks
// tasks elsewhere, as an entry node, or has tasks that other entry nodes ask.
func (p *plan) uplink(s *service) (asks, asked bool) {
	if !p.mesh.IsValid() {
		return false, false
	}
	return s.entry && s.elsewhere, len(s.locals) > 0 && len(s.entries) > 0
}

// chosen are the tasks that new flows to the port are led to: of its family.
func (s *service) chosen(p port) (out []endpoint) {
	var local []endpoint
	for _, e := range s.endpoints {
		if !e.serving || !e.at(familyOf(p.Host)).IsValid() {
			continue
		}
		out = append(out, e)
		if e.isLocal() {
			local = append(local, e)
		}
	}
	if p.local && len(local) > 0 {
		return local
	}
	return out
}
