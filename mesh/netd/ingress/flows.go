package ingress

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgotten says which tracked connections must not outlive a change. Established
// ones pass without a further look, and a flow of datagrams is never led anywhere
// else while it lasts.
type forgotten struct {
	// gone are tasks' addresses that went, or are led to no more.
	gone map[netip.Addr]bool
	// came are UDP ports on which an answer began: flows that began while nobody
	// answered were never translated.
	came map[uint16]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *forgotten) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	src, _ := netip.AddrFromSlice(c.Forward.SrcIP.To4())
	dst, _ := netip.AddrFromSlice(c.Forward.DstIP.To4())
	answers, _ := netip.AddrFromSlice(c.Reverse.SrcIP.To4())
	return f.gone[src] || f.gone[dst] || f.gone[answers] ||
		c.Forward.Protocol == unix.IPPROTO_UDP && f.came[c.Forward.DstPort] && answers == dst
}

// end ends the flows that the change from one plan to the other ends, on the
// node's side.
func (i *Ingress) end(h *netlink.Handle, before *plan) error {
	f := &forgotten{gone: vanished(before, i.plan), came: map[uint16]bool{}}
	if i.plan.entry {
		was := answered(before)
		for p := range answered(i.plan) {
			if p.UDP && !was[p] {
				f.came[p.Number] = true
			}
		}
	}
	return f.run(h)
}

// endInside does so in the namespace.
func (i *Ingress) endInside(in *netlink.Handle, before *plan) error {
	return (&forgotten{gone: vanished(before, i.plan)}).run(in)
}

func (f *forgotten) run(h *netlink.Handle) error {
	if len(f.gone)+len(f.came) == 0 {
		return nil
	}
	if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("forget connections of what was removed: %w", err)
	}
	return nil
}

// vanished are the addresses of tasks that are not where they were.
func vanished(before, now *plan) map[netip.Addr]bool {
	gone := map[netip.Addr]bool{}
	if before == now {
		return gone
	}
	for id, s := range before.services {
		t := now.services[id]
		if t == s {
			continue
		}
		for task, e := range s.endpoints {
			if t == nil || t.vni != s.vni || !t.samePorts(s) {
				gone[e.addr] = true
			} else if n, ok := t.endpoints[task]; !ok || n.addr != e.addr || n.node != e.node {
				gone[e.addr] = true
			}
		}
	}
	return gone
}

// answered are the ports that somebody serves.
func answered(p *plan) map[port]bool {
	out := map[port]bool{}
	if !p.entry {
		return out
	}
	for _, s := range p.services {
		for _, x := range s.ports {
			if len(s.chosen(x)) > 0 {
				out[x] = true
			}
		}
	}
	return out
}
