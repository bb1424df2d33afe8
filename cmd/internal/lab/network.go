package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// makeBridge makes the lab's bridge with the gateway's address, so that the
// machine itself reaches every host.
func (l *Lab) makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.Bridge()
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("make bridge %s: %w", attrs.Name, err)
	}
	br, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(br, &netlink.Addr{IPNet: ipNet(l.Gateway())}); err != nil {
		return fmt.Errorf("give %s its address: %w", attrs.Name, err)
	}
	if err := netlink.LinkSetAlias(br, l.alias()); err != nil {
		return err
	}
	return netlink.LinkSetUp(br)
}

// alias marks the lab's interfaces with its name, for a Down that has lost
// the lab's number.
func (l *Lab) alias() string { return "redoubt lab " + l.Name }

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}
}

// connect makes h's veth pair: one end on the bridge, the other eth0 in h's
// namespace with its address and a default route.
func (l *Lab) connect(h Host) error {
	ns, err := netns.GetFromName(l.netns(h))
	if err != nil {
		return err
	}
	defer ns.Close()
	br, err := netlink.LinkByName(l.Bridge())
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = l.veth(h), br.Attrs().Index
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("connect %s: %w", h.Name, err)
	}
	if err := errors.Join(netlink.LinkSetAlias(pair, l.alias()), netlink.LinkSetUp(pair)); err != nil {
		return err
	}
	in, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer in.Close()
	lo, err := in.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := in.LinkByName("eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		in.LinkSetUp(lo),
		in.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(l.Addr(h))}),
		in.LinkSetUp(eth),
		// Nothing lies behind the gateway, but replies of published ports and
		// the kernel's checks of source addresses want a default route.
		in.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: l.Gateway().AsSlice()}),
	)
}

// usedSubnets returns every IPv4 network this machine has a route or address in.
func usedSubnets() ([]netip.Prefix, error) {
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		if ok && ones > 0 {
			used = append(used, netip.PrefixFrom(a, ones))
		}
	}
	return used, nil
}

// removeLinks deletes the bridge and the outer ends of the hosts' pairs: what
// bears a name that only this lab's number makes, or the lab's alias.
func (l *Lab) removeLinks() error {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("rdtl%d-", l.Number)
	var errs []error
	for _, link := range links {
		name := link.Attrs().Name
		if name != l.Bridge() && !strings.HasPrefix(name, prefix) && link.Attrs().Alias != l.alias() {
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
			errs = append(errs, fmt.Errorf("remove interface %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// whole repeats a listing that was disturbed by a change of what it lists.
func whole[T any](list func() ([]T, error)) ([]T, error) {
	for {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
}

const netnsDir = "/run/netns"

// pinNamespace binds the namespace file at source (below /proc) to path.
func pinNamespace(source, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	return nil
}

// unpinNamespace undoes it; what is not there is no error.
func unpinNamespace(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue // mounted twice by a crash in between
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
