package ingress

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// extended is a datagram with something between its header and the port: options of
// IPv4, or an extension header of IPv6.
func extended(frame []byte, next byte, between []byte) []byte {
	if etherType(frame) == 0x0800 {
		out := slices.Concat(frame[:34], between, frame[34:])
		ip := out[14:]
		ip[0] = 0x40 | byte(5+len(between)/4)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		ip[10], ip[11] = 0, 0
		sum := uint32(0)
		for i := 0; i < 20+len(between); i += 2 {
			sum += uint32(ip[i])<<8 | uint32(ip[i+1])
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
		return out
	}
	out := slices.Concat(frame[:54], between, frame[54:])
	out[54], out[20] = out[20], next
	binary.BigEndian.PutUint16(out[18:], uint16(len(out)-54))
	return out
}

// divided is a datagram of IPv6 in two fragments.
func divided(frame []byte) [][]byte {
	rest := slices.Clone(frame[54:])
	part := func(off uint16, more uint16, data []byte) []byte {
		f := append(slices.Clone(frame[:54]), frame[20], 0, byte((off|more)>>8), byte(off|more), 0, 0, 0xab, byte(len(rest)))
		f = append(f, data...)
		f[20] = 44
		binary.BigEndian.PutUint16(f[18:], uint16(len(f)-54))
		return f
	}
	return [][]byte{part(0, 1, rest[:16]), part(16, 0, rest[16:])}
}

// TestNobodyHidesAnAddress: what a client claims to be is seen behind options and
// extension headers, and in fragments, whole or turned round.
func TestNobodyHidesAnAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	entry, target := l.nodes[0], l.nodes[1]
	p := newPublished(target.task(1))
	l.publish([]*node{entry, target}, p)
	for _, at := range []string{entry.under(), entry.under6()} { // sessions are there, and all know each other
		l.mustAsk("udp", net.JoinHostPort(at, "5353"))
	}
	e := p.tasks[0].ear()
	client, wire := hardware(t, l.client, "u0"), hardware(t, entry.ns, "u0")
	own, other := routerMAC(entry.addr()), routerMAC(target.addr())
	// forms are those of one datagram, each with the end that it has on its way.
	forms := func(frame []byte) (all [][][]byte) {
		if etherType(frame) == 0x0800 {
			for _, options := range [][]byte{{1, 1, 1, 1}, {148, 4, 0, 0}, {7, 7, 4, 0, 0, 0, 0, 0}} { // nothing, router alert, record route
				all = append(all, [][]byte{extended(frame, 0, options)})
			}
			return all
		}
		pad, home := []byte{0, 0, 1, 4, 0, 0, 0, 0}, append([]byte{0, 2, 1, 2, 0, 0, 201, 16}, netip.MustParseAddr("fd00:8:0:1::8").AsSlice()...)
		for _, x := range []struct {
			next byte
			head []byte
		}{{0, pad}, {60, pad}, {60, home}, {43, make([]byte, 8)}, {44, []byte{0, 0, 0, 0, 1, 2, 3, 4}}} { // hop by hop, destination, routing, fragment
			all = append(all, [][]byte{extended(frame, x.next, x.head)})
		}
		parts := divided(frame)
		return append(all, parts, [][]byte{parts[1], parts[0]})
	}
	for n, way := range []struct {
		name  string
		shoot func(frame []byte)
		make  func(source string) []byte
	}{
		{"from the wire", func(f []byte) { netlab.Within(t, l.client, func() error { return send("u0", f) }) }, func(source string) []byte {
			to := entry.under()
			if netip.MustParseAddr(source).Is6() {
				to = entry.under6()
			}
			return datagram(client, wire, source, to, 5353)
		}},
		{"from an entry node that was stolen", func(f []byte) { entry.inject(uplinkName(p.vni), f) }, func(source string) []byte {
			to := p.tasks[0].addr
			if netip.MustParseAddr(source).Is6() {
				to = p.tasks[0].six
			}
			return datagram(own, other, source, to, 53)
		}},
	} {
		if n == 1 { // what it has no rules for any more
			entry.halt()
			netlab.Within(t, entry.inside, func() error { return removeTables(insideTables...) })
		}
		for _, source := range []string{"10.200.1.7", "10.255.0.1", "fd00:8:0:1::7", "fd00:9::1", "::10.200.1.7"} {
			for _, frames := range forms(way.make(source)) {
				for _, f := range frames {
					way.shoot(f)
				}
			}
		}
		if e.hearsThat(canary[8:], silence) {
			t.Errorf("%s: something arrived", way.name)
		}
		for _, source := range []string{"203.0.113.9", "2001:db8::64"} {
			for i, frames := range forms(way.make(source)) {
				for _, f := range frames {
					way.shoot(f)
				}
				if !e.hearsThat(canary[8:], deadline) {
					t.Errorf("%s: control %d from %s did not arrive", way.name, i, source)
				}
			}
		}
		for e.hearsThat(canary[8:], silence) { // what the task's kernel says of some of them quotes them
		}
	}
}
