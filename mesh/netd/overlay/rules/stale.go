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

// noteStale notes what the change made stale. Before the first plan of a process
// there may be anything; with another form, all is looked at.
func (t *Table) noteStale(old *plan, c *change) {
	if old == c.plan && !c.ends && t.stale == nil {
		return
	}
	if t.stale == nil {
		t.stale = &stale{moved: make(map[netip.Addr]bool)}
	}
	t.stale.plan = c.plan
	for _, a := range c.moved {
		t.stale.moved[a] = true
	}
	if old == nil || old == c.plan {
		return
	}
	for a, e := range c.plan.owners {
		if was := old.owners[a]; was != nil && was.task != e.task {
			t.stale.moved[a] = true
		}
	}
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
	if e := p.owners[a]; e != virtual {
		return e
	}
	return nil
}

// leads reports whether flows to the virtual address may go to the endpoint.
// TCP goes on where an endpoint has stopped serving and still is there.
func (p *plan) leads(vip netip.Addr, to *endpoint, proto uint8) bool {
	s := p.services[to.service]
	return s != nil && slices.Contains(s.vips, vip) && (to.serving || proto == unix.IPPROTO_TCP)
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
	families, err := t.stale.families(h)
	if err != nil {
		return fmt.Errorf("read connections: %w", err)
	}
	for _, family := range families {
		err := whole(func() error {
			_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, t.stale)
			return err
		})
		if err != nil {
			return fmt.Errorf("end connections of what was removed: %w", err)
		}
	}
	t.stale = nil
	return nil
}

// families are those of which connections have to end: mostly none, and to look
// at all of the node's connections once is what this costs.
func (s *stale) families(h *netlink.Handle) (found []netlink.InetFamily, err error) {
	var flows []*netlink.ConntrackFlow
	err = whole(func() (err error) {
		flows, err = h.ConntrackTableList(netlink.ConntrackTable, unix.AF_UNSPEC)
		return err
	})
	for _, f := range flows {
		family := netlink.InetFamily(unix.AF_INET)
		if addrOf(f.Forward.SrcIP).Is6() {
			family = unix.AF_INET6
		}
		if !slices.Contains(found, family) && s.MatchConntrackFlow(f) {
			found = append(found, family)
		}
	}
	return found, err
}

// whole repeats a dump that changed while it was read, which leaves some out.
func whole(dump func() error) (err error) {
	for range maxDumps {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return err
}
