package ingress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A tunnel is the node's end of the mesh, which carries all VXLAN devices.
type tunnel struct {
	link int // index in the node's namespace; 0: there is none
	addr netip.Addr
	mtu  int // of what goes into an ingress network
}

// findTunnel looks for the interface of the mesh with this address.
func findTunnel(h *netlink.Handle, name string, mesh netip.Addr) (tunnel, error) {
	none := tunnel{mtu: defaultMTU}
	if !mesh.IsValid() {
		return none, nil
	}
	link, err := kernel.FindLink(h, name)
	if err != nil {
		return none, err
	}
	if link == nil {
		return none, errors.New("the mesh has no interface on this node yet: declare the fabric")
	}
	addrs, err := h.AddrList(link, unix.AF_INET)
	if err != nil {
		return none, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { p, ok := kernel.PrefixOf(a.IPNet); return ok && p.Addr() == mesh }) {
		return none, fmt.Errorf("the mesh's interface %s has not the mesh address %s: declare fabric and ingress for the same address", name, mesh)
	}
	t := tunnel{link.Attrs().Index, mesh, link.Attrs().MTU - vxlanOverhead}
	if t.mtu < minMTU {
		return none, fmt.Errorf("the MTU of %s is %d, ingress needs %d", name, link.Attrs().MTU, minMTU+vxlanOverhead)
	}
	return t, nil
}

// prepare makes the namespace one that routes and takes no word of anybody for
// where things are. New interfaces begin with what stands under default.
func prepare(dual bool) error {
	set := [][2]string{{"ipv4/ip_forward", "1"}}
	for _, at := range []string{"ipv4/conf/all/", "ipv4/conf/default/"} {
		set = append(set, [][2]string{{at + "rp_filter", "0"}, {at + "accept_redirects", "0"}, {at + "send_redirects", "0"},
			{at + "accept_source_route", "0"}, {at + "proxy_arp", "0"}}...)
	}
	if dual {
		set = append(set, [2]string{"ipv6/conf/default/disable_ipv6", "0"}, [2]string{"ipv6/conf/default/addr_gen_mode", "1"})
		for _, at := range []string{"ipv6/conf/all/", "ipv6/conf/default/"} {
			set = append(set, [][2]string{{at + "forwarding", "1"}, {at + "accept_ra", "0"}, {at + "autoconf", "0"}, {at + "accept_redirects", "0"}, {at + "proxy_ndp", "0"}}...)
		}
		return setAll(set)
	}
	if err := setAll(set); err != nil {
		return err
	}
	_, err := kernel.NoIPv6("default")
	return err
}

// hush makes the link one that takes no word of IPv6 from the other end, and has
// no address but those it is given; or one without IPv6.
func (p *plan) hush(link string) error {
	if len(p.families()) == 1 {
		_, err := kernel.NoIPv6(link)
		return err
	}
	at := "ipv6/conf/" + link + "/"
	return setAll([][2]string{{at + "addr_gen_mode", "1"}, {at + "accept_ra", "0"}, {at + "autoconf", "0"}, {at + "accept_redirects", "0"},
		{at + "accept_dad", "0"}, {at + "router_solicitations", "0"}, {at + "disable_ipv6", "0"}})
}

func setAll(set [][2]string) error {
	for _, s := range set {
		_, err := kernel.SetSysctl(s[1], s[0])
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s[0], "ipv6/") {
			continue // a kernel without
		}
		if err != nil {
			return fmt.Errorf("set net/%s: %w", s[0], err)
		}
	}
	return nil
}

// onlyAddresses gives the link these addresses and takes away any other but the
// kernel's own of lo.
func onlyAddresses(h *netlink.Handle, l netlink.Link, want []netip.Addr) error {
	have, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	missing := slices.Clone(want)
	for _, a := range have {
		p, ok := kernel.PrefixOf(a.IPNet)
		switch {
		case ok && p.IsSingleIP() && slices.Contains(want, p.Addr()):
			missing = slices.DeleteFunc(missing, func(w netip.Addr) bool { return w == p.Addr() })
		case ok && p.Addr().IsLoopback():
		default:
			if err := h.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("take %s from %s: %w", p, l.Attrs().Name, err)
			}
		}
	}
	for _, a := range missing {
		flags := 0
		if a.Is6() {
			flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		}
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: kernel.IPNet(single(a)), Flags: flags}); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("give %s to %s: %w", a, l.Attrs().Name, err)
		}
	}
	return nil
}

// fits reports whether the link is the VXLAN device that is wanted.
func (t tunnel) fits(l netlink.Link, vni uint32) bool {
	x, ok := l.(*netlink.Vxlan)
	mac := routerMAC(t.addr)
	return ok && x.VxlanId == int(vni) && x.Port == vxlanPort && x.VtepDevIndex == t.link && x.SrcAddr.Equal(t.addr.AsSlice()) &&
		(x.Group == nil || x.Group.IsUnspecified()) && !x.Learning && !x.Proxy && !x.FlowBased && slices.Equal(x.HardwareAddr, mac[:]) && x.Attrs().MasterIndex == 0
}

// makeUplink makes the VXLAN device in the namespace, with its lower side in the
// node's: it never exists in the latter. h is of the node's.
func makeUplink(h *netlink.Handle, ns *os.File, t tunnel, vni uint32) error {
	mac := routerMAC(t.addr)
	err := h.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: uplinkName(vni), TxQLen: -1, MTU: t.mtu, HardwareAddr: mac[:], Namespace: netlink.NsFd(int(ns.Fd()))},
		VxlanId:   int(vni), SrcAddr: t.addr.AsSlice(), VtepDevIndex: t.link, Port: vxlanPort,
	})
	if err != nil {
		return fmt.Errorf("make the VXLAN device of VNI %d: %w", vni, err)
	}
	return nil
}

// tend makes of the link what can be changed while it exists, and notes it there.
func tend(h *netlink.Handle, l netlink.Link, mtu int) error {
	if l.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", l.Attrs().Name, mtu, err)
		}
		l.Attrs().MTU = mtu
	}
	// Whoever asks where something is, is not heard.
	if l.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := h.LinkSetARPOff(l); err != nil {
			return fmt.Errorf("turn ARP off on %s: %w", l.Attrs().Name, err)
		}
		l.Attrs().RawFlags |= unix.IFF_NOARP
	}
	return nil
}

func setUp(h *netlink.Handle, l netlink.Link) error {
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
	}
	l.Attrs().Flags |= net.FlagUp
	return nil
}

// paired reports whether both are ends of one veth pair.
func paired(a, b netlink.Link) bool {
	return a != nil && b != nil && a.Type() == "veth" && b.Type() == "veth" && a.Attrs().ParentIndex == b.Attrs().Index && b.Attrs().ParentIndex == a.Attrs().Index
}

// listLinks are all links by name but lo.
func listLinks(h *netlink.Handle) (map[string]netlink.Link, error) {
	all, err := kernel.Whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	byName := map[string]netlink.Link{}
	for _, l := range all {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			byName[l.Attrs().Name] = l
		}
	}
	return byName, nil
}

// entrance makes the pair that leads from the node into the namespace, down as yet.
func entrance(h, in *netlink.Handle, ns *os.File, there map[string]netlink.Link, mtu int) (made bool, err error) {
	outer, err := kernel.FindLink(h, NodeLink)
	if err != nil {
		return false, err
	}
	if !paired(outer, there[insideLink]) || !slices.Equal(outer.Attrs().HardwareAddr, gatewayMAC) {
		if made = true; outer != nil {
			if err := kernel.DeleteLink(h, outer); err != nil {
				return made, err
			}
		}
		if l := there[insideLink]; l != nil {
			if err := kernel.DeleteLink(in, l); err != nil {
				return made, err
			}
		}
		err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: NodeLink, TxQLen: -1, MTU: mtu, HardwareAddr: gatewayMAC},
			PeerName: insideLink, PeerHardwareAddr: net.HardwareAddr(entranceMAC), PeerNamespace: netlink.NsFd(int(ns.Fd()))})
		if err != nil {
			return made, fmt.Errorf("make the interface %s: %w", NodeLink, err)
		}
		if outer, err = h.LinkByName(NodeLink); err != nil {
			return made, err
		}
		if there[insideLink], err = in.LinkByName(insideLink); err != nil {
			return made, err
		}
	}
	return made, kernel.OneLine(tend(h, outer, mtu), tend(in, there[insideLink], mtu))
}

// openEntrance gives the node's end its address and the way to tasks, and sets it
// up. The table that guards it is in force.
func (p *plan) openEntrance(h *netlink.Handle) error {
	l, err := h.LinkByName(NodeLink)
	if err != nil {
		return err
	}
	at := "ipv4/conf/" + NodeLink + "/"
	// Answers come for whatever address of the node was asked, 127.0.0.1 too.
	err = setAll([][2]string{{at + "forwarding", "1"}, {at + "rp_filter", "0"}, {at + "route_localnet", "1"}, {at + "accept_redirects", "0"},
		{at + "send_redirects", "0"}, {at + "accept_source_route", "0"}, {at + "proxy_arp", "0"}})
	if err != nil {
		return err
	}
	if err := p.hush(NodeLink); err != nil {
		return err
	}
	var ends []netip.Addr
	for _, f := range p.families() {
		ends = append(ends, nodeEnd(p.subnet(f), p.mesh))
	}
	if err := onlyAddresses(h, l, ends); err != nil {
		return err
	}
	if err := setUp(h, l); err != nil {
		return err
	}
	for _, f := range p.families() {
		k := neighbourKey{l.Attrs().Index, gateway(p.subnet(f))}
		if err := h.NeighSet(k.netlink([6]byte(entranceMAC))); err != nil {
			return fmt.Errorf("set the neighbour %s: %w", k.addr, err)
		}
		r := routeKey{unix.RT_TABLE_MAIN, p.subnet(f)}.netlink(route{k.link, k.addr})
		r.Src = ends[f.index()].AsSlice()
		if err := keepRoute(h, r); err != nil {
			return fmt.Errorf("set the route to %s: %w", p.subnet(f), err)
		}
	}
	if len(ends) == 1 {
		return nil
	}
	// Answers for ::1 come by this interface, and the kernel looks for that address
	// only where it came in.
	if err := keepRoute(h, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, LinkIndex: l.Attrs().Index, Protocol: routeProtocol,
		Dst: kernel.IPNet(six.loopback()), Priority: 1024, Family: unix.AF_INET6}); err != nil {
		return fmt.Errorf("set the way back to ::1: %w", err)
	}
	return nil
}

// keepRoute sets a route that is not there. Of IPv6 the kernel takes one that is for a
// change and tells everybody, and who is told looks again: without end, if looking
// sets it.
func keepRoute(h *netlink.Handle, want *netlink.Route) error {
	const by = netlink.RT_FILTER_TABLE | netlink.RT_FILTER_OIF | netlink.RT_FILTER_DST
	there, err := h.RouteListFiltered(want.Family, want, by)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	f := six
	if want.Family == four.af {
		f = four
	}
	for _, r := range there {
		if max(1, r.Type) == max(1, want.Type) && r.Protocol == want.Protocol && r.Priority == f.metric() && r.Gw.Equal(want.Gw) && r.Src.Equal(want.Src) && len(r.MultiPath) == 0 && r.Encap == nil {
			return nil
		}
	}
	return h.RouteReplace(want)
}

// ours reports whether the name is one that we give in the namespace.
func ours(name string) bool {
	return name == insideLink || strings.HasPrefix(name, uplinkPrefix) || strings.HasPrefix(name, portPrefix)
}
