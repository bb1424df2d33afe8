package ingress

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// hardware is the MAC of an interface.
func hardware(t *testing.T, ns *os.File, link string) (mac [6]byte) {
	t.Helper()
	netlab.Within(t, ns, func() error {
		l, err := net.InterfaceByName(link)
		if err == nil {
			mac = [6]byte(l.HardwareAddr)
		}
		return err
	})
	return mac
}

// fragments is a datagram of IPv4 in two.
func fragments(frame []byte) [][]byte {
	const head, at = 14 + 20, 14 + 20 + 16
	first, second := slices.Clone(frame[:at]), append(slices.Clone(frame[:head]), frame[at:]...)
	for i, f := range [][]byte{first, second} {
		ip := f[14:]
		ip[2], ip[3] = byte((len(f)-14)>>8), byte(len(f)-14)
		ip[4], ip[5], ip[6], ip[7] = 0xab, 0xcd, 0x20, 0 // more follow
		if i == 1 {
			ip[6], ip[7] = 0, 16/8
		}
		ip[10], ip[11] = 0, 0
		sum := uint32(0)
		for k := 0; k < 20; k += 2 {
			sum += uint32(ip[k])<<8 | uint32(ip[k+1])
		}
		sum = sum>>16 + sum&0xffff
		sum = ^(sum + sum>>16)
		ip[10], ip[11] = byte(sum>>8), byte(sum)
	}
	return [][]byte{first, second}
}

// TestNobodyClaimsAnAddress is the table of decision 76: what arrives here and
// claims to be that is dropped there. The kernel is who drops where no counter of
// ours says so.
func TestNobodyClaimsAnAddress(t *testing.T) {
	const byKernel, byMesh = "kernel", "mesh"
	l := newLab(t, 2)
	entry, target := l.nodes[0], l.nodes[1]
	p := newPublished(target.task(1))
	l.publish([]*node{entry, target}, p)
	for _, at := range []string{entry.under(), entry.under6()} { // sessions are there, and all know each other
		l.mustAsk("udp", net.JoinHostPort(at, "5353"))
	}
	e := p.tasks[0].ear()
	four, six := netip.MustParsePrefix("10.255.0.0/16"), netip.MustParsePrefix("fd00:9::/64")
	client, wire := hardware(t, l.client, "u0"), hardware(t, entry.ns, "u0")

	type cell struct{ name, source, where string }
	ways := []struct {
		name  string
		on    *node // whose counters tell
		shoot func(source string, whole bool)
		cells []cell
	}{
		{"from the wire", entry, func(source string, whole bool) {
			to := entry.under()
			if strings.Contains(source, ":") {
				to = entry.under6()
			}
			frame := datagram(client, wire, source, to, 5353)
			frames := [][]byte{frame}
			if !whole {
				frames = fragments(frame)
			}
			for _, f := range frames {
				netlab.Within(t, l.client, func() error { return send("u0", f) })
			}
		}, []cell{
			{"a container of a private network", "10.200.1.7", droppedClaimed},
			{"6 a container of a private network", "fd00:8:0:1::7", droppedClaimed},
			{"the task itself", "10.255.0.1", droppedForeign},
			{"6 the task itself", "fd00:9::1", droppedForeign},
			{"the entry node's end", nodeEnd(four, entry.addr()).String(), droppedForeign},
			{"6 the entry node's end", nodeEnd(six, entry.addr()).String(), droppedForeign},
			{"a node in the mesh", "198.18.0.9", byMesh},
			{"this node in the mesh", entry.addr().String(), byMesh},
			{"loopback", "127.0.0.1", byKernel},
			{"6 loopback", "::1", byKernel},
			{"6 one wire's", "fe80::5", byKernel},
			{"this node", entry.under(), byKernel},
			{"6 this node", entry.under6(), droppedClaimed},
			{"everybody on the wire", "192.0.2.255", droppedClaimed},
			{"everybody", "255.255.255.255", byKernel},
			{"a group", "224.0.0.5", byKernel},
			{"6 a group", "ff02::1", byKernel},
			{"nobody", "0.0.0.0", byKernel},
			{"6 nobody", "::", byKernel},
			{"6 an IPv4 address", "::ffff:192.0.2.100", byKernel},
			{"class E", "240.0.0.1", droppedClaimed},
		}},
		{"from the node, by " + NodeLink, entry, func(source string, _ bool) {
			to := p.tasks[0].addr
			if strings.Contains(source, ":") {
				to = p.tasks[0].six
			}
			frame := datagram([6]byte(gatewayMAC), [6]byte(entranceMAC), source, to, 53)
			netlab.Within(t, entry.ns, func() error { return send(NodeLink, frame) })
		}, nil},
		{"from an entry node that was stolen", target, func(source string, _ bool) {
			to := p.tasks[0].addr
			if strings.Contains(source, ":") {
				to = p.tasks[0].six
			}
			entry.inject(uplinkName(p.vni), datagram(routerMAC(entry.addr()), routerMAC(target.addr()), source, to, 53))
		}, nil},
	}
	within := []cell{
		{"a container of a private network", "10.200.1.7", droppedSpoofed},
		{"6 a container of a private network", "fd00:8:0:1::7", droppedSpoofed},
		{"the task itself", "10.255.0.1", droppedSpoofed},
		{"6 the task itself", "fd00:9::1", droppedSpoofed},
		{"another node's end", nodeEnd(four, target.addr()).String(), droppedSpoofed},
		{"6 another node's end", nodeEnd(six, target.addr()).String(), droppedSpoofed},
		{"a node in the mesh", "198.18.0.9", droppedSpoofed},
		{"loopback", "127.0.0.1", droppedSpoofed},
		{"6 loopback", "::1", byKernel},
		{"6 one wire's", "fe80::5", droppedSpoofed},
		{"a group", "224.0.0.5", droppedSpoofed},
		{"6 a group", "ff02::1", byKernel},
		{"everybody", "255.255.255.255", droppedSpoofed},
		{"nobody", "0.0.0.0", droppedSpoofed},
		{"class E", "240.0.0.1", droppedSpoofed},
	}
	ways[1].cells, ways[2].cells = within, within
	for n, way := range ways {
		if n == 2 { // what it has no rules for any more
			entry.halt()
			netlab.Within(t, entry.inside, func() error { return removeTables(insideTables...) })
		}
		count := func(where string) uint64 {
			if where != byMesh {
				return way.on.in.State().GetDropped()[where]
			}
			s, err := way.on.f.State()
			if err != nil {
				t.Fatal(err)
			}
			return s.GetDropped()["mesh_spoofed"]
		}
		for _, c := range way.cells {
			before := count(c.where)
			way.shoot(c.source, true)
			if c.where != byKernel {
				way.on.waitFor(way.name+", "+c.name+": dropped as "+c.where, func() bool { return count(c.where) > before })
			}
		}
		if n == 0 {
			before := count(droppedClaimed)
			way.shoot("10.200.1.7", false)
			way.on.waitFor("in fragments: dropped", func() bool { return count(droppedClaimed) > before })
		}
		if e.hears(silence) {
			t.Errorf("%s: something arrived", way.name)
		}
		for _, source := range []string{"203.0.113.9", "2001:db8::64"} {
			way.shoot(source, true)
			if !e.hears(deadline) {
				t.Errorf("%s: the control from %s did not arrive", way.name, source)
			}
		}
		if n == 0 {
			way.shoot("203.0.113.9", false)
			if !e.hearsThat(canary[8:], deadline) { // it is divided again on its way out
				t.Error("the control in fragments did not arrive")
			}
		}
	}
}

// A LAN within a pool is not cut off, and its hosts are nobody's members. One that
// meets the subnet of tasks is not cut off either, and the node answers nothing.
func TestPoolsThatOverlapTheLAN(t *testing.T) {
	l := newLab(t, 2)
	entry, target := l.nodes[0], l.nodes[1]
	p := newPublished(target.task(1), entry.task(2))
	l.publish([]*node{entry, target}, p)
	give := func(ns *os.File, addrs ...string) {
		netlab.Links(t, ns, func(h *netlink.Handle) error {
			u, err := h.LinkByName("u0")
			for _, a := range addrs {
				if err == nil {
					err = h.AddrAdd(u, &netlink.Addr{IPNet: kernel.IPNet(netip.MustParsePrefix(a)), Flags: unix.IFA_F_NODAD})
				}
			}
			return err
		})
	}
	for i, x := range []*os.File{l.client, entry.ns} {
		last := string(rune('4' + i))
		give(x, "10.201.3."+last+"/24", "fd00:8:0:5::"+last+"/64")
	}
	entry.waitFor("noticed", func() bool { return len(entry.in.State().GetNotes()) == 2 })
	if s := entry.in.State(); s.GetNotes()[0] != "clients in 10.201.3.0/24 of u0 are seen as the node itself: the cluster's pool 10.200.0.0/13 overlaps that network" || !s.GetEntry() {
		t.Errorf("%v", s)
	}
	end4, end6 := nodeEnd(netip.MustParsePrefix("10.255.0.0/16"), entry.addr()), nodeEnd(netip.MustParsePrefix("fd00:9::/64"), entry.addr())
	for to, seen := range map[string]netip.Addr{"10.201.3.5": end4, "[fd00:8:0:5::5]": end6} {
		for _, from := range []*os.File{l.client, entry.ns} {
			for range 2 { // each task once
				answer, err := ask(from, "tcp", to+":8080", deadline)
				if _, saw, _ := strings.Cut(answer, " sees "); err != nil || saw != seen.String() {
					t.Errorf("%s: %q, %v", to, answer, err)
				}
			}
		}
	}
	l.mustAsk("tcp", net.JoinHostPort(entry.under(), "8080"))
	// Others of the pool, and the same by another way, are not believed.
	before := entry.in.State().GetDropped()[droppedClaimed]
	for _, source := range []string{"10.201.4.4", "fd00:8:0:6::4"} {
		to := entry.under()
		if strings.Contains(source, ":") {
			to = entry.under6()
		}
		frame := datagram(hardware(t, l.client, "u0"), hardware(t, entry.ns, "u0"), source, to, 5353)
		netlab.Within(t, l.client, func() error { return send("u0", frame) })
	}
	entry.waitFor("dropped", func() bool { return entry.in.State().GetDropped()[droppedClaimed] == before+2 })

	for i, x := range []*os.File{l.client, entry.ns} {
		give(x, "10.255.7."+string(rune('4'+i))+"/24")
	}
	entry.waitFor("out of it", func() bool { return !entry.in.State().GetEntry() })
	if s := entry.in.State(); s.GetError() != "" || len(s.GetNotes()) != 1 || !strings.HasPrefix(s.GetNotes()[0], "this node answers on no published ports: their pool overlaps its network 10.255.7.0/24 of u0") {
		t.Errorf("%v", s)
	}
	var lis net.Listener
	netlab.Within(t, entry.ns, func() (err error) { lis, err = net.Listen("tcp", "10.255.7.5:9000"); return err })
	defer lis.Close()
	netlab.Within(t, l.client, func() error {
		c, err := net.DialTimeout("tcp", "10.255.7.5:9000", deadline)
		if err == nil {
			c.Close()
		}
		return err
	})
	// Its own task is reached by the other entry nodes.
	if who := l.mustAsk("tcp", net.JoinHostPort(target.under(), "8080")); who != "10.255.0.2" {
		if who = l.mustAsk("tcp", net.JoinHostPort(target.under(), "8080")); who != "10.255.0.2" {
			t.Errorf("answered by %s", who)
		}
	}
}
