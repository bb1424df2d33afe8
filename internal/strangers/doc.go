// Package strangers bounds what those cost who are not known yet: whoever opens a
// connection to a port of a node, until its certificate has said who it is.
//
//	Crowd  how many there are at one stage; the newest take the place of the oldest
//	Pace   how often one source may begin; who comes too early waits
//	Turns  how many handshakes compute at a time
//	Peek   what a ClientHello says, before anything is answered
//
// A source is an IPv4 address or an IPv6 /64. The package refuses nobody by who
// it is and reads nothing but the ClientHello; the ports, which use it, do the rest
// (docs/decisions/0018-what-strangers-cost.md).
package strangers

import (
	"net"
	"net/netip"
)

// SourceOf is the address that a connection came from.
func SourceOf(a net.Addr) (netip.Addr, bool) {
	if a == nil {
		return netip.Addr{}, false
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}, false
	}
	return ap.Addr().Unmap().WithZone(""), true
}

// SourceKey is what is measured together: an IPv4 address, an IPv6 /64.
func SourceKey(a netip.Addr) string {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return a.String()
	}
	return p.String()
}

// Key is SourceKey of where a connection came from.
func Key(a net.Addr) string {
	if ip, ok := SourceOf(a); ok {
		return SourceKey(ip)
	}
	return a.String()
}
