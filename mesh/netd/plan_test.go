package netd

import (
	"net"
	"net/netip"
)

func mustIPNet(s string) *net.IPNet { return ipNet(netip.MustParsePrefix(s)) }
