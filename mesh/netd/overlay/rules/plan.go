package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

// A plan is a Network, checked and brought into the form that is compared and put
// into sets. It is changed in place (change.go, apply.go), because looking at ten thousand
// endpoints anew for one of them costs more than telling the kernel. Plans of the
// same Network are the same, so what is in force does not depend on what was
// before.
type plan struct {
	form
	endpoints map[string]*endpoint // by task
	order     []*endpoint          // as they were given last
	owners    map[netip.Addr]*endpoint
	ports     map[string]*endpoint
	services  map[string]*service // by id
	members   map[string]int      // endpoints of each service, declared or not
	numbers   map[string]number
	balancers map[balancer]int // virtual addresses that each serves
	rules     []Rule
	policy    policy
	epoch     uint64 // of the last look at all endpoints
}

// form is what the rules themselves are made of. Where it differs, the whole
// table is another one.
type form struct {
	uplink   string
	deny     bool
	subnets  []netip.Prefix
	gateways []netip.Addr
}

func (f *form) same(o *form) bool {
	return f.uplink == o.uplink && f.deny == o.deny && slices.Equal(f.subnets, o.subnets) && slices.Equal(f.gateways, o.gateways)
}

type endpoint struct {
	task, service string
	number        number // of the service
	addrs         []netip.Addr
	port          string // the uplink's where remote
	remote        bool
	mac           [6]byte
	serving       bool
	seen          uint64
}

// is reports whether it is what was given.
func (e *endpoint) is(x *Endpoint) bool {
	return e.serving == x.Serving && e.remote == (x.Port == "") && (e.remote || e.port == x.Port) && e.service == x.Service &&
		string(e.mac[:]) == string(x.MAC) && slices.Equal(e.addrs, x.Addrs)
}

// service is one with virtual addresses. Its backends are in the order of
// addresses.
type service struct {
	id       string
	vips     []netip.Addr
	backends []netip.Addr
	seen     uint64
}

// virtual owns the virtual addresses among owners.
var virtual = new(endpoint)

// number is how a service is known in sets and marks. 0 is nobody's.
type number uint32

func (n number) key() string { return string(binary.NativeEndian.AppendUint32(nil, uint32(n))) }

// newNumbers gives every service a number of its own: the first bytes of its id's
// hash, or, where two have the same, the next one for the id that comes later in
// the alphabet. So numbers depend on nothing that was before.
func newNumbers(services map[string]bool) map[string]number {
	of := make(map[string]number, len(services))
	taken := make(map[number]bool, len(services))
	alone := true // no two have the same: the order makes no difference
	for id := range services {
		x := hashed(id)
		alone = alone && x != 0 && !taken[x]
		of[id], taken[x] = x, true
	}
	if alone {
		return of
	}
	clear(taken)
	for _, id := range slices.Sorted(maps.Keys(services)) {
		x := of[id]
		for x == 0 || taken[x] {
			x++
		}
		of[id], taken[x] = x, true
	}
	return of
}

func hashed(id string) number {
	sum := sha256.Sum256([]byte(id))
	return number(binary.BigEndian.Uint32(sum[:]))
}

func newPlan(f form) *plan {
	return &plan{form: f, endpoints: make(map[string]*endpoint), owners: make(map[netip.Addr]*endpoint), ports: make(map[string]*endpoint),
		services: make(map[string]*service), members: make(map[string]int), balancers: make(map[balancer]int)}
}

// emptyPlan lets nothing pass.
func emptyPlan() *plan { return newPlan(form{deny: true}) }

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
func (f *form) gatewayOf(a netip.Addr) netip.Addr {
	for _, s := range f.subnets {
		if s.Contains(a) {
			for _, g := range f.gateways {
				if s.Contains(g) {
					return g
				}
			}
		}
	}
	return netip.Addr{} // checkEndpoint refuses it
}

// serviceElements are those that come of one service and its backends alone.
func serviceElements(s *service, to *elements) {
	for _, vip := range s.vips {
		f := familyOf(vip)
		to.put(f.virtual, key(vip), "")
		backends := s.backendsOf(f)
		if len(backends) == 0 {
			continue
		}
		to.put(f.vips, key(vip), balancer{f, len(backends)}.name())
		for i, b := range backends {
			to.put(f.backends, key(vip)+number(i).key(), key(b))
		}
	}
}

// A balancer is a chain that chooses one of so many backends.
type balancer struct {
	family   *ipFamily
	backends int
}

func (b balancer) name() string { return b.family.balancer + strconv.Itoa(b.backends) }

// eachBalancer tells which chains lead to the service's backends.
func (s *service) eachBalancer(use func(balancer)) {
	for _, vip := range s.vips {
		f := familyOf(vip)
		if n := len(s.backendsOf(f)); n > 0 {
			use(balancer{f, n})
		}
	}
}

// elements are all of them.
func (p *plan) elements() *elements {
	e := new(elements)
	for _, x := range p.endpoints {
		p.endpointElements(x, e)
	}
	for _, s := range p.services {
		serviceElements(s, e)
	}
	for _, g := range p.gateways {
		e.put(familyOf(g).gateways, key(g), "")
	}
	e[setPairs] = p.policy.pairs
	return e
}
