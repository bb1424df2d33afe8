package rules

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// A change is what makes one plan another one of the same form. It is looked for
// and checked first (look), and nothing of the plan is touched until it is applied.
type change struct {
	plan *plan
	n    *Network

	order     []*endpoint // nil where another one is given
	given     []int       // places in n of endpoints that are new or differ
	before    []*endpoint // what they were; nil: new
	gone      []*endpoint //
	services  []*service  // those that are new or have other addresses
	lost      []*service  //
	policy    *policy     // nil: as before
	rules     []Rule      //
	numbers   map[string]number
	freed     map[netip.Addr]bool // addresses that may be claimed though they have owners
	claimed   map[netip.Addr]bool
	freePorts map[string]bool
	claims    map[string]bool // ports

	// What it comes to, once it is applied.
	remove, add *elements
	used        map[balancer]int // what the plan's were before
	chains      chainChange
	ends        bool // connections may have lost their place
	moved       []netip.Addr
}

// chainChange is what comes and goes of the chains that sets lead to.
type chainChange struct {
	old, now   policy
	come, gone []balancer
}

func (c *chainChange) empty() bool {
	return len(c.come) == 0 && len(c.gone) == 0 && maps.Equal(c.old.ids, c.now.ids) && sameKeys(c.old.lists, c.now.lists)
}

func sameKeys[V any](a, b map[string]V) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			return false
		}
	}
	return true
}

func (c *change) empty() bool { return c.remove.empty() && c.add.empty() && c.chains.empty() }

// look finds what differs, and refuses what is no network.
func (p *plan) look(n *Network) (*change, error) {
	c := &change{plan: p, n: n, order: make([]*endpoint, len(n.Endpoints)), freed: make(map[netip.Addr]bool), claimed: make(map[netip.Addr]bool),
		freePorts: make(map[string]bool), claims: make(map[string]bool)}
	p.epoch++
	if err := c.lookAtServices(); err != nil {
		return nil, err
	}
	if err := c.lookAtEndpoints(); err != nil {
		return nil, err
	}
	for _, s := range c.services {
		for _, a := range s.vips {
			if err := c.claim(a); err != nil {
				return nil, fmt.Errorf("service %s: %w", s.id, err)
			}
		}
	}
	for _, i := range c.given {
		if err := c.checkEndpoint(&n.Endpoints[i]); err != nil {
			return nil, fmt.Errorf("task %s: %w", n.Endpoints[i].Task, err)
		}
	}
	return c, c.lookAtPolicy()
}

func (c *change) lookAtServices() error {
	p, fresh := c.plan, make(map[string]bool)
	for i := range c.n.Services {
		s := &c.n.Services[i]
		was := p.services[s.ID]
		if was != nil && was.seen == p.epoch || fresh[s.ID] {
			return fmt.Errorf("service %s is given twice", s.ID)
		}
		if was != nil {
			was.seen = p.epoch
			if slices.Equal(was.vips, s.VIPs) {
				continue
			}
			c.free(was.vips)
		} else if err := checkID(s.ID); err != nil {
			return fmt.Errorf("service: %w", err)
		}
		if len(s.VIPs) > maxAddrs {
			return fmt.Errorf("service %s has %d virtual addresses: at most %d are allowed", s.ID, len(s.VIPs), maxAddrs)
		}
		fresh[s.ID] = true
		c.services = append(c.services, &service{id: s.ID, vips: slices.Clone(s.VIPs), seen: p.epoch})
	}
	for _, s := range p.services {
		if s.seen != p.epoch {
			c.lost = append(c.lost, s)
			c.free(s.vips)
		}
	}
	return nil
}

func (c *change) lookAtEndpoints() error {
	p, fresh := c.plan, make(map[string]bool)
	for i := range c.n.Endpoints {
		e := &c.n.Endpoints[i]
		// Most likely it is where it was.
		var was *endpoint
		if i < len(p.order) && p.order[i].task == e.Task {
			was = p.order[i]
		} else {
			was = p.endpoints[e.Task]
		}
		if was != nil && was.seen == p.epoch || fresh[e.Task] {
			return fmt.Errorf("task %s is given twice", e.Task)
		}
		if was != nil {
			was.seen = p.epoch
			if was.is(e) {
				c.order[i] = was
				continue
			}
			c.freeEndpoint(was)
		} else {
			fresh[e.Task] = true
		}
		c.given, c.before = append(c.given, i), append(c.before, was)
	}
	for _, e := range p.order {
		if e.seen != p.epoch {
			c.gone = append(c.gone, e)
			c.freeEndpoint(e)
		}
	}
	return nil
}

func (c *change) free(addrs []netip.Addr) {
	for _, a := range addrs {
		c.freed[a] = true
	}
}

func (c *change) freeEndpoint(e *endpoint) {
	c.free(e.addrs)
	if !e.remote {
		c.freePorts[e.port] = true
	}
}

// claim refuses addresses that are somebody else's, or not of the network.
func (c *change) claim(a netip.Addr) error {
	if err := c.plan.checkAddr(a); err != nil {
		return err
	}
	if slices.Contains(c.plan.gateways, a) {
		return fmt.Errorf("%s is a gateway", a)
	}
	if c.claimed[a] || c.plan.owners[a] != nil && !c.freed[a] {
		return fmt.Errorf("%s is given twice", a)
	}
	c.claimed[a] = true
	return nil
}

func (c *change) checkEndpoint(e *Endpoint) error {
	if err := checkID(e.Task); err != nil {
		return err
	}
	if len(e.Addrs) == 0 || len(e.Addrs) > maxAddrs {
		return fmt.Errorf("has %d addresses: 1 to %d are allowed", len(e.Addrs), maxAddrs)
	}
	if len(e.MAC) != 6 || e.MAC[0]&1 != 0 {
		return fmt.Errorf("%q is no MAC of an interface", e.MAC.String())
	}
	if e.Service != "" { // else it is nobody whom a rule could name
		if err := checkID(e.Service); err != nil {
			return fmt.Errorf("service: %w", err)
		}
	}
	for _, a := range e.Addrs {
		if err := c.claim(a); err != nil {
			return err
		}
		if e.Port != "" && !c.plan.gatewayOf(a).IsValid() {
			return fmt.Errorf("the subnet of %s has no gateway", a)
		}
	}
	if e.Port == "" {
		return nil
	}
	if err := checkLink(e.Port); err != nil {
		return fmt.Errorf("port: %w", err)
	}
	if e.Port == c.plan.uplink || c.claims[e.Port] || c.plan.ports[e.Port] != nil && !c.freePorts[e.Port] {
		return errors.New("port " + e.Port + " belongs to another")
	}
	c.claims[e.Port] = true
	return nil
}

// lookAtPolicy compiles the policy anew if rules or services are others.
func (c *change) lookAtPolicy() error {
	p := c.plan
	same := p.numbers != nil && slices.EqualFunc(p.rules, c.n.Rules, Rule.same)
	difference := make(map[string]int)
	for _, e := range slices.Concat(c.before, c.gone) {
		if e != nil {
			difference[e.service]--
		}
	}
	for _, i := range c.given {
		difference[c.n.Endpoints[i].Service]++
	}
	for id, n := range difference {
		same = same && (p.members[id] > 0) == (p.members[id]+n > 0)
	}
	if same {
		return nil
	}
	c.rules = make([]Rule, len(c.n.Rules))
	for i, r := range c.n.Rules {
		r.From, r.To = slices.Clone(r.From), slices.Clone(r.To)
		c.rules[i] = r
	}
	services := make(map[string]bool)
	for id, n := range p.members {
		if n+difference[id] > 0 {
			services[id] = true
		}
	}
	for id, n := range difference {
		if p.members[id]+n > 0 {
			services[id] = true
		}
	}
	delete(services, "")
	policy, numbers, err := newPolicy(c.rules, p.deny, services)
	if err != nil {
		return err
	}
	c.policy, c.numbers = &policy, numbers
	return nil
}
