package overlay

import (
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/vishvananda/netlink"
)

// A port is the network's end of a local endpoint's veth pair, as it is in place.
type port struct {
	link     int32
	endpoint *endpoint
	mtu      int
}

// attach gives the sandbox its interface and leaves the network's end down: it is
// set up once the rules know it. Each step looks first at what is there, so that
// it can be repeated after any interruption. h is of the network's namespace.
func (r *realm) attach(h *netlink.Handle, e *endpoint, host netlink.Link) (p port, made bool, err error) {
	sandbox, err := kernel.OpenPinned(r.o.runDir, e.netns, "sandbox", r.o.ns)
	if err != nil {
		return p, false, err
	}
	defer sandbox.Close()
	host, made, err = r.pair(h, e, host, sandbox)
	if err != nil {
		return p, made, err
	}
	if _, err := tend(h, host, r.tunnel.mtu); err != nil {
		return p, made, err
	}
	err = kernel.WithRoutes(sandbox, func(sh *netlink.Handle) error { return r.inside(sh, e) })
	if err != nil {
		return p, made, fmt.Errorf("configure sandbox: %w", err)
	}
	return port{int32(host.Attrs().Index), e, r.tunnel.mtu}, made, nil
}

// pair returns the network's end of a veth pair whose other end is the sandbox's,
// keeping the one that is there if it fits.
func (r *realm) pair(h *netlink.Handle, e *endpoint, host netlink.Link, sandbox *os.File) (netlink.Link, bool, error) {
	keep := false
	err := kernel.WithRoutes(sandbox, func(sh *netlink.Handle) error {
		inside, err := kernel.FindLink(sh, sandboxName(e))
		if err != nil || inside == nil {
			return err
		}
		if inside.Type() != "veth" {
			return fmt.Errorf("interface %s in the sandbox is a %s, not netd's", sandboxName(e), inside.Type())
		}
		if host != nil && host.Type() == "veth" && host.Attrs().MasterIndex == 0 && slices.Equal(host.Attrs().HardwareAddr, gatewayMAC) &&
			inside.Attrs().ParentIndex == host.Attrs().Index && host.Attrs().ParentIndex == inside.Attrs().Index {
			keep = true
			return nil
		}
		return kernel.DeleteLink(sh, inside)
	})
	if err != nil || keep {
		return host, false, err
	}
	if host != nil {
		if err := kernel.DeleteLink(h, host); err != nil {
			return nil, false, err
		}
	}
	name := portName(e.task)
	err = h.LinkAdd(&netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: name, TxQLen: -1, MTU: r.tunnel.mtu, HardwareAddr: gatewayMAC},
		PeerName:         sandboxName(e),
		PeerHardwareAddr: sandboxMAC(r.id, e),
		PeerNamespace:    netlink.NsFd(int(sandbox.Fd())),
	})
	if err != nil {
		return nil, true, fmt.Errorf("make the interface %s: %w", name, err)
	}
	host, err = h.LinkByName(name)
	return host, true, err
}

// inside configures the sandbox's end: its addresses and the way to the network
// and nothing else, by an address of the gateway that is told and not asked for.
func (r *realm) inside(h *netlink.Handle, e *endpoint) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := setUp(h, lo); err != nil {
		return err
	}
	name := sandboxName(e)
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if mac := sandboxMAC(r.id, e); !slices.Equal(link.Attrs().HardwareAddr, mac) {
		if err := h.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set MAC: %w", err)
		}
	}
	if _, err := setAll(hushed(name, r.net.dual())); err != nil {
		return err
	}
	if _, err := tend(h, link, r.tunnel.mtu); err != nil {
		return err
	}
	if _, err := onlyAddresses(h, link, valid(e.addrs)); err != nil {
		return err
	}
	if err := setUp(h, link); err != nil {
		return err
	}
	for _, s := range r.net.subnets {
		if !s.prefix.IsValid() {
			continue
		}
		err := h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: int(familyOf(s.gateway)), State: netlink.NUD_PERMANENT,
			IP: s.gateway.AsSlice(), HardwareAddr: gatewayMAC})
		if err != nil {
			return fmt.Errorf("set the neighbour %s: %w", s.gateway, err)
		}
		scope := netlink.SCOPE_LINK
		if s.gateway.Is6() {
			scope = netlink.SCOPE_UNIVERSE
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(s.gateway), Scope: scope}); err != nil {
			return fmt.Errorf("set the route to %s: %w", s.gateway, err)
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: netOf(s.prefix), Gw: net.IP(s.gateway.AsSlice())}); err != nil {
			return fmt.Errorf("set the route to %s: %w", s.prefix, err)
		}
	}
	return nil
}

// dual reports whether the network has an IPv6 subnet.
func (n *network) dual() bool {
	return n.subnets[0].prefix.Addr().Is6() || n.subnets[1].prefix.IsValid()
}
