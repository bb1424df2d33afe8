package netd

import (
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// attach gives the sandbox its interface, up to the point where the host end
// only has to be set up. Each step looks first at what is there, so that it can
// be repeated after any interruption. The host end stays down until the rules
// that bind it are in force.
func (n *Node) attach(h *netlink.Handle, e endpoint, bridge netlink.Link, gateway net.IP, changed func(string)) error {
	sandbox, err := kernel.OpenPinned(n.runDir, e.netns, "sandbox", n.ns)
	if err != nil {
		return err
	}
	defer sandbox.Close()
	host, err := n.pair(h, e, sandbox, changed)
	if err != nil {
		return err
	}
	if err := n.step("made pair"); err != nil {
		return err
	}
	if host.Attrs().MTU != n.mtu {
		if err := h.LinkSetMTU(host, n.mtu); err != nil {
			return fmt.Errorf("set the MTU of %s: %w", host.Attrs().Name, err)
		}
	}
	if host.Attrs().MasterIndex != bridge.Attrs().Index {
		// Between this and the flags below the port is down or, when somebody
		// took it out of the bridge by hand, still bound by the rules.
		if err := h.LinkSetMaster(host, bridge); err != nil {
			return fmt.Errorf("put %s on the bridge: %w", host.Attrs().Name, err)
		}
	}
	if err := n.step("on bridge"); err != nil {
		return err
	}
	// Ports exchange nothing with each other (see brNetfilter), and the bridge learns nothing
	// from containers: where a MAC is, is written down below.
	if err := kernel.OneLine(h.LinkSetIsolated(host, !n.brNetfilter), h.LinkSetHairpin(host, n.brNetfilter),
		h.LinkSetLearning(host, false), h.LinkSetFlood(host, false)); err != nil {
		return fmt.Errorf("isolate %s: %w", host.Attrs().Name, err)
	}
	err = h.NeighSet(&netlink.Neigh{LinkIndex: host.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
		State: netlink.NUD_NOARP, HardwareAddr: e.mac[:]})
	if err != nil {
		return fmt.Errorf("write down the MAC of %s: %w", host.Attrs().Name, err)
	}
	if _, err := kernel.NoIPv6(host.Attrs().Name); err != nil {
		return fmt.Errorf("turn IPv6 off on %s: %w", host.Attrs().Name, err)
	}
	if err := n.step("isolated"); err != nil {
		return err
	}
	return n.inside(e, sandbox, gateway)
}

// pair returns the host end of a veth pair whose other end is eth0 of the
// sandbox, keeping the one that is there if it fits.
func (n *Node) pair(h *netlink.Handle, e endpoint, sandbox *os.File, changed func(string)) (netlink.Link, error) {
	name := portName(e.task)
	host, err := kernel.FindLink(h, name)
	if err != nil {
		return nil, err
	}
	keep := false
	err = kernel.WithRoutes(sandbox, func(sh *netlink.Handle) error {
		inside, err := kernel.FindLink(sh, sandboxLink)
		if err != nil || inside == nil {
			return err
		}
		if inside.Type() != "veth" {
			return fmt.Errorf("interface %s in the sandbox is a %s, not netd's", sandboxLink, inside.Type())
		}
		if host != nil && host.Type() == "veth" && inside.Attrs().ParentIndex == host.Attrs().Index &&
			host.Attrs().ParentIndex == inside.Attrs().Index {
			keep = true
			return nil
		}
		return kernel.DeleteLink(sh, inside)
	})
	if err != nil || keep {
		return host, err
	}
	if host != nil {
		if err := kernel.DeleteLink(h, host); err != nil {
			return nil, err
		}
	}
	changed("made the interface of task " + e.task)
	// The kernel makes the other end in the sandbox at once, with name and MAC:
	// it never exists in the node's namespace.
	err = h.LinkAdd(&netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: name, TxQLen: -1},
		PeerName:         sandboxLink,
		PeerHardwareAddr: e.mac[:],
		PeerNamespace:    netlink.NsFd(int(sandbox.Fd())),
	})
	if err != nil {
		return nil, fmt.Errorf("make the interface %s: %w", name, err)
	}
	if host, err = h.LinkByName(name); err != nil {
		return nil, err
	}
	return host, h.LinkSetAlias(host, "redoubt task "+e.task)
}

// inside configures the sandbox.
func (n *Node) inside(e endpoint, sandbox *os.File, gateway net.IP) error {
	err := kernel.WithRoutes(sandbox, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		link, err := h.LinkByName(sandboxLink)
		if err != nil {
			return err
		}
		if !slices.Equal(link.Attrs().HardwareAddr, e.mac[:]) {
			if err := h.LinkSetHardwareAddr(link, e.mac[:]); err != nil {
				return fmt.Errorf("set MAC: %w", err)
			}
		}
		if link.Attrs().MTU != n.mtu {
			if err := h.LinkSetMTU(link, n.mtu); err != nil {
				return fmt.Errorf("set MTU: %w", err)
			}
		}
		for _, name := range []string{"default", sandboxLink} {
			if _, err := kernel.NoIPv6(name); err != nil {
				return fmt.Errorf("turn IPv6 off: %w", err)
			}
		}
		if _, err := kernel.OnlyAddress(h, link, e.addr); err != nil {
			return fmt.Errorf("set address %s: %w", e.addr, err)
		}
		if err := n.step("addressed"); err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", sandboxLink, err)
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}); err != nil {
			return fmt.Errorf("set default route: %w", err)
		}
		return n.step("routed")
	})
	if err != nil {
		return fmt.Errorf("configure sandbox: %w", err)
	}
	return nil
}
