package netd

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forget says which tracked connections must not outlive a change. Established
// ones pass the filter without a further look, so what was taken away from an
// endpoint must be forgotten by the kernel as well.
type forget struct {
	addrs map[netip.Addr]bool // endpoints that went
	// Ports that went, and UDP ports that came: a flow which began while
	// nothing was published would never be translated.
	gone map[goneKey]bool
	came map[uint16]bool
	// local are the node's own addresses.
	local map[netip.Addr]bool
}

type goneKey struct {
	addr      netip.Addr
	proto     byte
	published uint16
}

func (f *forget) empty() bool { return len(f.addrs) == 0 && len(f.gone) == 0 && len(f.came) == 0 }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f *forget) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	src, _ := netip.AddrFromSlice(c.Forward.SrcIP.To4())
	dst, _ := netip.AddrFromSlice(c.Forward.DstIP.To4())
	answers, _ := netip.AddrFromSlice(c.Reverse.SrcIP.To4())
	switch {
	case f.addrs[src] || f.addrs[dst] || f.addrs[answers]:
		return true
	case f.gone[goneKey{answers, c.Forward.Protocol, c.Forward.DstPort}] && answers != dst:
		return true
	}
	return c.Forward.Protocol == unix.IPPROTO_UDP && f.came[c.Forward.DstPort] && answers == dst &&
		(f.local[dst] || dst.IsLoopback())
}

func (f *forget) run(h *netlink.Handle) error {
	if f.empty() {
		return nil
	}
	if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("forget connections of what was removed: %w", err)
	}
	return nil
}

// changes compares what was published with what is.
func changes(before, after []endpoint) *forget {
	f := &forget{addrs: map[netip.Addr]bool{}, gone: map[goneKey]bool{}, came: map[uint16]bool{}, local: map[netip.Addr]bool{}}
	type owned struct {
		task string
		port port
	}
	had, has := map[owned]netip.Addr{}, map[owned]bool{}
	tasks := map[string]netip.Addr{}
	for _, e := range after {
		tasks[e.task] = e.addr.Addr()
		for _, p := range e.ports {
			has[owned{e.task, p}] = true
		}
	}
	for _, e := range before {
		addr := e.addr.Addr()
		if tasks[e.task] != addr {
			f.addrs[addr] = true
			continue
		}
		for _, p := range e.ports {
			had[owned{e.task, p}] = addr
			if !has[owned{e.task, p}] {
				f.gone[goneKey{addr, p.proto(), p.published}] = true
			}
		}
	}
	for o := range has {
		if _, ok := had[o]; !ok && o.port.udp {
			f.came[o.port.published] = true
		}
	}
	return f
}
