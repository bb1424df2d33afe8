package fabric

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// linkPrefix begins the name of the WireGuard interface; probeLink is made and
// deleted again while probing.
const (
	linkPrefix = "rdtw"
	probeLink  = "rdtprobe3"
)

// Owns reports whether an interface of this name is the fabric's.
func Owns(link string) bool { return strings.HasPrefix(link, linkPrefix) }

// ofNetd reports whether the interface is one of netd's, of whichever part.
func ofNetd(link string) bool { return strings.HasPrefix(link, "rdt") }

// linkName is always the same in one network namespace and another in each: the
// tools for WireGuard find interfaces by name alone, whatever namespace they are
// in.
func linkName(ns *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", st.Dev, st.Ino))
	return linkPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:8], nil
}

// kernelHas reports whether the kernel makes WireGuard interfaces.
func kernelHas(h *netlink.Handle) (bool, error) {
	old, err := kernel.FindLink(h, probeLink)
	if err == nil && old != nil {
		err = kernel.DeleteLink(h, old)
	}
	if err != nil {
		return false, err
	}
	link := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: probeLink, TxQLen: -1}}
	if err := h.LinkAdd(link); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return false, nil
		}
		return false, fmt.Errorf("make a WireGuard interface: %w", err)
	}
	return true, kernel.DeleteLink(h, link)
}

// openLink finds or makes the interface and the driver behind it. An interface
// that is there decides which: what was built on it would go with it.
func (f *Fabric) openLink(h *netlink.Handle) (driver, error) {
	link, err := kernel.FindLink(h, f.link)
	if err != nil {
		return nil, err
	}
	inKernel := link != nil && link.Type() == "wireguard"
	switch {
	case link != nil && !inKernel && link.Type() != "tuntap" && link.Type() != "tun":
		return nil, fmt.Errorf("interface %s exists and is a %s: remove it, the name is netd's", f.link, link.Type())
	case link == nil && !f.avoidKernel:
		if inKernel, err = kernelHas(h); err != nil {
			return nil, err
		}
	}
	if !inKernel {
		if err := f.replaceTUN(h, link); err != nil {
			return nil, err
		}
		return f.openEmbedded()
	}
	if link == nil {
		if err := h.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: f.link, TxQLen: -1}}); err != nil {
			return nil, fmt.Errorf("make interface %s: %w", f.link, err)
		}
	}
	return newKernelDriver(f.link)
}

// settle gives the interface its address, MTU and settings and sets it up. The
// route to the whole mesh goes to it, so what is meant for a node that is no
// peer ends there and nowhere else.
func (f *Fabric) settle(h *netlink.Handle, addr netip.Prefix, mtu int, changed func(string)) error {
	link, err := h.LinkByName(f.link)
	if err != nil {
		return fmt.Errorf("interface %s: %w", f.link, err)
	}
	var to kernel.Sysctls
	defer to.Close()
	for _, s := range [][2]string{{"forwarding", "0"}, {"rp_filter", "1"}, {"accept_redirects", "0"}, {"send_redirects", "0"},
		{"accept_source_route", "0"}, {"accept_local", "0"}, {"proxy_arp", "0"}, {"route_localnet", "0"}} {
		c, err := to.Set(s[1], "ipv4/conf", f.link, s[0])
		if err != nil {
			return fmt.Errorf("set %s of %s: %w", s[0], f.link, err)
		}
		if c {
			changed("set " + s[0] + " of the WireGuard interface")
		}
	}
	if c, err := kernel.NoIPv6(f.link); err != nil {
		return fmt.Errorf("turn IPv6 off on %s: %w", f.link, err)
	} else if c {
		changed("turned IPv6 off on the WireGuard interface")
	}
	if c, err := kernel.OnlyAddress(h, link, addr); err != nil {
		return fmt.Errorf("give %s to %s: %w", addr, f.link, err)
	} else if c {
		changed("set the mesh address")
	}
	if link.Attrs().MTU != mtu {
		changed(fmt.Sprintf("set the MTU of the WireGuard interface to %d", mtu))
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", f.link, mtu, err)
		}
	}
	f.driver.followMTU(mtu)
	// Nobody in the tunnel answers for a hardware address.
	if link.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		changed("switched ARP of the WireGuard interface off")
		if err := h.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("switch ARP of %s off: %w", f.link, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		changed("set the WireGuard interface up")
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", f.link, portError(err, f.plan.port))
		}
	}
	return nil
}

// removeLinks deletes every interface of the fabric in the namespace.
func removeLinks(h *netlink.Handle) error {
	links, err := kernel.Whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if Owns(l.Attrs().Name) {
			if err := kernel.DeleteLink(h, l); err != nil {
				return err
			}
		}
	}
	return nil
}
