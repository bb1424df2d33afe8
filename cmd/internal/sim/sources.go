package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
)

// nets is what the sources of runs beside each other are cut from: addresses that
// providers share (RFC 6598), as those for measurements are the mesh's. Each run takes one of 15
// networks of 8,192 addresses.
var nets = netip.MustParsePrefix("100.64.0.0/15")

const sourceBits = 13

// sources gives this machine a network of addresses of its own, so that each
// node comes from another, as nodes do: a manager paces what comes from one.
type sources struct{ route *netlink.Route }

func newSources() (*sources, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	first := nets.Addr().As4()
	for i := range 15 {
		base := first
		base[2] = byte(i << (sourceBits - 8) & 0xff)
		base[1] += byte(i >> (16 - sourceBits))
		r := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Type: syscall.RTN_LOCAL, Table: syscall.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: net.IP(base[:]), Mask: net.CIDRMask(32-sourceBits, 32)},
		}
		err := netlink.RouteAdd(r)
		if errors.Is(err, syscall.EEXIST) {
			continue // another run's
		}
		if err != nil {
			return nil, fmt.Errorf("give this machine the addresses %s: %w", r.Dst, err)
		}
		return &sources{r}, nil
	}
	return nil, errors.New("no network of addresses is free: other simulations run, or left their route behind (`ip route show table local`)")
}

// addr is the address of the nth node; after 8,190 they come again.
func (s *sources) addr(n int) netip.Addr {
	a := [4]byte(s.route.Dst.IP.To4())
	n = n%(1<<sourceBits-2) + 1
	a[2], a[3] = a[2]+byte(n>>8), byte(n)
	return netip.AddrFrom4(a)
}

func (s *sources) close() error { return netlink.RouteDel(s.route) }
