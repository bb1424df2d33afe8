package e2e

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

var (
	loopback  = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	resolver  = netip.AddrFrom4([4]byte{127, 0, 0, 11})
	metadata  = netip.AddrFrom4([4]byte{169, 254, 169, 254})
	allNodes  = netip.MustParseAddr("ff02::1")
	linkLocal = netip.MustParseAddr("fe80::252:ff:fe00:1")
)

// container: root in the sandbox of web writes to its interfaces. That is more
// than a container can do, which has neither root's capabilities for networks
// nor a way to ask for them (TestHostileContainer).
func (f *siege) container() {
	f.byItsNetwork()
	f.byTheBridge()
}

// byItsNetwork: on ov0. Its own network's namespace on its node sees what is
// sent, and nobody else.
func (f *siege) byItsNetwork() {
	web, pal, db, w1, w2 := f.web, f.pal, f.db, f.w1, f.w2
	out := openWire(f.t, web.ns, "ov0")
	own := func(p []byte) { out.send(ipFrame(gatewayMAC, web.mac, p)) }
	at := []string{"worker-1/back"}
	shots := []shot{
		{name: "ov0 with a neighbour's MAC", send: func(m []byte) { out.send(ipFrame(gatewayMAC, pal.mac, datagram(web, db, m))) }},
		{name: "ov0 as a neighbour, whole", send: func(m []byte) { out.send(ipFrame(gatewayMAC, pal.mac, datagram(pal, db, m))) }},
		{name: "ov0 to a neighbour's MAC", send: func(m []byte) { out.send(ipFrame(pal.mac, web.mac, datagram(web, pal, m))) }},
		{name: "ov0 to everybody's MAC", send: func(m []byte) { out.send(ipFrame(everybody, web.mac, datagram(web, pal, m))) }},
		{name: "ov0 to a router's MAC", send: func(m []byte) { out.send(ipFrame(routerMAC(w2.mesh), web.mac, datagram(web, db, m))) }},
		{name: "ov0 a VLAN", send: func(m []byte) {
			out.send(ethernet(gatewayMAC, web.mac, 0x8100, []byte{0, 7, 8, 0}, datagram(web, db, m)))
		}},
		{name: "ov0 a protocol of its own", send: func(m []byte) { out.send(ethernet(everybody, web.mac, 0x88b5, m)) }},
		{name: "ov0 ARP for a neighbour", send: func(m []byte) {
			out.send(ethernet(everybody, web.mac, unix.ETH_P_ARP, arp(1, web.mac, web.a4, make([]byte, 6), pal.a4, m)))
		}},
		{name: "ov0 ARP that says it is the gateway", send: func(m []byte) {
			out.send(ethernet(everybody, web.mac, unix.ETH_P_ARP, arp(2, web.mac, f.back.gateway4, everybody, pal.a4, m)))
		}},
	}
	for name, p := range map[string]func(m []byte) []byte{
		"as a neighbour":                func(m []byte) []byte { return datagram(pal, db, m) },
		"as one of another node":        func(m []byte) []byte { return datagram(db, pal, m) },
		"as a neighbour, in IPv6":       func(m []byte) []byte { return udp(pal.a6, db.a6, 7001, 7001, m) },
		"as the gateway":                func(m []byte) []byte { return udp(f.back.gateway4, pal.a4, 7001, 7001, m) },
		"as a virtual address":          func(m []byte) []byte { return udp(f.back.vip["db"], pal.a4, 7001, 7001, m) },
		"as 127.0.0.1":                  func(m []byte) []byte { return udp(loopback, pal.a4, 7001, 7001, m) },
		"as its node":                   func(m []byte) []byte { return udp(w1.under, db.a4, 7001, 7001, m) },
		"as itself on the bridge":       func(m []byte) []byte { return udp(web.bridge, db.a4, 7001, 7001, m) },
		"a fragment as a neighbour":     func(m []byte) []byte { return fragment(pal.a4, db.a4, unix.IPPROTO_UDP, 9, 8, m) },
		"to another network":            func(m []byte) []byte { return datagram(web, f.in, m) },
		"to another network far away":   func(m []byte) []byte { return datagram(web, f.far, m) },
		"to a virtual address there":    func(m []byte) []byte { return tcp(web.a4, f.other.vip["in"], 7001, 80, 2, m) },
		"to its node":                   func(m []byte) []byte { return udp(web.a4, w1.under, 7001, 9999, m) },
		"to its node in the mesh":       func(m []byte) []byte { return udp(web.a4, w1.mesh, 7001, 9999, m) },
		"to another node's peers' port": func(m []byte) []byte { return tcp(web.a4, w2.under, 7001, 7946, 2, m) },
		"to a manager": func(m []byte) []byte {
			return tcp(web.a4, netip.MustParseAddr(f.host("manager-1").Address), 7001, 2377, 2, m)
		},
		"to the gateway's ports":       func(m []byte) []byte { return udp(web.a4, f.back.gateway4, 7001, 53, m) },
		"to the gateway by TCP":        func(m []byte) []byte { return tcp(web.a4, f.back.gateway4, 7001, 7946, 2, m) },
		"to a neighbour's bridge":      func(m []byte) []byte { return udp(web.a4, pal.bridge, 7001, 7001, m) },
		"to metadata":                  func(m []byte) []byte { return tcp(web.a4, metadata, 7001, 80, 2, m) },
		"to 127.0.0.1":                 func(m []byte) []byte { return udp(web.a4, loopback, 7001, 7001, m) },
		"to the resolver":              func(m []byte) []byte { return udp(web.a4, resolver, 7001, 53, m) },
		"to the stranger":              func(m []byte) []byte { return udp(web.a4, f.stranger.addr, 7001, 7001, m) },
		"to everybody":                 func(m []byte) []byte { return udp(web.a4, broadcast4, 7001, 7001, m) },
		"to the subnet's last address": func(m []byte) []byte { return udp(web.a4, last(f.back.gateway4), 7001, 7001, m) },
		"by multicast":                 func(m []byte) []byte { return udp(web.a4, netip.MustParseAddr("224.0.0.251"), 5353, 5353, m) },
		"asks for an address":          func(m []byte) []byte { return udp(netip.IPv4Unspecified(), broadcast4, 68, 67, m) },
		"gives an address":             func(m []byte) []byte { return udp(web.a4, broadcast4, 67, 68, m) },
		"VXLAN to its node": func(m []byte) []byte {
			return udp(web.a4, w1.mesh, 5555, vxlanPort, carried(f.other, f.w3.mesh, w1.mesh, datagram(f.far, f.in, m)))
		},
		"VXLAN to another": func(m []byte) []byte {
			return udp(web.a4, w2.mesh, 5555, vxlanPort, carried(f.back, w1.mesh, w2.mesh, datagram(pal, db, m)))
		},
		"a redirect": func(m []byte) []byte {
			return icmp(f.back.gateway4, pal.a4, 5, 1, [4]byte(web.a4.AsSlice()), datagram(pal, db, m))
		},
		"a redirect as itself": func(m []byte) []byte {
			return icmp(web.a4, pal.a4, 5, 1, [4]byte(web.a4.AsSlice()), datagram(pal, db, m))
		},
		"too big, of others' flows":     func(m []byte) []byte { return icmp(web.a4, pal.a4, 3, 4, [4]byte{2: 2, 3: 64}, datagram(pal, db, m)) },
		"unreachable, of others' flows": func(m []byte) []byte { return icmp(web.a4, db.a4, 3, 1, [4]byte{}, datagram(db, pal, m)) },
		"a router's advertisement": func(m []byte) []byte {
			return icmp(linkLocal, allNodes, 134, 0, [4]byte{64, 0, 7, 8}, make([]byte, 8), m)
		},
		"the same as itself":          func(m []byte) []byte { return icmp(web.a6, allNodes, 134, 0, [4]byte{64, 0, 7, 8}, make([]byte, 8), m) },
		"a neighbour's advertisement": func(m []byte) []byte { return icmp(web.a6, pal.a6, 136, 0, [4]byte{0x60}, db.a6.AsSlice(), m) },
		"a neighbour's solicitation":  func(m []byte) []byte { return icmp(web.a6, pal.a6, 135, 0, [4]byte{}, pal.a6.AsSlice(), m) },
		"an ICMPv6 redirect": func(m []byte) []byte {
			return icmp(linkLocal, pal.a6, 137, 0, [4]byte{}, web.a6.AsSlice(), db.a6.AsSlice(), m)
		},
	} {
		shots = append(shots, shot{name: "ov0 " + name, send: func(m []byte) { own(p(m)) }})
	}
	for i := range shots {
		shots[i].at, shots[i].may = at, []string{"web"}
	}
	f.fire(shots, func(m []byte) { own(datagram(web, db, m)) }, "db")
}

// last is the last address of a gateway's /24.
func last(a netip.Addr) netip.Addr {
	b := a.As4()
	b[3] = 255
	return netip.AddrFrom4(b)
}

// byTheBridge: on eth0, the way out. The stranger plays the cloud's metadata:
// the node can reach it, and the container could.
func (f *siege) byTheBridge() {
	web, pal, w1, w2 := f.web, f.pal, f.w1, f.w2
	f.inHost("worker-1", "ip", "route", "add", metadata.String()+"/32", "via", f.stranger.addr.String())
	within(f.t, w1.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, mark("the node asks metadata"), 0, &unix.SockaddrInet4{Port: 80, Addr: metadata.As4()})
	})
	f.ears["stranger"].waits("the node asks metadata", 1, nil)

	out := openWire(f.t, web.ns, "eth0")
	gateway := macOf(f.t, w1.ns, "rdt0")
	palMAC := macOf(f.t, pal.ns, "eth0")
	bridge := netip.MustParsePrefix(web.bridge.String() + "/20").Masked().Addr().Next()
	own := func(p []byte) { out.send(ipFrame(gateway, out.mac, p)) }
	shots := []shot{
		{name: "eth0 to a neighbour's MAC", send: func(m []byte) { out.send(ipFrame(palMAC, out.mac, udp(web.bridge, pal.bridge, 7001, 7001, m))) }},
		{name: "eth0 with a neighbour's MAC", send: func(m []byte) { out.send(ipFrame(gateway, palMAC, udp(pal.bridge, f.stranger.addr, 7001, 7001, m))) }},
		{name: "eth0 ARP that says it is the gateway", send: func(m []byte) {
			out.send(ethernet(everybody, out.mac, unix.ETH_P_ARP, arp(2, out.mac, bridge, everybody, pal.bridge, m)))
		}},
		{name: "eth0 a router's advertisement", send: func(m []byte) {
			out.send(ipFrame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, out.mac, icmp(linkLocal, allNodes, 134, 0, [4]byte{64, 0, 7, 8}, make([]byte, 8), m)))
		}},
		{name: "eth0 a VLAN", send: func(m []byte) {
			out.send(ethernet(gateway, out.mac, 0x8100, []byte{0, 7, 8, 0}, udp(web.bridge, f.stranger.addr, 7001, 7001, m)))
		}},
		{name: "eth0 gives an address", send: func(m []byte) { out.send(ipFrame(everybody, out.mac, udp(web.bridge, broadcast4, 67, 68, m))) }},
	}
	forged := func(n *overlayNet, from, to *meshHost, p []byte) []byte { return carried(n, from.mesh, to.mesh, p) }
	for name, p := range map[string]func(m []byte) []byte{
		"to a neighbour":             func(m []byte) []byte { return udp(web.bridge, pal.bridge, 7001, 7001, m) },
		"as a neighbour":             func(m []byte) []byte { return udp(pal.bridge, f.stranger.addr, 7001, 7001, m) },
		"as its node":                func(m []byte) []byte { return udp(w1.under, w2.under, 7001, 7001, m) },
		"as itself on the overlay":   func(m []byte) []byte { return udp(web.a4, f.stranger.addr, 7001, 7001, m) },
		"to an overlay address":      func(m []byte) []byte { return udp(web.bridge, pal.a4, 7001, 7001, m) },
		"to another network":         func(m []byte) []byte { return udp(web.bridge, f.in.a4, 7001, 7001, m) },
		"from a neighbour's overlay": func(m []byte) []byte { return datagram(pal, f.db, m) },
		"to its node":                func(m []byte) []byte { return udp(web.bridge, w1.under, 7001, 9999, m) },
		"to its node's bridge":       func(m []byte) []byte { return udp(web.bridge, bridge, 7001, 53, m) },
		"to its node in the mesh": func(m []byte) []byte {
			return udp(web.bridge, w1.mesh, 7001, vxlanPort, forged(f.other, f.w3, w1, datagram(f.far, f.in, m)))
		},
		"VXLAN to its node": func(m []byte) []byte {
			return udp(web.bridge, w1.under, 7001, vxlanPort, forged(f.other, f.w3, w1, datagram(f.far, f.in, m)))
		},
		"VXLAN into the mesh": func(m []byte) []byte {
			return udp(web.bridge, w2.mesh, 7001, vxlanPort, forged(f.back, w1, w2, datagram(pal, f.db, m)))
		},
		"VXLAN as its node": func(m []byte) []byte {
			return udp(w1.mesh, w2.mesh, 7001, vxlanPort, forged(f.back, w1, w2, datagram(pal, f.db, m)))
		},
		"VXLAN to another node": func(m []byte) []byte {
			return udp(web.bridge, w2.under, 7001, vxlanPort, forged(f.back, w1, w2, datagram(pal, f.db, m)))
		},
		"to another node in the mesh":   func(m []byte) []byte { return tcp(web.bridge, w2.mesh, 7001, 7946, 2, m) },
		"to another node's peers' port": func(m []byte) []byte { return tcp(web.bridge, w2.under, 7001, 7946, 2, m) },
		"to a manager": func(m []byte) []byte {
			return tcp(web.bridge, netip.MustParseAddr(f.host("manager-1").Address), 7001, 2377, 2, m)
		},
		"to metadata":         func(m []byte) []byte { return tcp(web.bridge, metadata, 7001, 80, 2, m) },
		"to metadata's names": func(m []byte) []byte { return udp(web.bridge, metadata, 7001, 53, m) },
		"to 127.0.0.1":        func(m []byte) []byte { return udp(web.bridge, loopback, 7001, 9999, m) },
		"to the resolver":     func(m []byte) []byte { return udp(web.bridge, resolver, 7001, 53, m) },
		"as 127.0.0.1":        func(m []byte) []byte { return udp(loopback, w1.under, 7001, 9999, m) },
		"by multicast":        func(m []byte) []byte { return udp(web.bridge, netip.MustParseAddr("224.0.0.251"), 5353, 5353, m) },
	} {
		shots = append(shots, shot{name: "eth0 " + name, send: func(m []byte) { own(p(m)) }})
	}
	for i := range shots {
		shots[i].at = []string{"worker-1"}
	}
	f.fire(shots, func(m []byte) { own(udp(web.bridge, f.stranger.addr, 7001, 7001, m)) }, "stranger")
}

// process: whoever runs on a node, as no matter whom, has sockets. They are no
// way into the networks that the node is on.
func (f *siege) process() {
	w1, w2, db, pal := f.w1, f.w2, f.db, f.pal
	var fd int
	within(f.t, w1.ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	defer unix.Close(fd)
	send := func(to netip.Addr, port int, p []byte) {
		err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Port: port, Addr: to.As4()})
		if err != nil && err != unix.EPERM {
			f.t.Fatal(err)
		}
	}
	forged := func(m []byte) []byte { return carried(f.back, w1.mesh, w2.mesh, datagram(pal, db, m)) }
	shots := []shot{
		{name: "process: VXLAN into the tunnel", send: func(m []byte) { send(w2.mesh, vxlanPort, forged(m)) }},
		{name: "process: VXLAN on the wire", send: func(m []byte) { send(w2.under, vxlanPort, forged(m)) }},
		{name: "process: VXLAN to its own node", send: func(m []byte) {
			send(w1.mesh, vxlanPort, carried(f.back, w2.mesh, w1.mesh, datagram(db, pal, m)))
		}},
		{name: "process: VXLAN to 127.0.0.1", send: func(m []byte) {
			send(loopback, vxlanPort, carried(f.back, w2.mesh, w1.mesh, datagram(db, pal, m)))
		}},
		{name: "process: to a node in the mesh", send: func(m []byte) { send(w2.mesh, 9999, m) }},
	}
	f.fire(shots, f.speaks(f.web, db), "db")
}
