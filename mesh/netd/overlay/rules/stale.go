package rules

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stale says that there may be tracked connections for which the plan has no
// place, and of which addresses all have to end: they belong to other tasks now.
type stale struct {
	plan  *plan
	moved map[netip.Addr]bool
}

// after adds what a change from one plan to another makes stale; nil: nothing.
// Before the first plan of a process there may be anything.
func (s *stale) after(old, now *plan) *stale {
	if s == nil && old != nil && !ends(old, now) {
		return nil
	}
	next := &stale{plan: now, moved: make(map[netip.Addr]bool)}
	if s != nil {
		for a := range s.moved {
			next.moved[a] = true
		}
	}
	if old == nil {
		return next
	}
	for i := range old.endpoints {
		e := &old.endpoints[i]
		for _, a := range e.addrs {
			if j, ok := now.byAddr[a]; ok && (j < 0 || now.endpoints[j].task != e.task) {
				next.moved[a] = true
			}
		}
	}
	return next
}

// ends reports whether anything that may have connections is less than it was.
func ends(old, now *plan) bool {
	for i := range old.endpoints {
		e := &old.endpoints[i]
		n := now.endpointOf(e.task, i)
		if n == nil || e.serving && !n.serving || e.service != n.service {
			return true
		}
		for _, a := range e.addrs {
			if j, ok := now.byAddr[a]; !ok || j < 0 || now.endpoints[j].task != e.task {
				return true
			}
		}
	}
	for i := range old.services {
		s := &old.services[i]
		n := now.serviceOf(s.id, i)
		for _, a := range s.vips {
			if n == nil || !slices.Contains(n.vips, a) {
				return true
			}
		}
	}
	return old.narrows(now)
}

// narrows reports whether now may let in less than p did.
func (p *plan) narrows(now *plan) bool {
	if !now.deny {
		return false
	}
	if !p.deny {
		return true
	}
	for pair, chain := range p.policy.pairs {
		if now.policy.pairs[pair] != chain {
			return true
		}
	}
	return false
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter: it is the flows
// that end.
func (s *stale) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	client, called, server := addrOf(c.Forward.SrcIP), addrOf(c.Forward.DstIP), addrOf(c.Reverse.SrcIP)
	if s.moved[client] || s.moved[called] || s.moved[server] {
		return true
	}
	p := s.plan
	from, to := p.endpointAt(client), p.endpointAt(server)
	if from == nil || to == nil {
		return true
	}
	if called != server && !p.leads(called, to, c.Forward.Protocol) {
		return true
	}
	return p.deny && !p.policy.allows(from.number, to.number, c.Forward.Protocol, c.Reverse.SrcPort)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func (p *plan) endpointAt(a netip.Addr) *endpoint {
	if i, ok := p.byAddr[a]; ok && i >= 0 {
		return &p.endpoints[i]
	}
	return nil
}

// leads reports whether flows to the virtual address may go to the endpoint.
// TCP goes on where an endpoint has stopped serving and still is there.
func (p *plan) leads(vip netip.Addr, to *endpoint, proto uint8) bool {
	i, ok := p.byID[to.service]
	return ok && slices.Contains(p.services[i].vips, vip) && (to.serving || proto == unix.IPPROTO_TCP)
}

// forget ends the stale connections, if there may be any.
func (t *Table) forget() error {
	if t.stale == nil {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(requestTimeout); err != nil {
		return err
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		for range maxForgets {
			// A dump that changes while it is read leaves some out.
			if _, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, family, t.stale); !errors.Is(err, netlink.ErrDumpInterrupted) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("end connections of what was removed: %w", err)
		}
	}
	t.stale = nil
	return nil
}
