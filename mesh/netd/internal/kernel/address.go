package kernel

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PrefixOf is false for what is no address.
func PrefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

// IPNet is the same as the library wants it.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// OnlyAddress gives the link this IPv4 address and takes away any other.
func OnlyAddress(h *netlink.Handle, link netlink.Link, addr netip.Prefix) (changed bool, err error) {
	have, err := h.AddrList(link, unix.AF_INET)
	if err != nil {
		return false, err
	}
	found := false
	for _, a := range have {
		if p, ok := PrefixOf(a.IPNet); ok && p == addr {
			found = true
			continue
		}
		changed = true
		if err := h.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return changed, err
		}
	}
	if found {
		return changed, nil
	}
	return true, h.AddrAdd(link, &netlink.Addr{IPNet: IPNet(addr)})
}
