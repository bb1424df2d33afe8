package rules

import (
	"maps"
	"net/netip"
	"slices"
)

// apply makes the plan that which was looked at, and notes what differs for the
// kernel.
func (c *change) apply() {
	p := c.plan
	c.remove, c.add, c.used = new(elements), new(elements), make(map[balancer]int)
	c.noteMoved()
	c.chains.old = p.policy
	if c.policy != nil {
		c.ends = c.ends || p.policy.narrows(c.policy)
		c.remove[setPairs], c.add[setPairs] = maps.Clone(p.policy.pairs), maps.Clone(c.policy.pairs)
		p.policy, p.rules = *c.policy, c.rules
	}
	c.chains.now = p.policy
	dirty := c.dirty()
	for id := range dirty {
		if s := p.services[id]; s != nil {
			serviceElements(s, c.remove)
			s.eachBalancer(func(b balancer) { c.use(b, -1) })
		}
	}
	c.takeOut()
	c.putIn(dirty)
	for _, e := range p.order {
		if dirty[e.service] && e.serving {
			if s := p.services[e.service]; s != nil {
				s.backends = append(s.backends, e.addrs...)
			}
		}
	}
	for id := range dirty {
		if s := p.services[id]; s != nil {
			slices.SortFunc(s.backends, netip.Addr.Compare)
			serviceElements(s, c.add)
			s.eachBalancer(func(b balancer) { c.use(b, 1) })
		}
	}
	for b, was := range c.used {
		switch now := p.balancers[b]; {
		case was == 0 && now > 0:
			c.chains.come = append(c.chains.come, b)
		case was > 0 && now == 0:
			c.chains.gone = append(c.chains.gone, b)
			delete(p.balancers, b)
		}
	}
	c.remove.cancel(c.add)
}

// noteMoved notes addresses that belong to another task than before.
func (c *change) noteMoved() {
	for _, s := range c.services {
		for _, a := range s.vips {
			if was := c.plan.owners[a]; was != nil && was != virtual {
				c.moved = append(c.moved, a)
			}
		}
	}
	for _, i := range c.given {
		for _, a := range c.n.Endpoints[i].Addrs {
			if was := c.plan.owners[a]; was != nil && was.task != c.n.Endpoints[i].Task {
				c.moved = append(c.moved, a)
			}
		}
	}
}

// dirty are the services that have other addresses or backends.
func (c *change) dirty() map[string]bool {
	ids := make(map[string]bool)
	for _, s := range slices.Concat(c.lost, c.services) {
		ids[s.id] = true
	}
	for _, e := range slices.Concat(c.gone, c.before) {
		if e != nil && e.serving {
			ids[e.service] = true
		}
	}
	for _, i := range c.given {
		if e := &c.n.Endpoints[i]; e.Serving {
			ids[e.Service] = true
		}
	}
	return ids
}

func (c *change) use(b balancer, more int) {
	if _, noted := c.used[b]; !noted {
		c.used[b] = c.plan.balancers[b]
	}
	c.plan.balancers[b] += more
}

// takeOut removes what went and what is to be put in again.
func (c *change) takeOut() {
	p := c.plan
	for _, e := range slices.Concat(c.gone, c.before) {
		if e == nil {
			continue
		}
		p.endpointElements(e, c.remove)
		for _, a := range e.addrs {
			delete(p.owners, a)
		}
		if !e.remote {
			delete(p.ports, e.port)
		}
		delete(p.endpoints, e.task)
		if p.members[e.service]--; p.members[e.service] == 0 {
			delete(p.members, e.service)
		}
	}
	for _, s := range c.lost {
		for _, a := range s.vips {
			delete(p.owners, a)
		}
		delete(p.services, s.id)
	}
	for _, s := range c.services {
		if was := p.services[s.id]; was != nil {
			for _, a := range was.vips {
				delete(p.owners, a)
			}
			c.ends = true
		}
	}
	c.ends = c.ends || len(c.gone)+len(c.lost)+len(c.moved) > 0
}

func (c *change) putIn(dirty map[string]bool) {
	p := c.plan
	if c.numbers != nil {
		c.renumber()
	}
	for _, s := range c.services {
		p.services[s.id] = s
		for _, a := range s.vips {
			p.owners[a] = virtual
		}
	}
	for id := range dirty {
		if s := p.services[id]; s != nil {
			s.backends = nil
		}
	}
	for k, i := range c.given {
		x := &c.n.Endpoints[i]
		e := &endpoint{task: x.Task, service: x.Service, number: p.numbers[x.Service], addrs: slices.Clone(x.Addrs), port: x.Port,
			remote: x.Port == "", mac: [6]byte(x.MAC), serving: x.Serving, seen: p.epoch}
		if e.remote {
			e.port = p.uplink
		} else {
			p.ports[e.port] = e
		}
		if was := c.before[k]; was != nil {
			c.ends = c.ends || was.serving && !e.serving || was.service != e.service || !slices.Equal(was.addrs, e.addrs)
		}
		for _, a := range e.addrs {
			p.owners[a] = e
		}
		p.endpoints[e.task] = e
		p.members[e.service]++
		p.endpointElements(e, c.add)
		c.order[i] = e
	}
	p.order = c.order
}

// renumber gives endpoints that stay their services' numbers, should those be
// others: that takes two services with the same hash.
func (c *change) renumber() {
	p := c.plan
	was := p.numbers
	p.numbers = c.numbers
	for id, n := range was {
		now, ok := c.numbers[id]
		if !ok || now == n {
			continue
		}
		for _, e := range c.order {
			if e != nil && e.service == id {
				p.endpointElements(e, c.remove)
				e.number = now
				p.endpointElements(e, c.add)
			}
		}
	}
}

// cancel takes out of both what is in both.
func (e *elements) cancel(o *elements) {
	for i := range o {
		for k, v := range o[i] {
			if was, ok := e[i][k]; ok && was == v {
				delete(o[i], k)
				delete(e[i], k)
			}
		}
	}
}
