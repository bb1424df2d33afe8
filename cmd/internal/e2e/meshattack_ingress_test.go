package e2e

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// published: web answers on port 8099 of every node, by an address of its own
// that nobody else has to do with. Whoever speaks to that address itself, or as
// it, gets nowhere; nor does worker-3, which may send what clients say to it, and
// to that one port. Nobody who comes to the port is a member of a private network.
func (f *siege) published() {
	t, w1, w2, w3, me := f.t, f.w1, f.w2, f.w3, f.stranger
	const inside = "worker-1/ingress"
	ns := w1.pinned + "/net-ingress"
	f.ears[inside] = listen(t, inside, ns)
	defer delete(f.ears, inside)
	var ingress netip.Addr
	for _, field := range strings.Fields(f.inHost("worker-1", "nsenter", "--net="+w1.RunDir+"/netns/"+f.web.task, "--", "ip", "-4", "-br", "addr", "show", "ing0")) {
		if p, err := netip.ParsePrefix(field); err == nil {
			ingress = p.Addr()
		}
	}
	vx := regexp.MustCompile(`vx([0-9]+)`).FindStringSubmatch(f.inHost("worker-1", "nsenter", "--net="+w1.RunDir+"/netns/net-ingress", "--", "ip", "-br", "link"))
	if !ingress.IsValid() || vx == nil {
		t.Fatal("web has no published port")
	}
	vni, err := strconv.Atoi(vx[1])
	if err != nil {
		t.Fatal(err)
	}
	syn := func(src, dst netip.Addr, port uint16, m []byte) []byte {
		f.sources++ // each begins a connection of its own
		return tcp(src, dst, f.sources, port, 2, m)
	}
	at := func(ears ...string) []string { return ears }
	wire := func(name string, to *meshHost, p func(m []byte) []byte, ears ...string) shot {
		return shot{name: "published: " + name, at: at(ears...), may: at("stranger"), send: func(m []byte) { me.out.send(ipFrame(to.mac, me.out.mac, p(m))) }}
	}
	tunnel := openWire(t, w3.ns, w3.link)
	rooted := func(name string, router netip.Addr, p func(m []byte) []byte, ears ...string) shot {
		n := &overlayNet{vni: uint32(vni)}
		return shot{name: "published: " + name, at: at(ears...), may: at("worker-3", "worker-3/other", "stranger"), send: func(m []byte) {
			tunnel.sendIP(udp(w3.mesh, w1.mesh, 5555, vxlanPort, carried(n, router, w1.mesh, p(m))))
		}}
	}
	box, palBox := openWire(t, f.pal.ns, "eth0"), openWire(t, f.pal.ns, "ov0")
	gateway := macOf(t, w1.ns, "rdt0")
	shots := []shot{
		wire("its address, on its node", w1, func(m []byte) []byte { return syn(me.addr, ingress, 80, m) }, "worker-1"),
		wire("its address, by another node", w3, func(m []byte) []byte { return syn(me.addr, ingress, 80, m) }, "worker-3"),
		wire("another port of its address", w1, func(m []byte) []byte { return udp(me.addr, ingress, 7001, 7001, m) }, "worker-1"),
		wire("the target's port on the node", w1, func(m []byte) []byte { return syn(me.addr, w1.under, 80, m) }, "worker-1"),
		wire("in UDP", w1, func(m []byte) []byte { return udp(me.addr, w1.under, 7001, 8099, m) }, "worker-1"),
		wire("as itself", w3, func(m []byte) []byte { return syn(ingress, w3.under, 8099, m) }, "worker-3"),
		wire("as a member of a private network", w3, func(m []byte) []byte { return syn(f.db.a4, w3.under, 8099, m) }, "worker-3"),
		wire("as a member, at the node of the task", w1, func(m []byte) []byte { return syn(f.pal.a4, w1.under, 8099, m) }, "worker-1"),
		wire("as a member of another network", w3, func(m []byte) []byte { return syn(f.in.a4, w3.under, 8099, m) }, "worker-3"),
		wire("as a member of a network elsewhere", w2, func(m []byte) []byte { return syn(netip.MustParseAddr(elsewhere).Next(), w2.under, 8099, m) }, "worker-2"),
		wire("as a container by its bridge", w1, func(m []byte) []byte { return syn(f.pal.bridge, w1.under, 8099, m) }, "worker-1"),
		wire("as another node's container", w3, func(m []byte) []byte { return syn(f.pal.bridge, w3.under, 8099, m) }, "worker-3"),
		wire("to a container by its bridge", w1, func(m []byte) []byte { return udp(me.addr, f.pal.bridge, 7001, 7001, m) }, "worker-1"),
		wire("as a node in the mesh", w3, func(m []byte) []byte { return syn(w1.mesh, w3.under, 8099, m) }, "worker-3"),
		wire("as 127.0.0.1", w3, func(m []byte) []byte { return syn(loopback, w3.under, 8099, m) }, "worker-3"),
		wire("to 127.0.0.1", w3, func(m []byte) []byte { return syn(me.addr, loopback, 8099, m) }, "worker-3"),
		{name: "published: its address, from the bridge", at: at("worker-1"), send: func(m []byte) {
			box.send(ipFrame(gateway, box.mac, syn(f.pal.bridge, ingress, 80, m)))
		}},
		{name: "published: another port, from the bridge", at: at("worker-1"), send: func(m []byte) {
			box.send(ipFrame(gateway, box.mac, udp(f.pal.bridge, ingress, 7001, 7001, m)))
		}},
		{name: "published: its address, from an overlay", at: at("worker-1/back"), may: at("pal"), send: func(m []byte) {
			palBox.send(ipFrame(gatewayMAC, palBox.mac, syn(f.pal.a4, ingress, 80, m)))
		}},
		// Only worker-1 has the task: it is to refuse what is not for its port.
		rooted("another port, from an entry node", w3.mesh, func(m []byte) []byte { return udp(me.addr, ingress, 7001, 7001, m) }, "worker-1", inside),
		rooted("another task, from an entry node", w3.mesh, func(m []byte) []byte { return syn(me.addr, f.pal.a4, 80, m) }, "worker-1", inside),
		rooted("an internal network, from an entry node", w3.mesh, func(m []byte) []byte { return syn(me.addr, f.in.a4, 80, m) }, "worker-1", inside),
		rooted("a node, from an entry node", w3.mesh, func(m []byte) []byte { return udp(me.addr, w1.under, 7001, 9999, m) }, "worker-1", inside),
		rooted("through the node, from an entry node", w3.mesh, func(m []byte) []byte { return udp(w3.under, w2.under, 7001, 9999, m) }, "worker-1", inside),
		rooted("metadata, from an entry node", w3.mesh, func(m []byte) []byte { return syn(me.addr, metadata, 80, m) }, "worker-1", inside),
		rooted("as another entry node", w2.mesh, func(m []byte) []byte { return syn(me.addr, ingress, 80, m) }, "worker-1"),
		rooted("as the task itself", w3.mesh, func(m []byte) []byte { return syn(ingress, ingress, 80, m) }, "worker-1", inside),
		rooted("as a member of a private network, from an entry node", w3.mesh, func(m []byte) []byte { return syn(f.db.a4, ingress, 80, m) }, "worker-1", inside),
		rooted("as 127.0.0.1, from an entry node", w3.mesh, func(m []byte) []byte { return syn(loopback, ingress, 80, m) }, "worker-1", inside),
		rooted("an answer that nobody asked for", w3.mesh, func(m []byte) []byte { return tcp(me.addr, ingress, 80, 4444, 18, m) }, "worker-1", inside),
		{name: "published: ARP, from an entry node", at: at("worker-1", inside), send: func(m []byte) {
			tunnel.sendIP(udp(w3.mesh, w1.mesh, 5555, vxlanPort, vxlan(uint32(vni), ethernet(routerMAC(w1.mesh), routerMAC(w3.mesh), unix.ETH_P_ARP,
				arp(2, routerMAC(w3.mesh), ingress, routerMAC(w1.mesh), ingress, m)))))
		}},
	}
	f.fire(shots, func(m []byte) { me.out.send(ipFrame(w3.mac, me.out.mac, syn(me.addr, w3.under, 8099, m))) }, "web")
}
