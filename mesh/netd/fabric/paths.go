package fabric

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// paths are what is known of the ways to peers.
type paths struct {
	// narrow are the peers that take less than this node's MTU, as the routes say;
	// nil: not known.
	narrow map[netip.Addr]int
	// underlay are the node's addresses there; nil: not looked at.
	underlay []netip.Addr
}

// settleRoutes gives each peer whose tunnels take less than this node's a route
// with that MTU. The kernel then divides what is larger inside the tunnel, where
// the other end puts it together, and tells the containers to send less: what is
// underneath never sees a message that the other node's link would drop. look:
// somebody may have changed them.
func (f *Fabric) settleRoutes(h *netlink.Handle, look bool, changed func(string)) error {
	want := make(map[netip.Addr]int)
	for _, p := range f.plan.peers {
		if p.mtu != 0 && p.mtu < f.mtu {
			want[p.addr] = p.mtu
		}
	}
	known := f.narrow
	if !look && known != nil && maps.Equal(want, known) {
		return nil
	}
	link, err := h.LinkByName(f.link)
	if err != nil {
		return fmt.Errorf("interface %s: %w", f.link, err)
	}
	index := link.Attrs().Index
	f.narrow = nil // until all of it has succeeded
	found, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list the routes to peers: %w", err)
	}
	have := make(map[netip.Addr]int, len(found))
	for _, r := range found {
		if to, ok := kernel.PrefixOf(r.Dst); ok && to.IsSingleIP() {
			have[to.Addr()] = r.MTU
		}
	}
	route := func(a netip.Addr) *netlink.Route {
		return &netlink.Route{LinkIndex: index, Dst: kernel.IPNet(netip.PrefixFrom(a, 32)), Scope: netlink.SCOPE_LINK,
			Src: f.plan.address.Addr().AsSlice(), Protocol: unix.RTPROT_STATIC, MTU: want[a]}
	}
	if known != nil && maps.Equal(want, known) && !maps.Equal(want, have) {
		changed("put the routes to peers with a smaller MTU back")
	}
	for a, mtu := range want {
		if had, ok := have[a]; !ok || had != mtu {
			if err := h.RouteReplace(route(a)); err != nil {
				return fmt.Errorf("route to %s with an MTU of %d: %w", a, mtu, err)
			}
		}
	}
	for a := range have {
		if _, ok := want[a]; !ok {
			if err := h.RouteDel(route(a)); err != nil && err != unix.ESRCH {
				return fmt.Errorf("remove the route to %s: %w", a, err)
			}
		}
	}
	f.narrow = want
	return nil
}

// moved looks where this node is. Where one of its addresses is new, every peer is
// sent something at once: the tunnel's other end learns from it where this one is
// now. Otherwise what it has for us would go to where we were until we speak.
func (f *Fabric) moved(h *netlink.Handle) error {
	now, err := underlayAddresses(h, f.plan.address)
	if err != nil {
		return err
	}
	before := f.underlay
	f.underlay = now
	if before == nil || !slices.ContainsFunc(now, func(a netip.Addr) bool { return !slices.Contains(before, a) }) {
		return nil
	}
	f.log.Info("this node has another address: its peers are called from there", "addresses", now)
	f.asleep = nil
	return f.wake(slices.Collect(maps.Keys(f.plan.keys)))
}

// underlayAddresses are the node's own, in order, without those that mean nothing
// elsewhere and those of its own making.
func underlayAddresses(h *netlink.Handle, mesh netip.Prefix) ([]netip.Addr, error) {
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	outside := make(map[int]bool, len(links))
	for _, l := range links {
		// A machine may have its address on lo.
		outside[l.Attrs().Index] = isUnderlay(l) || l.Attrs().Flags&net.FlagLoopback != 0
	}
	all, err := kernel.Whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := []netip.Addr{}
	for _, x := range all {
		a, ok := netip.AddrFromSlice(x.IP)
		if a = a.Unmap(); ok && outside[x.LinkIndex] && a.IsGlobalUnicast() && !mesh.Contains(a) && x.Flags&unix.IFA_F_TENTATIVE == 0 && len(out) < maxUnderlay {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
