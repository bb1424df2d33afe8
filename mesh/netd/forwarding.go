package netd

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/ingress"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Forwarding. The kernel asks only the interface a packet came in by whether it
// may be forwarded. Turning net.ipv4.ip_forward on would make the node a router
// between all of its interfaces; netd leaves it alone and, where it is off,
// turns forwarding on per interface, with a rule that from such an interface
// packets go to containers only. Where ip_forward is on, the node is a router
// by somebody else's decision and nothing has to be opened.

// uplinks returns the interfaces netd has to open, given those it opened
// before, and the node's other bridges.
func uplinks(h *netlink.Handle, before []string, guarded bool) (open, bridges []string, err error) {
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := h.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	router, err := isRouter()
	if err != nil {
		return nil, nil, err
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Name == bridgeName || isPort(a.Name) || fabric.Owns(a.Name) || ingress.Owns(a.Name) || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		if l.Type() == "bridge" {
			bridges = append(bridges, a.Name)
		}
		if router {
			continue
		}
		on, err := forwards(a.Name)
		if err != nil {
			return nil, nil, err
		}
		mine := slices.Contains(before, a.Name) || !guarded && on
		addressed := slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return x.LinkIndex == a.Index })
		// One that forwards already and was not opened by netd is somebody
		// else's. Without a table of ours nobody can tell: guard it.
		if mine && on || !on && addressed && a.Flags&net.FlagUp != 0 {
			open = append(open, a.Name)
		}
	}
	slices.Sort(open)
	slices.Sort(bridges)
	return open, bridges, nil
}

func isRouter() (bool, error) { return sysctlIsOn("ipv4/ip_forward") }

func forwards(link string) (bool, error) {
	on, err := sysctlIsOn("ipv4/conf/" + link + "/forwarding")
	if os.IsNotExist(err) {
		return false, nil // the interface went while we looked
	}
	return on, err
}

func sysctlIsOn(path string) (bool, error) {
	b, err := os.ReadFile("/proc/sys/net/" + path)
	return strings.TrimSpace(string(b)) == "1", err
}

// openUplinks turns forwarding on. The guarding rules are in force already.
func openUplinks(names []string, changed func(string)) error {
	for _, name := range names {
		c, err := kernel.SetSysctl("1", "ipv4/conf", name, "forwarding")
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("turn forwarding on for %s: %w", name, err)
		}
		if c {
			changed("turned forwarding on for " + name)
		}
	}
	return nil
}

// closeUplinks takes back what openUplinks did, unless the node became a router
// meanwhile.
func closeUplinks(names []string) error {
	if router, err := isRouter(); err != nil || router {
		return err
	}
	for _, name := range names {
		if _, err := kernel.SetSysctl("0", "ipv4/conf", name, "forwarding"); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("turn forwarding off for %s: %w", name, err)
		}
	}
	return nil
}

// uplinkMTU is the smallest MTU of the interfaces that packets of containers may
// leave by. With a larger one of their own, they would depend on every path
// telling them in time.
func uplinkMTU(h *netlink.Handle, links []netlink.Link) (int, error) {
	addrs, err := h.AddrList(nil, unix.AF_INET)
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	mtu := 0
	for _, l := range links {
		a := l.Attrs()
		if a.Name == bridgeName || isPort(a.Name) || fabric.Owns(a.Name) || ingress.Owns(a.Name) || a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 ||
			!slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return x.LinkIndex == a.Index }) {
			continue
		}
		if mtu == 0 || a.MTU < mtu {
			mtu = a.MTU
		}
	}
	if mtu == 0 {
		return defaultMTU, nil
	}
	return max(mtu, minMTU), nil
}
