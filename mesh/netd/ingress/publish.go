package ingress

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// A publication is which ports were held for a plan, and by whom they are answered
// on. whole: none was refused, and what is held is what is published.
type publication struct {
	of    *plan
	ports map[port]*service
	whole bool
}

// publish holds the ports, and returns those that may be answered on. Of a change
// it looks at what changes, where nothing was refused before; of the same plan once
// more, whether all of them are still nobody else's.
func (i *Ingress) publish() map[port]*service {
	was := i.published
	if was.of == nil || was.of == i.plan || !was.whole || was.of.subnets != i.plan.subnets || was.of.mesh != i.plan.mesh {
		return i.publishAll()
	}
	i.published.of = i.plan
	var fresh []*service
	for id, s := range was.of.services {
		switch t := i.plan.services[id]; {
		case t == s:
		case t != nil && t.entry == s.entry && t.samePorts(s):
			for _, p := range s.ports {
				if was.ports[p] == s {
					was.ports[p] = t
				}
			}
		default:
			for _, p := range s.ports {
				if was.ports[p] == s {
					delete(was.ports, p)
					i.release(p.Port)
				}
			}
			if t != nil {
				fresh = append(fresh, t)
			}
		}
	}
	for id, s := range i.plan.services {
		if was.of.services[id] == nil {
			fresh = append(fresh, s)
		}
	}
	slices.SortFunc(fresh, func(a, b *service) int { return cmp.Compare(a.id, b.id) })
	for _, s := range fresh {
		for _, p := range i.plan.answered(s) {
			i.take(claim{p, s}, i.held[p.Port])
		}
	}
	return was.ports
}

type claim struct {
	port
	*service
}

// answered are the ports of the service that this node is to answer on.
func (p *plan) answered(s *service) (out []port) {
	if !s.entry {
		return nil
	}
	for _, x := range s.ports {
		if !x.Host.Is6() || p.subnets[1].IsValid() || !x.Host.IsUnspecified() {
			out = append(out, x)
		}
	}
	return out
}

func (i *Ingress) publishAll() map[port]*service {
	var claims []claim
	for _, s := range i.plan.services {
		for _, p := range i.plan.answered(s) {
			claims = append(claims, claim{p, s})
		}
	}
	// What is held already comes first, then it is always the same order.
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(rank(i.held[b.Port]), rank(i.held[a.Port])), cmp.Compare(a.service.id, b.service.id))
	})
	wanted := map[hold.Port]bool{}
	for _, c := range claims {
		wanted[c.Port] = true
	}
	i.releaseAll(wanted)
	i.published = publication{i.plan, map[port]*service{}, true}
	taken := map[hold.Port]bool{}
	for _, c := range claims {
		if i.take(c, taken[c.Port]) {
			taken[c.Port] = true
		}
	}
	return i.published.ports
}

// take publishes the port for the service, or says what is in the way.
func (i *Ingress) take(c claim, taken bool) bool {
	err := i.claim(c.port, taken)
	switch {
	case errors.Is(err, hold.ErrNoIPv6) && c.Host.IsUnspecified():
		return false
	case err != nil:
		i.published.whole = false
		i.bad = append(i.bad, &netdpb.IngressResult{ServiceId: c.service.id, Published: uint32(c.Number), Udp: c.UDP, HostIp: hostText(c.port), Error: err.Error()})
		return false
	}
	i.published.ports[c.port] = c.service
	return true
}

func rank(held bool) int {
	if held {
		return 1
	}
	return 0
}

func hostText(p port) string {
	if p.Host.IsUnspecified() {
		return ""
	}
	return p.Host.String()
}

func (i *Ingress) claim(p port, taken bool) error {
	switch {
	case taken:
		return fmt.Errorf("port %s is published by another service already", p.Port)
	case p.Host == i.plan.mesh:
		return fmt.Errorf("%s is the node's address in the mesh: publish on another", p.Host)
	case p.Host.Is6() && !i.plan.subnets[1].IsValid():
		return fmt.Errorf("port %s: published ports of this cluster have no IPv6", p.Port)
	case !i.held[p.Port]:
		if err := i.ports.Take(p.Port); err != nil {
			return err
		}
		i.held[p.Port] = true
		return nil
	}
	if err := i.ports.Free(p.Port); err != nil {
		i.release(p.Port)
		return err
	}
	return nil
}

func (i *Ingress) release(p hold.Port) {
	i.ports.Release(p)
	delete(i.held, p)
}

// releaseAll gives back all ports but these.
func (i *Ingress) releaseAll(but map[hold.Port]bool) {
	i.published = publication{}
	for p := range i.held {
		if !but[p] {
			i.release(p)
		}
	}
}
