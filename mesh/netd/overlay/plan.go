package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/overlay/rules"
)

// A plan is what is declared: the sum of a whole declaration and the differences
// after it. It is followed by another, and is of no use then; networks of which
// nothing was said are the same in both. One that is refused leaves it as it was.
type plan struct {
	generation uint64
	mesh       netip.Addr // invalid: nothing was declared
	networks   map[string]*network
	// Whose each is, so that no two have it: network ids, of seats by network
	// and task.
	vnis   map[uint32]string
	netnss map[string]string
	seats  map[seat]string
}

// A seat is an interface of a sandbox.
type seat struct {
	netns string
	index uint32
}

// A network is not changed once it is part of a plan, but by the change that makes
// another one of it, which has its maps.
type network struct {
	id string
	settings
	endpoints map[string]*endpoint // by task
	locals    map[string]*endpoint // those of this node
	services  map[string]*service
	rules     []rules.Rule
	owners    map[netip.Addr]owner // of addresses other than gateways
	nodes     map[netip.Addr]int   // endpoints of each other node
	undo      *journal             // while a change makes it of another; nil: nobody else has the maps
}

// An owner is the endpoint or the service that has an address.
type owner struct {
	endpoint *endpoint
	service  *service
}

func (o owner) String() string {
	if o.endpoint != nil {
		return "task " + o.endpoint.task
	}
	return "service " + o.service.id
}

// touched is what is to be looked at of one network: everything, or what of it is
// said to have changed, or these tasks and addresses.
type touched struct {
	whole    bool
	paths    bool // links, routes and neighbours
	settings bool // how namespace and VXLAN device are set
	retry    bool // nothing is declared: tasks that had no interface may get one
	services bool // some service
	tasks    map[string]bool
	addrs    map[netip.Addr]bool
}

// looks reports whether nothing was declared, and something is said to have
// changed.
func (t *touched) looks() bool { return t.addrs == nil && (t.paths || t.settings) }

func emptyPlan() *plan {
	return &plan{networks: map[string]*network{}, vnis: map[uint32]string{}, netnss: map[string]string{}, seats: map[seat]string{}}
}

// merge checks the declaration against the plan it is made to and returns the
// next plan, and what differs by network; networks that go are part of that.
func (p *plan) merge(d declaration) (next *plan, news map[string]*touched, err error) {
	undo := &journal{}
	if next, news, err = p.follow(d, undo); err != nil {
		undo.all()
		return nil, nil, err
	}
	return next, news, nil
}

func (p *plan) follow(d declaration, undo *journal) (*plan, map[string]*touched, error) {
	next := emptyPlan()
	next.mesh = p.mesh
	if d.base != 0 {
		next = &plan{mesh: p.mesh, networks: maps.Clone(p.networks), vnis: maps.Clone(p.vnis), netnss: maps.Clone(p.netnss), seats: maps.Clone(p.seats)}
	}
	next.generation = d.generation
	news := make(map[string]*touched)
	if d.mesh.IsValid() {
		next.mesh = d.mesh
	}
	if next.mesh != p.mesh { // every router MAC and VXLAN device is another one
		for id := range next.networks {
			news[id] = &touched{whole: true}
		}
	}
	if d.base == 0 {
		for id := range p.networks {
			news[id] = &touched{whole: true}
		}
	}
	for _, id := range d.removed {
		n := next.networks[id]
		if n == nil {
			return nil, nil, fmt.Errorf("network %s is to be removed and is not declared", id)
		}
		next.drop(n)
		news[id] = &touched{whole: true}
	}
	for _, c := range d.networks {
		old := next.networks[c.id]
		if c.changes && old == nil {
			return nil, nil, fmt.Errorf("network %s is to be changed and is not declared: declare it whole", c.id)
		}
		if old != nil {
			next.drop(old)
		}
		n, t, err := c.follow(old, undo)
		if err != nil {
			return nil, nil, fmt.Errorf("network %s: %w", c.id, err)
		}
		if news[c.id] == nil {
			news[c.id] = t
		}
		next.networks[c.id] = n
	}
	if len(next.networks) > maxNetworks {
		return nil, nil, fmt.Errorf("%d networks exceed the limit of %d", len(next.networks), maxNetworks)
	}
	all := 0
	for _, n := range next.networks {
		all += len(n.endpoints)
	}
	if all > maxAllEndpoints {
		return nil, nil, fmt.Errorf("%d endpoints on all networks of the node exceed the limit of %d", all, maxAllEndpoints)
	}
	if len(next.networks) > 0 && !next.mesh.IsValid() {
		return nil, nil, errors.New("mesh_address is missing: networks need the node's own")
	}
	// All that goes is gone: what stays and what comes must go together.
	fresh := false
	for _, c := range d.networks {
		fresh = fresh || !c.changes
		if err := next.claim(next.networks[c.id]); err != nil {
			return nil, nil, fmt.Errorf("network %s: %w", c.id, err)
		}
	}
	if fresh {
		if err := next.apart(); err != nil {
			return nil, nil, err
		}
	}
	for id := range news {
		if n := next.networks[id]; n != nil && n.nodes[next.mesh] > 0 {
			return nil, nil, fmt.Errorf("network %s: endpoints have this node's mesh address %s as their node: leave node out for tasks of this node", id, next.mesh)
		}
	}
	return next, news, nil
}

// follow makes the network that the change makes of old, and notes how to take it
// back.
func (c *change) follow(old *network, undo *journal) (*network, *touched, error) {
	n := &network{id: c.id, settings: c.settings, rules: c.rules, endpoints: make(map[string]*endpoint, len(c.endpoints)), locals: map[string]*endpoint{},
		services: make(map[string]*service, len(c.services)), owners: make(map[netip.Addr]owner, len(c.endpoints)), nodes: map[netip.Addr]int{}}
	t := &touched{whole: !c.changes, services: len(c.services)+len(c.removedServices) > 0}
	if c.changes {
		n.settings, n.endpoints, n.locals, n.services = old.settings, old.endpoints, old.locals, old.services
		n.owners, n.nodes, n.undo = old.owners, old.nodes, undo
		defer func() { n.undo = nil }()
		if !c.rulesChanged {
			n.rules = old.rules
		}
		t.tasks, t.addrs = make(map[string]bool), make(map[netip.Addr]bool)
	}
	for _, task := range c.removedEndpoints {
		if n.endpoints[task] == nil {
			return nil, nil, fmt.Errorf("task %s is to be removed and has no endpoint", task)
		}
		n.remove(n.endpoints[task], t)
	}
	for _, id := range c.removedServices {
		if n.services[id] == nil {
			return nil, nil, fmt.Errorf("service %s is to be removed and is not declared", id)
		}
		n.withdraw(n.services[id], t)
	}
	for _, e := range c.endpoints {
		if have := n.endpoints[e.task]; have != nil {
			n.remove(have, t)
		}
	}
	for _, s := range c.services {
		if have := n.services[s.id]; have != nil {
			n.withdraw(have, t)
		}
	}
	for _, e := range c.endpoints {
		if err := n.own(e.addrs, owner{endpoint: e}, t, true); err != nil {
			return nil, nil, fmt.Errorf("task %s: %w", e.task, err)
		}
		set(n.undo, n.endpoints, e.task, e)
		if t.tasks != nil {
			t.tasks[e.task] = true
		}
		if e.local() {
			set(n.undo, n.locals, e.task, e)
		} else {
			set(n.undo, n.nodes, e.node, n.nodes[e.node]+1)
		}
	}
	for _, s := range c.services {
		if err := n.own(s.vips, owner{service: s}, t, false); err != nil {
			return nil, nil, fmt.Errorf("service %s: %w", s.id, err)
		}
		set(n.undo, n.services, s.id, s)
	}
	if len(n.endpoints) > maxEndpoints || len(n.services) > maxServices {
		return nil, nil, fmt.Errorf("%d endpoints and %d services exceed the limits of %d and %d", len(n.endpoints), len(n.services), maxEndpoints, maxServices)
	}
	return n, t, nil
}

func (n *network) remove(e *endpoint, t *touched) {
	unset(n.undo, n.endpoints, e.task)
	unset(n.undo, n.locals, e.task)
	if t.tasks != nil {
		t.tasks[e.task] = true
	}
	if !e.local() {
		if set(n.undo, n.nodes, e.node, n.nodes[e.node]-1); n.nodes[e.node] == 0 {
			unset(n.undo, n.nodes, e.node)
		}
	}
	n.disown(e.addrs, t)
}

func (n *network) withdraw(s *service, t *touched) {
	unset(n.undo, n.services, s.id)
	n.disown(s.vips, t)
}

func (n *network) disown(addrs [2]netip.Addr, t *touched) {
	for _, a := range addrs {
		unset(n.undo, n.owners, a)
		if t.addrs != nil && a.IsValid() {
			t.addrs[a] = true
		}
	}
}

// own gives the addresses to their owner: one of each subnet, or none where that
// is allowed.
func (n *network) own(addrs [2]netip.Addr, o owner, t *touched, must bool) error {
	if !must && !addrs[0].IsValid() && !addrs[1].IsValid() {
		return nil
	}
	for i, a := range addrs {
		s := n.subnets[i]
		switch {
		case !s.prefix.IsValid() && !a.IsValid():
			continue
		case !s.prefix.IsValid():
			return fmt.Errorf("address %s: the network has one subnet, %s", a, n.subnets[0].prefix)
		case !a.IsValid():
			return fmt.Errorf("it has no address of %s", s.prefix)
		case !s.hasHost(a):
			return fmt.Errorf("address %s is no host of %s", a, s.prefix)
		case a == s.gateway:
			return fmt.Errorf("address %s is the gateway's", a)
		}
		if by, ok := n.owners[a]; ok {
			return fmt.Errorf("address %s belongs to %s", a, by)
		}
		set(n.undo, n.owners, a, o)
		if t.addrs != nil {
			t.addrs[a] = true
		}
	}
	return nil
}

// drop takes the network's claims away.
func (p *plan) drop(n *network) {
	delete(p.networks, n.id)
	delete(p.vnis, n.vni)
	delete(p.netnss, n.netns)
	for _, e := range n.locals {
		if s := (seat{e.netns, e.index}); p.seats[s] == n.id {
			delete(p.seats, s)
		}
	}
}

// claim gives the network what only one may have.
func (p *plan) claim(n *network) error {
	if by := p.vnis[n.vni]; by != "" {
		return fmt.Errorf("vni %d belongs to network %s", n.vni, by)
	}
	if by := p.netnss[n.netns]; by != "" {
		return fmt.Errorf("netns %s belongs to network %s", n.netns, by)
	}
	p.vnis[n.vni], p.netnss[n.netns] = n.id, n.id
	for _, e := range n.locals {
		s := seat{e.netns, e.index}
		if by := p.seats[s]; by != "" {
			return fmt.Errorf("task %s: interface ov%d of sandbox %s belongs to a task on network %s", e.task, e.index, e.netns, by)
		}
		p.seats[s] = n.id
	}
	return nil
}

// apart refuses subnets that overlap: which network an address is on would depend
// on who asks.
func (p *plan) apart() error {
	type one struct {
		prefix netip.Prefix
		id     string
	}
	var all []one
	for _, n := range p.networks {
		for _, s := range n.subnets {
			if s.prefix.IsValid() {
				all = append(all, one{s.prefix, n.id})
			}
		}
	}
	slices.SortFunc(all, func(a, b one) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	// Of two prefixes that overlap one contains the other, and whatever is sorted
	// between them as well.
	for i := 1; i < len(all); i++ {
		if all[i-1].prefix.Overlaps(all[i].prefix) {
			return fmt.Errorf("network %s: subnet %s overlaps %s of network %s", all[i].id, all[i].prefix, all[i-1].prefix, all[i-1].id)
		}
	}
	return nil
}
