package overlay

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
	link int32 // index in the node's namespace
	addr netip.Addr
	mtu  int // of what goes into a network
}

// findTunnel looks for the WireGuard interface of this name with this mesh
// address. The interface itself says what it is: it outlives netd, which then
// has not been told anything of it yet.
func findTunnel(h *netlink.Handle, name string, mesh netip.Addr) (t tunnel, err error) {
	link, err := kernel.FindLink(h, name)
	if err != nil {
		return t, err
	}
	if link == nil {
		return t, fmt.Errorf("the mesh has no interface on this node yet: declare the fabric")
	}
	addrs, err := h.AddrList(link, unix.AF_INET)
	if err != nil {
		return t, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { p, ok := kernel.PrefixOf(a.IPNet); return ok && p.Addr() == mesh }) {
		return t, fmt.Errorf("the mesh's interface %s has not the mesh address %s: declare fabric and networks for the same address", name, mesh)
	}
	t = tunnel{int32(link.Attrs().Index), mesh, link.Attrs().MTU - vxlanOverhead}
	if t.mtu < minMTU {
		return t, fmt.Errorf("the MTU of %s is %d, networks need %d", name, link.Attrs().MTU, minMTU+vxlanOverhead)
	}
	return t, nil
}

// prepare makes the namespace one that routes and takes no word of anybody for
// where things are. New interfaces begin with what stands under default.
func prepare(dual bool) (changed bool, err error) {
	six := "1"
	if dual {
		six = "0"
	}
	set := [][3]string{
		{"ipv4", "ip_forward", "1"},
		{"ipv4/conf/all", "rp_filter", "0"}, {"ipv4/conf/default", "rp_filter", "0"},
		{"ipv6/conf/default", "disable_ipv6", six},
	}
	for _, at := range []string{"all", "default"} {
		set = append(set, [][3]string{
			{"ipv4/conf/" + at, "accept_redirects", "0"}, {"ipv4/conf/" + at, "send_redirects", "0"},
			{"ipv4/conf/" + at, "accept_source_route", "0"}, {"ipv4/conf/" + at, "proxy_arp", "0"},
			{"ipv6/conf/" + at, "forwarding", "1"}, {"ipv6/conf/" + at, "accept_ra", "0"}, {"ipv6/conf/" + at, "autoconf", "0"},
			{"ipv6/conf/" + at, "accept_redirects", "0"}, {"ipv6/conf/" + at, "proxy_ndp", "0"},
		}...)
	}
	// No link-local addresses: nobody speaks to them, and all ports have one MAC.
	set = append(set, [3]string{"ipv6/conf/default", "addr_gen_mode", "1"})
	return setAll(set)
}

// hushed are the settings of one interface: it takes no word from the other end,
// and has no address but those it is given. The uplink has accept_local besides:
// errors that another node's namespace sends are from the gateway, which is an
// address of this one too.
func hushed(link string, dual bool) [][3]string {
	four, six := "ipv4/conf/"+link, "ipv6/conf/"+link
	set := [][3]string{{four, "rp_filter", "0"}, {four, "accept_redirects", "0"}, {four, "send_redirects", "0"}, {four, "accept_source_route", "0"}}
	if !dual {
		return append(set, [3]string{six, "disable_ipv6", "1"})
	}
	return append(set, [][3]string{{six, "addr_gen_mode", "1"}, {six, "accept_ra", "0"}, {six, "autoconf", "0"}, {six, "accept_redirects", "0"},
		{six, "accept_dad", "0"}, {six, "router_solicitations", "0"}, {six, "disable_ipv6", "0"}}...)
}

func setAll(set [][3]string) (changed bool, err error) {
	var to kernel.Sysctls
	defer to.Close()
	for _, s := range set {
		c, err := to.Set(s[2], s[0], s[1])
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(s[0], "ipv6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return changed, fmt.Errorf("set net/%s/%s: %w", s[0], s[1], err)
		}
		changed = changed || c
	}
	return changed, nil
}

// fits reports whether the link is the VXLAN device that is wanted.
func (t tunnel) fits(l netlink.Link, vni uint32) bool {
	x, ok := l.(*netlink.Vxlan)
	mac := routerMAC(t.addr)
	return ok && x.VxlanId == int(vni) && x.Port == vxlanPort && x.VtepDevIndex == int(t.link) && x.SrcAddr.Equal(t.addr.AsSlice()) &&
		(x.Group == nil || x.Group.IsUnspecified()) && !x.Learning && !x.Proxy && !x.RSC && !x.L2miss && !x.L3miss && !x.FlowBased && !x.GBP &&
		x.Attrs().NetNsID >= 0 && slices.Equal(x.HardwareAddr, mac[:]) && x.Attrs().MasterIndex == 0
}

// makeUplink makes the VXLAN device in the namespace of the network, with its
// lower side in the node's: it never exists in the latter.
func makeUplink(node, network *os.File, t tunnel, vni uint32) error {
	mac := routerMAC(t.addr)
	return kernel.WithRoutes(node, func(h *netlink.Handle) error {
		err := h.LinkAdd(&netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: uplinkName, TxQLen: -1, MTU: t.mtu, HardwareAddr: mac[:], Namespace: netlink.NsFd(int(network.Fd()))},
			VxlanId:   int(vni), SrcAddr: t.addr.AsSlice(), VtepDevIndex: int(t.link), Port: vxlanPort,
		})
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make the VXLAN device: another one of this node has VNI %d already", vni)
		}
		if err != nil {
			return fmt.Errorf("make the VXLAN device: %w", err)
		}
		return nil
	})
}

// tend makes of the link what can be changed while it exists.
func tend(h *netlink.Handle, l netlink.Link, mtu int) (changed bool, err error) {
	if l.Attrs().MTU != mtu {
		changed = true
		if err := h.LinkSetMTU(l, mtu); err != nil {
			return changed, fmt.Errorf("set the MTU of %s to %d: %w", l.Attrs().Name, mtu, err)
		}
	}
	// Whatever asks where something is, is not heard: an entry of the kernel's
	// table of neighbours is not to be had for the asking.
	if l.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		changed = true
		if err := h.LinkSetARPOff(l); err != nil {
			return changed, fmt.Errorf("turn ARP off on %s: %w", l.Attrs().Name, err)
		}
	}
	return changed, nil
}

func setUp(h *netlink.Handle, l netlink.Link) error {
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

func isUp(l netlink.Link) bool { return l.Attrs().Flags&net.FlagUp != 0 }

// onlyAddresses gives the link these addresses and takes away any others but the
// kernel's own of lo.
func onlyAddresses(h *netlink.Handle, l netlink.Link, want []netip.Addr) (changed bool, err error) {
	have, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	missing := slices.Clone(want)
	for _, a := range have {
		p, ok := kernel.PrefixOf(a.IPNet)
		if ok && p.IsSingleIP() && slices.Contains(want, p.Addr()) {
			missing = slices.DeleteFunc(missing, func(w netip.Addr) bool { return w == p.Addr() })
			continue
		}
		if ok && p.Addr().IsLoopback() {
			continue
		}
		changed = true
		if err := h.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return changed, fmt.Errorf("take %s from %s: %w", p, l.Attrs().Name, err)
		}
	}
	for _, a := range missing {
		changed = true
		flags := 0
		if a.Is6() {
			flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		}
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: hostNet(a), Flags: flags}); err != nil && !errors.Is(err, unix.EEXIST) {
			return changed, fmt.Errorf("give %s to %s: %w", a, l.Attrs().Name, err)
		}
	}
	return changed, nil
}

func hostNet(a netip.Addr) *net.IPNet { return netOf(netip.PrefixFrom(a, a.BitLen())) }

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// valid are those of the addresses that there are.
func valid(addrs [2]netip.Addr) (out []netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}
