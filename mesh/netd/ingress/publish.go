package ingress

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// publish holds the ports, and returns those that may be answered on.
func (i *Ingress) publish() map[port]*service {
	type claim struct {
		port
		*service
	}
	var claims []claim
	for _, s := range i.plan.services {
		for _, p := range s.ports {
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
	published, taken := map[port]*service{}, map[hold.Port]bool{}
	for _, c := range claims {
		err := i.claim(c.port, taken)
		if err != nil {
			i.bad = append(i.bad, &netdpb.IngressResult{ServiceId: c.service.id, Published: uint32(c.Number), Udp: c.UDP, HostIp: hostText(c.port), Error: err.Error()})
			continue
		}
		taken[c.Port] = true
		published[c.port] = c.service
	}
	return published
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

func (i *Ingress) claim(p port, taken map[hold.Port]bool) error {
	switch {
	case taken[p.Port]:
		return fmt.Errorf("port %s is published by another service already", p.Port)
	case p.Host == i.plan.mesh:
		return fmt.Errorf("%s is the node's address in the mesh: publish on another", p.Host)
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
	for p := range i.held {
		if !but[p] {
			i.release(p)
		}
	}
}
