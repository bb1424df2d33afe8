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
func prepare() error {
	set := [][2]string{{"ipv4/ip_forward", "1"}}
	for _, at := range []string{"ipv4/conf/all/", "ipv4/conf/default/"} {
		set = append(set, [][2]string{{at + "rp_filter", "0"}, {at + "accept_redirects", "0"}, {at + "send_redirects", "0"},
			{at + "accept_source_route", "0"}, {at + "proxy_arp", "0"}}...)
	}
	if err := setAll(set); err != nil {
		return err
	}
	_, err := kernel.NoIPv6("default")
	return err
}

func setAll(set [][2]string) error {
	for _, s := range set {
		if _, err := kernel.SetSysctl(s[1], s[0]); err != nil {
			return fmt.Errorf("set net/%s: %w", s[0], err)
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

// tend makes of the link what can be changed while it exists.
func tend(h *netlink.Handle, l netlink.Link, mtu int) error {
	if l.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", l.Attrs().Name, mtu, err)
		}
	}
	// Whoever asks where something is, is not heard.
	if l.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := h.LinkSetARPOff(l); err != nil {
			return fmt.Errorf("turn ARP off on %s: %w", l.Attrs().Name, err)
		}
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
	return nil
}

// paired reports whether both are ends of one veth pair.
func paired(a, b netlink.Link) bool {
	return a != nil && b != nil && a.Type() == "veth" && b.Type() == "veth" && a.Attrs().ParentIndex == b.Attrs().Index && b.Attrs().ParentIndex == a.Attrs().Index
}

// listLinks are all links by name but lo.
func listLinks(h *netlink.Handle) (map[string]netlink.Link, error) {
	all, err := h.LinkList()
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
	return made, errors.Join(tend(h, outer, mtu), tend(in, there[insideLink], mtu))
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
	if _, err := kernel.NoIPv6(NodeLink); err != nil {
		return err
	}
	end := nodeEnd(p.subnet, p.mesh)
	if _, err := kernel.OnlyAddress(h, l, single(end)); err != nil {
		return fmt.Errorf("give %s to %s: %w", end, NodeLink, err)
	}
	if err := setUp(h, l); err != nil {
		return err
	}
	k := neighbourKey{l.Attrs().Index, gateway(p.subnet)}
	if err := h.NeighSet(k.netlink([6]byte(entranceMAC))); err != nil {
		return fmt.Errorf("set the neighbour %s: %w", k.addr, err)
	}
	r := routeKey{unix.RT_TABLE_MAIN, p.subnet}.netlink(route{k.link, k.addr})
	r.Src = end.AsSlice()
	if err := h.RouteReplace(r); err != nil {
		return fmt.Errorf("set the route to %s: %w", p.subnet, err)
	}
	return nil
}

// ours reports whether the name is one that we give in the namespace.
func ours(name string) bool {
	return name == insideLink || strings.HasPrefix(name, uplinkPrefix) || strings.HasPrefix(name, portPrefix)
}
