package netd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// ensureBridge makes the node bridge what it is to be. It runs on a thread in
// the node's namespace, as everything of this file does.
func ensureBridge(h *netlink.Handle, addr netip.Prefix, changed func(string)) (netlink.Link, error) {
	mac := bridgeMAC(addr.Addr())
	link, err := kernel.FindLink(h, bridgeName)
	if err != nil {
		return nil, err
	}
	if link != nil && link.Type() != "bridge" {
		return nil, fmt.Errorf("interface %s exists and is a %s: remove it, the name is netd's", bridgeName, link.Type())
	}
	if err := overlap(h, addr); err != nil {
		return nil, err
	}
	if link == nil {
		changed("made the bridge")
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, HardwareAddr: mac, TxQLen: -1}}); err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", bridgeName, err)
		}
		if link, err = h.LinkByName(bridgeName); err != nil {
			return nil, err
		}
	}
	if !slices.Equal(link.Attrs().HardwareAddr, mac) {
		changed("set the bridge's MAC")
		if err := h.LinkSetHardwareAddr(link, mac); err != nil {
			return nil, fmt.Errorf("set the bridge's MAC: %w", err)
		}
	}
	// route_localnet lets the answers to 127.0.0.1:<published> come back in;
	// chain raw sees to it that nothing else of 127.0.0.0/8 does.
	for _, s := range [][2]string{{"forwarding", "1"}, {"route_localnet", "1"}, {"accept_redirects", "0"}, {"send_redirects", "0"}, {"proxy_arp", "0"}} {
		c, err := kernel.SetSysctl(s[1], "ipv4/conf", bridgeName, s[0])
		if err != nil {
			return nil, fmt.Errorf("set %s of %s: %w", s[0], bridgeName, err)
		}
		if c {
			changed("set " + s[0] + " of the bridge")
		}
	}
	if c, err := kernel.NoIPv6(bridgeName); err != nil {
		return nil, fmt.Errorf("turn IPv6 off on %s: %w", bridgeName, err)
	} else if c {
		changed("turned IPv6 off on the bridge")
	}
	if c, err := kernel.OnlyAddress(h, link, addr); err != nil {
		return nil, fmt.Errorf("give %s to %s: %w", addr, bridgeName, err)
	} else if c {
		changed("set the bridge's address")
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		changed("set the bridge up")
		if err := h.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("set %s up: %w", bridgeName, err)
		}
	}
	return link, nil
}

// overlap refuses a bridge subnet in which the node has another interface: one
// of the two would be cut off.
func overlap(h *netlink.Handle, addr netip.Prefix) error {
	addrs, err := h.AddrList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, a := range addrs {
		p, ok := kernel.PrefixOf(a.IPNet)
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == a.LinkIndex })
		if !ok || i < 0 || links[i].Attrs().Name == bridgeName || !p.Overlaps(addr) {
			continue
		}
		return fmt.Errorf("the bridge's subnet %s overlaps %s of %s: choose another subnet for the node bridge",
			addr.Masked(), p, links[i].Attrs().Name)
	}
	return nil
}

// syncNeighbours writes down where each address of the bridge is. The node
// never asks by ARP, so nobody can answer for another.
func syncNeighbours(h *netlink.Handle, bridge netlink.Link, endpoints []endpoint, changed func(string)) (stale []netip.Addr, err error) {
	want := make(map[netip.Addr]net.HardwareAddr)
	for _, e := range endpoints {
		want[e.addr.Addr()] = e.mac[:]
	}
	have, err := h.NeighList(bridge.Attrs().Index, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range have {
		a, ok := netip.AddrFromSlice(n.IP.To4())
		if !ok || n.State&netlink.NUD_PERMANENT == 0 {
			continue
		}
		if mac, ok := want[a]; ok && slices.Equal(mac, n.HardwareAddr) {
			delete(want, a)
			continue
		} else if ok {
			continue // replaced below
		}
		stale = append(stale, a)
		if err := h.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return stale, fmt.Errorf("remove neighbour %s: %w", a, err)
		}
	}
	for a, mac := range want {
		changed("set neighbour " + a.String())
		err := h.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: unix.AF_INET,
			State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
		if err != nil {
			return stale, fmt.Errorf("set neighbour %s: %w", a, err)
		}
	}
	return stale, nil
}

// brNetfilter reports whether the frames of bridges pass the rules of routed
// packets as well in this namespace. The setting belongs to others (Docker and
// Kubernetes need it) and changes how a container reaches a published port of
// another one: the kernel then bridges such packets instead of routing them, so
// the ports cannot be isolated by flag and the rules alone keep them apart.
func brNetfilter() (bool, error) {
	on, err := sysctlIsOn("bridge/bridge-nf-call-iptables")
	if os.IsNotExist(err) {
		return false, nil
	}
	return on, err
}
