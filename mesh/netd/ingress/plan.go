package ingress

import (
	"maps"
	"net/netip"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
)

// A plan is what was declared. Generation 0: nothing was. Plans share what they
// have in common and are never changed.
type plan struct {
	generation uint64
	mesh       netip.Addr // invalid: no mesh
	subnet     netip.Prefix
	netns      string
	entry      bool
	entries    map[netip.Addr]bool // the others
	services   map[string]*service
}

type service struct {
	id        string
	vni       uint32
	ports     []port
	endpoints map[string]endpoint
}

type port struct {
	hold.Port
	target uint16
	local  bool // tasks of the entry node are preferred
}

type endpoint struct {
	task, netns string
	addr        netip.Addr
	node        netip.Addr // invalid: this one
	serving     bool
}

func (e endpoint) isLocal() bool { return !e.node.IsValid() }

func emptyPlan() *plan {
	return &plan{entries: map[netip.Addr]bool{}, services: map[string]*service{}}
}

// clone is one whose maps may be changed; services in it may not.
func (p *plan) clone() *plan {
	q := *p
	q.entries, q.services = maps.Clone(p.entries), maps.Clone(p.services)
	return &q
}

func (s *service) clone() *service {
	t := *s
	t.endpoints = maps.Clone(s.endpoints)
	return &t
}

// wanted is whether anything at all has to be there.
func (p *plan) wanted() bool { return len(p.services) > 0 }

// has reports whether the service has tasks here, and elsewhere.
func (s *service) has() (here, elsewhere bool) {
	for _, e := range s.endpoints {
		if e.isLocal() {
			here = true
		} else {
			elsewhere = true
		}
	}
	return here, elsewhere
}

// uplink reports whether the node speaks with others about the service: it asks
// tasks elsewhere, as an entry node, or has tasks that other entry nodes ask.
func (p *plan) uplink(s *service) (asks, asked bool) {
	if !p.mesh.IsValid() {
		return false, false
	}
	here, elsewhere := s.has()
	return p.entry && elsewhere, here && len(p.entries) > 0
}

// chosen are the tasks that new flows to the port are led to.
func (s *service) chosen(p port) (out []endpoint) {
	var local []endpoint
	for _, e := range s.endpoints {
		if !e.serving {
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
