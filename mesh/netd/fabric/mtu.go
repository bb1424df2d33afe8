package fabric

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// underlayMTU is the smallest MTU of the ways to the endpoints, or of the
// default route where none is known. Packets in the tunnel are thus never larger
// than the first link of any way takes.
func underlayMTU(h *netlink.Handle, endpoints map[netip.Addr]bool) (int, error) {
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return 0, fmt.Errorf("list interfaces: %w", err)
	}
	mtus := make(map[int]int)
	for _, l := range links {
		if isUnderlay(l) {
			mtus[l.Attrs().Index] = l.Attrs().MTU
		}
	}
	found, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	type way struct {
		to  netip.Prefix
		mtu int
	}
	var ways []way
	for _, r := range found {
		to, ok := kernel.PrefixOf(r.Dst)
		if !ok { // a default route of a family
			to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if r.Family == unix.AF_INET6 {
				to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
		}
		hops := []int{r.LinkIndex}
		for _, m := range r.MultiPath {
			hops = append(hops, m.LinkIndex)
		}
		mtu := 0
		for _, i := range hops {
			if mtus[i] != 0 && (mtu == 0 || mtus[i] < mtu) {
				mtu = mtus[i]
			}
		}
		if r.MTU != 0 && r.MTU < mtu {
			mtu = r.MTU
		}
		if mtu != 0 {
			ways = append(ways, way{to, mtu})
		}
	}
	slices.SortStableFunc(ways, func(a, b way) int { return b.to.Bits() - a.to.Bits() })
	least := 0
	take := func(mtu int) {
		if least == 0 || mtu < least {
			least = mtu
		}
	}
	for a := range endpoints {
		if i := slices.IndexFunc(ways, func(w way) bool { return w.to.Contains(a) }); i >= 0 {
			take(ways[i].mtu)
		}
	}
	if least == 0 {
		for _, w := range ways {
			if w.to.Bits() == 0 {
				take(w.mtu)
			}
		}
	}
	if least == 0 {
		return defaultUnderlayMTU, nil
	}
	return least, nil
}

// isUnderlay reports whether a link may lead to other nodes.
func isUnderlay(l netlink.Link) bool {
	a := l.Attrs()
	return a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && !ofNetd(a.Name)
}

// tunnelMTU is what fits into the underlay, given or found.
func (f *Fabric) tunnelMTU(h *netlink.Handle) (int, error) {
	mtu := f.plan.underlay
	if mtu == 0 {
		endpoints := make(map[netip.Addr]bool)
		for _, p := range f.plan.peers {
			if p.endpoint.IsValid() {
				endpoints[p.endpoint.Addr()] = true
			}
		}
		var err error
		if mtu, err = underlayMTU(h, endpoints); err != nil {
			return 0, err
		}
	}
	if mtu < minUnderlayMTU {
		return 0, fmt.Errorf("the MTU of the underlay is %d, the mesh needs %d: raise it, or give the links between the nodes' real one as underlay_mtu", mtu, minUnderlayMTU)
	}
	return min(mtu, maxUnderlayMTU) - tunnelOverhead, nil
}
