package e2e

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// rootedWorker: root of worker-3, which has a task on network other alone, writes
// to the WireGuard interface past all rules of its node. WireGuard takes it to
// worker-1, the only peer it has, or drops it.
func (f *siege) rootedWorker() {
	w1, w2, w3 := f.w1, f.w2, f.w3
	tunnel := openWire(f.t, w3.ns, w3.link)
	send := func(src netip.Addr, payload []byte) { tunnel.sendIP(udp(src, w1.mesh, 5555, vxlanPort, payload)) }
	inner := func(n *overlayNet, router netip.Addr, p []byte) { send(w3.mesh, carried(n, router, w1.mesh, p)) }
	lie := func(name string, p func(m []byte) []byte) shot {
		// Of its own network, from its own MAC: worker-1's network is to find out.
		return shot{name: name, at: []string{"worker-1", "worker-1/other"}, may: []string{"worker-3", "worker-3/other", "far"}, send: func(m []byte) { inner(f.other, w3.mesh, p(m)) }}
	}
	at := []string{"worker-1"}
	any4 := netip.IPv4Unspecified()
	shots := []shot{
		{name: "for a network it is not on", at: at, send: func(m []byte) { inner(f.back, w3.mesh, datagram(f.db, f.web, m)) }},
		{name: "for that network, as a node that is", at: at, send: func(m []byte) { inner(f.back, w2.mesh, datagram(f.db, f.web, m)) }},
		{name: "for that network, as worker-1", at: at, send: func(m []byte) { inner(f.back, w1.mesh, datagram(f.pal, f.web, m)) }},
		{name: "for its network, as another node", at: at, send: func(m []byte) { inner(f.other, w2.mesh, datagram(f.far, f.in, m)) }},
		{name: "from another node's mesh address", send: func(m []byte) {
			send(w2.mesh, carried(f.back, w2.mesh, w1.mesh, datagram(f.db, f.web, m)))
		}},
		{name: "from its underlay address", send: func(m []byte) {
			send(w3.under, carried(f.other, w3.mesh, w1.mesh, datagram(f.far, f.in, m)))
		}},
		{name: "in fragments that differ in their network", at: at, send: func(m []byte) {
			// The first has nothing but the head of UDP.
			d := udp(w3.mesh, w1.mesh, 5555, vxlanPort, carried(f.back, w3.mesh, w1.mesh, datagram(f.db, f.web, m)))[20:]
			for i, part := range [][]byte{d[:8], d[8:]} {
				tunnel.sendIP(fragment(w3.mesh, w1.mesh, unix.IPPROTO_UDP, 78, 8*i|1-i, part))
			}
		}},
		{name: "with IP options before UDP", at: at, send: func(m []byte) {
			p := udp(w3.mesh, w1.mesh, 5555, vxlanPort, carried(f.back, w3.mesh, w1.mesh, datagram(f.db, f.web, m)))
			tunnel.sendIP(withOptions(p))
		}},
		{name: "no VXLAN, to a port of the node", at: at, send: func(m []byte) { tunnel.sendIP(udp(w3.mesh, w1.mesh, 5555, 9999, m)) }},
		{name: "no VXLAN, to the peers' port", at: at, send: func(m []byte) { tunnel.sendIP(tcp(w3.mesh, w1.mesh, 5555, 7946, 2, m)) }},
		{name: "between what is sound, to be merged with it", at: at, send: func(m []byte) {
			flow := func(n *overlayNet, i uint32, m []byte) {
				inner(n, w3.mesh, segment(f.far.a4, f.in.a4, i*uint32(len(m)), m))
			}
			for i := range uint32(8) {
				text := m
				if i%2 == 0 {
					text = make([]byte, len(m))
				}
				flow([]*overlayNet{f.other, f.back}[i%2], i, text)
			}
		}},

		lie("as the neighbour of whom it speaks to", func(m []byte) []byte { return datagram(f.in, f.in, m) }),
		lie("as an endpoint of another network", func(m []byte) []byte { return datagram(f.db, f.in, m) }),
		lie("to an endpoint of another network", func(m []byte) []byte { return datagram(f.far, f.web, m) }),
		lie("as the gateway", func(m []byte) []byte { return udp(f.other.gateway4, f.in.a4, 7001, 7001, m) }),
		lie("as a virtual address", func(m []byte) []byte { return udp(f.other.vip["far"], f.in.a4, 7001, 7001, m) }),
		lie("as nobody", func(m []byte) []byte { return udp(any4, f.in.a4, 68, 67, m) }),
		lie("as 127.0.0.1", func(m []byte) []byte { return udp(netip.MustParseAddr("127.0.0.1"), f.in.a4, 7001, 7001, m) }),
		lie("to 127.0.0.11", func(m []byte) []byte { return udp(f.far.a4, netip.MustParseAddr("127.0.0.11"), 7001, 53, m) }),
		lie("to worker-1 itself", func(m []byte) []byte { return udp(f.far.a4, w1.under, 7001, 9999, m) }),
		lie("to worker-1 in the mesh", func(m []byte) []byte { return udp(f.far.a4, w1.mesh, 7001, vxlanPort, m) }),
		lie("to a container by its bridge", func(m []byte) []byte { return udp(f.far.a4, f.web.bridge, 7001, 7001, m) }),
		lie("to metadata", func(m []byte) []byte { return tcp(f.far.a4, netip.MustParseAddr("169.254.169.254"), 7001, 80, 2, m) }),
		lie("to everybody", func(m []byte) []byte { return udp(f.far.a4, broadcast4, 68, 67, m) }),
		lie("to all by multicast", func(m []byte) []byte { return udp(f.far.a4, netip.MustParseAddr("224.0.0.251"), 5353, 5353, m) }),
		lie("a router's redirect", func(m []byte) []byte {
			return icmp(f.other.gateway4, f.in.a4, 5, 1, [4]byte(f.far.a4.AsSlice()), datagram(f.in, f.far, m))
		}),
		lie("too big, of others", func(m []byte) []byte {
			return icmp(f.other.gateway4, f.in.a4, 3, 4, [4]byte{2: 2, 3: 64}, datagram(f.in, f.in, m))
		}),
		lie("IPv6, where there is none", func(m []byte) []byte { return udp(f.db.a6, f.web.a6, 7001, 7001, m) }),
		lie("a router's advertisement", func(m []byte) []byte {
			return icmp(netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), 134, 0, [4]byte{64, 0, 7, 8}, make([]byte, 8), m)
		}),
		lie("a neighbour's advertisement", func(m []byte) []byte {
			return icmp(netip.MustParseAddr("fe80::2"), netip.MustParseAddr("ff02::1"), 136, 0, [4]byte{0x20}, f.db.a6.AsSlice(), m)
		}),
		{name: "ARP in its own network", at: []string{"worker-1", "worker-1/other"}, send: func(m []byte) {
			send(w3.mesh, vxlan(f.other.vni, ethernet(routerMAC(w1.mesh), routerMAC(w3.mesh), unix.ETH_P_ARP,
				arp(2, routerMAC(w3.mesh), f.in.a4, routerMAC(w1.mesh), f.in.a4, m))))
		}},
		{name: "a VLAN in its own network", at: []string{"worker-1", "worker-1/other"}, send: func(m []byte) {
			send(w3.mesh, vxlan(f.other.vni, ethernet(routerMAC(w1.mesh), routerMAC(w3.mesh), 0x8100, []byte{0, 7, 8, 0}, datagram(f.db, f.in, m))))
		}},
		{name: "VXLAN in its own network", at: []string{"worker-1", "worker-1/other"}, send: func(m []byte) {
			inner(f.other, w3.mesh, udp(f.far.a4, w1.mesh, 5555, vxlanPort, carried(f.back, w2.mesh, w1.mesh, datagram(f.db, f.web, m))))
		}},
		{name: "a fragment of somebody else's packet", at: []string{"worker-1", "worker-1/other"}, send: func(m []byte) {
			inner(f.other, w3.mesh, fragment(f.db.a4, f.in.a4, unix.IPPROTO_UDP, 79, 8, m))
		}},
	}
	f.fire(shots, func(m []byte) { inner(f.other, w3.mesh, datagram(f.far, f.in, m)) }, "in")
}

// segment is one of TCP in the middle of a flow.
func segment(src, dst netip.Addr, seq uint32, text []byte) []byte {
	p := tcp(src, dst, 7001, 7002, 16, text)
	d := p[20:]
	binary.BigEndian.PutUint32(d[4:], seq)
	d[16], d[17] = 0, 0
	binary.BigEndian.PutUint16(d[16:], checksum(pseudo(src, dst, unix.IPPROTO_TCP, len(d)), d))
	return p
}

// withOptions is an IPv4 packet with eight bytes that mean nothing in its head.
func withOptions(p []byte) []byte {
	q := append([]byte{}, p[:20]...)
	q = append(q, 1, 1, 1, 1, 1, 1, 1, 1)
	q[0] = 0x47
	n := len(p) + 8
	q[2], q[3] = byte(n>>8), byte(n)
	q[10], q[11] = 0, 0
	sum := checksum(q)
	q[10], q[11] = byte(sum>>8), byte(sum)
	return append(q, p[20:]...)
}
