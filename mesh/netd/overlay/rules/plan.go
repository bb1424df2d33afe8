package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// A plan is a Network, checked and brought into the form that is compared and
// put into sets. Plans of the same Network are the same, so what is in force does
// not depend on what was before.
type plan struct {
	uplink    string
	deny      bool
	subnets   []netip.Prefix
	gateways  []netip.Addr
	endpoints []endpoint
	byTask    map[string]int
	byAddr    map[netip.Addr]int // endpoints
	services  []service
	byID      map[string]int // services
	policy    policy
}

type endpoint struct {
	task, service string
	number        number // of the service
	addrs         []netip.Addr
	port          string // the uplink's where remote
	remote        bool
	mac           [6]byte
	serving       bool
}

func (e *endpoint) same(o *endpoint) bool {
	return e.task == o.task && e.service == o.service && e.number == o.number && e.port == o.port && e.remote == o.remote &&
		e.mac == o.mac && e.serving == o.serving && slices.Equal(e.addrs, o.addrs)
}

// service is one with virtual addresses. Its backends are in the order of
// addresses.
type service struct {
	id       string
	vips     []netip.Addr
	backends []netip.Addr
}

func (s *service) same(o *service) bool {
	return s.id == o.id && slices.Equal(s.vips, o.vips) && slices.Equal(s.backends, o.backends)
}

// number is how a service is known in sets and marks. 0 is nobody's.
type number uint32

func (n number) key() string { return string(binary.NativeEndian.AppendUint32(nil, uint32(n))) }

// newNumbers gives every service that endpoints or rules name a number of its
// own: the first bytes of its id's hash, or, where two have the same, the next
// one for the id that comes later in the alphabet. So numbers depend on nothing
// that was before.
func newNumbers(n *Network) map[string]number {
	of := make(map[string]number)
	for i := range n.Endpoints {
		of[n.Endpoints[i].Service] = 0
	}
	for i := range n.Rules {
		for _, id := range slices.Concat(n.Rules[i].From, n.Rules[i].To) {
			of[id] = 0
		}
	}
	delete(of, "")
	taken := make(map[number]bool, len(of))
	for _, id := range slices.Sorted(maps.Keys(of)) {
		sum := sha256.Sum256([]byte(id))
		x := number(binary.BigEndian.Uint32(sum[:]))
		for x == 0 || taken[x] {
			x++
		}
		of[id], taken[x] = x, true
	}
	return of
}

// emptyPlan lets nothing pass.
func emptyPlan() *plan { return &plan{deny: true, policy: emptyPolicy()} }

func newPlan(n *Network) (*plan, error) {
	p := &plan{uplink: n.Uplink, deny: n.DefaultDeny, subnets: slices.Clone(n.Subnets), gateways: slices.Clone(n.Gateways),
		endpoints: make([]endpoint, 0, len(n.Endpoints)), byTask: make(map[string]int, len(n.Endpoints)),
		byAddr: make(map[netip.Addr]int, len(n.Endpoints)), byID: make(map[string]int, len(n.Services))}
	if err := p.frame(n); err != nil {
		return nil, err
	}
	for i := range n.Services {
		if err := p.addService(&n.Services[i]); err != nil {
			return nil, err
		}
	}
	numbers := newNumbers(n)
	ports := make(map[string]bool)
	for i := range n.Endpoints {
		if err := p.addEndpoint(&n.Endpoints[i], numbers, ports); err != nil {
			return nil, err
		}
	}
	for i := range p.services {
		slices.SortFunc(p.services[i].backends, netip.Addr.Compare)
	}
	var err error
	p.policy, err = newPolicy(n, numbers)
	return p, err
}

// backendsOf are those of one family.
func (s *service) backendsOf(f *ipFamily) []netip.Addr {
	// IPv4 comes before IPv6 in the order of addresses.
	first6, _ := slices.BinarySearchFunc(s.backends, netip.IPv6Unspecified(), netip.Addr.Compare)
	if f == &ipv4 {
		return s.backends[:first6]
	}
	return s.backends[first6:]
}

// endpointElements are those that come of one endpoint alone.
func (p *plan) endpointElements(e *endpoint, to *elements) {
	for _, a := range e.addrs {
		f := familyOf(a)
		to.put(f.pins, string(ifname(e.port))+string(e.mac[:])+"\x00\x00"+key(a), "")
		to.put(f.ids, key(a), e.number.key())
		if !e.remote {
			to.put(f.hairpin, key(a)+key(a), key(p.gatewayOf(a)))
		}
	}
}

// gatewayOf is the gateway of the address' subnet.
func (p *plan) gatewayOf(a netip.Addr) netip.Addr {
	for _, s := range p.subnets {
		if s.Contains(a) {
			for _, g := range p.gateways {
				if s.Contains(g) {
					return g
				}
			}
		}
	}
	return netip.Addr{} // newPlan refuses it
}

// serviceElements are those that come of one service and its backends alone.
func (p *plan) serviceElements(s *service, to *elements) {
	for _, vip := range s.vips {
		f := familyOf(vip)
		to.put(f.virtual, key(vip), "")
		backends := s.backendsOf(f)
		if len(backends) == 0 {
			continue
		}
		to.put(f.vips, key(vip), f.balancerOf(len(backends)))
		for i, b := range backends {
			to.put(f.backends, key(vip)+number(i).key(), key(b))
		}
	}
}

func (f *ipFamily) balancerOf(backends int) string { return f.balancer + strconv.Itoa(backends) }

// balancers are the chains that choose a backend, by their number of backends.
func (p *plan) balancers() map[string]balancer {
	chains := make(map[string]balancer)
	for i := range p.services {
		s := &p.services[i]
		for _, vip := range s.vips {
			f := familyOf(vip)
			if n := len(s.backendsOf(f)); n > 0 {
				chains[f.balancerOf(n)] = balancer{f, uint32(n)}
			}
		}
	}
	return chains
}

type balancer struct {
	family   *ipFamily
	backends uint32
}

// commonElements are those that come of neither.
func (p *plan) commonElements(to *elements) {
	for _, g := range p.gateways {
		to.put(familyOf(g).gateways, key(g), "")
	}
	if p.deny {
		to[setPairs] = maps.Clone(p.policy.pairs)
	}
}

// elements are all of them.
func (p *plan) elements() *elements {
	e := new(elements)
	for i := range p.endpoints {
		p.endpointElements(&p.endpoints[i], e)
	}
	for i := range p.services {
		p.serviceElements(&p.services[i], e)
	}
	p.commonElements(e)
	return e
}

// difference is what has to go and to come, between plans of the same form.
func difference(old, now *plan) (remove, add *elements) {
	remove, add = new(elements), new(elements)
	for i := range now.endpoints {
		e := &now.endpoints[i]
		was := old.endpointOf(e.task, i)
		if was != nil && was.same(e) {
			continue
		}
		if was != nil {
			old.endpointElements(was, remove)
		}
		now.endpointElements(e, add)
	}
	for i := range old.endpoints {
		if e := &old.endpoints[i]; now.endpointOf(e.task, i) == nil {
			old.endpointElements(e, remove)
		}
	}
	for i := range now.services {
		s := &now.services[i]
		was := old.serviceOf(s.id, i)
		if was != nil && was.same(s) {
			continue
		}
		if was != nil {
			old.serviceElements(was, remove)
		}
		now.serviceElements(s, add)
	}
	for i := range old.services {
		if s := &old.services[i]; now.serviceOf(s.id, i) == nil {
			old.serviceElements(s, remove)
		}
	}
	old.commonElements(remove)
	now.commonElements(add)
	for i := range add {
		for k, v := range add[i] {
			if was, ok := remove[i][k]; ok && was == v {
				delete(add[i], k)
				delete(remove[i], k)
			}
		}
	}
	return remove, add
}

// endpointOf finds the task's endpoint, most likely at place hint; nil: none.
func (p *plan) endpointOf(task string, hint int) *endpoint {
	if hint < len(p.endpoints) && p.endpoints[hint].task == task {
		return &p.endpoints[hint]
	}
	if i, ok := p.byTask[task]; ok {
		return &p.endpoints[i]
	}
	return nil
}

func (p *plan) serviceOf(id string, hint int) *service {
	if hint < len(p.services) && p.services[hint].id == id {
		return &p.services[hint]
	}
	if i, ok := p.byID[id]; ok {
		return &p.services[i]
	}
	return nil
}
