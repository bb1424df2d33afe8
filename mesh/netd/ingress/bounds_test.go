package ingress

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// opener is an Ethernet frame with what begins a connection: a SYN, or a datagram.
func opener(proto byte, from, to net.HardwareAddr, src, dst netip.Addr, sport, dport uint16) []byte {
	l4 := make([]byte, 20)
	if proto == unix.IPPROTO_UDP {
		l4 = append(make([]byte, 8), canary...)
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	} else {
		l4[12], l4[13], l4[14] = 5<<4, 2, 0xff
	}
	binary.BigEndian.PutUint16(l4, sport)
	binary.BigEndian.PutUint16(l4[2:], dport)
	sum := uint32(proto) + uint32(len(l4))
	add := func(b []byte) {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i])<<8 + uint32(append(b[:len(b):len(b)], 0)[i+1])
		}
	}
	folded := func() uint16 {
		for sum>>16 > 0 {
			sum = sum>>16 + sum&0xffff
		}
		return ^uint16(sum)
	}
	add(src.AsSlice())
	add(dst.AsSlice())
	add(l4)
	at := 16
	if proto == unix.IPPROTO_UDP {
		at = 6
	}
	binary.BigEndian.PutUint16(l4[at:], folded())
	frame := append(append([]byte{}, to...), from...)
	if src.Is6() {
		ip := make([]byte, 8, 40)
		ip[0], ip[5], ip[6], ip[7] = 0x60, byte(len(l4)), proto, 64
		return append(append(append(append(append(frame, 0x86, 0xdd), ip...), src.AsSlice()...), dst.AsSlice()...), l4...)
	}
	ip := make([]byte, 20)
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte(len(ip)+len(l4)), 64, proto
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	sum = 0
	add(ip)
	binary.BigEndian.PutUint16(ip[10:], folded())
	return append(append(append(frame, 8, 0), ip...), l4...)
}

func macOf(t *testing.T, ns *os.File, link string) (mac net.HardwareAddr) {
	t.Helper()
	netlab.Within(t, ns, func() error {
		i, err := net.InterfaceByName(link)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	})
	return mac
}

// connections are those in the namespace that began at an address of the prefix,
// and for how long the kernel remembers the one it remembers longest.
func connections(t *testing.T, ns *os.File, from netip.Prefix) (n int, longest uint32) {
	t.Helper()
	netlab.Links(t, ns, func(h *netlink.Handle) error {
		af := netlink.InetFamily(unix.AF_INET)
		if from.Addr().Is6() {
			af = unix.AF_INET6
		}
		all, err := h.ConntrackTableList(netlink.ConntrackTable, af)
		for _, c := range all {
			if a, ok := netip.AddrFromSlice(c.Forward.SrcIP); ok && from.Contains(a.Unmap()) {
				n++
				longest = max(longest, c.TimeOut)
			}
		}
		return err
	})
	return n, longest
}

// rebound puts other bounds in force.
func (n *node) rebound(b bounds) {
	n.in.mu.Lock()
	n.in.plan.kernel.bounds = b
	n.in.mu.Unlock()
}

// Whoever floods a published port, with first packets from all its ports, has a
// share of the entry node's table, and others are answered; and what is only begun
// is soon forgotten.
func TestClientsAreBounded(t *testing.T) {
	t.Parallel()
	const most, tries = 20, 100
	l := newLab(t, 2)
	entry, target := l.nodes[0], l.nodes[1]
	entry.rebound(bounds{client: bound{most, 10000, 10000}, entry: usualBounds.entry})
	l.publish([]*node{entry}, newPublished(target.task(1)))
	flooder := l.plug(101)
	from, to := macOf(t, flooder, "u0"), macOf(t, entry.ns, "u0")
	netlab.Links(t, entry.ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		_, other, _ := net.ParseCIDR("2001:db8:1::/64")
		return h.RouteAdd(&netlink.Route{LinkIndex: u.Attrs().Index, Dst: other})
	})
	for _, c := range []struct {
		name  string
		proto byte
		site  string
		src   func(i int) string
		dst   string
		port  uint16
	}{
		{"SYN", unix.IPPROTO_TCP, "192.0.2.201/32", func(int) string { return "192.0.2.201" }, entry.under(), 8080},
		{"UDP", unix.IPPROTO_UDP, "192.0.2.202/32", func(int) string { return "192.0.2.202" }, entry.under(), 5353},
		{"SYN of a /64", unix.IPPROTO_TCP, "2001:db8:1::/64", func(i int) string { return fmt.Sprintf("2001:db8:1::%x", 16+i) }, entry.under6(), 8080},
	} {
		before := entry.in.State().GetDropped()[droppedBound]
		netlab.Within(t, flooder, func() error {
			for i := range tries {
				f := opener(c.proto, from, to, netip.MustParseAddr(c.src(i)), netip.MustParseAddr(c.dst), uint16(20000+i), c.port)
				if err := send("u0", f); err != nil {
					return err
				}
			}
			return nil
		})
		entry.waitFor(c.name+" dropped", func() bool { return entry.in.State().GetDropped()[droppedBound]-before >= tries/2 })
		for _, ns := range []*os.File{entry.ns, entry.inside} {
			if n, longest := connections(t, ns, netip.MustParsePrefix(c.site)); n == 0 || n > most || longest > 15 {
				t.Errorf("%s: %d connections are in the table, for %d s: want 1 to %d, for 15 s", c.name, n, longest, most)
			}
		}
		for range most / 4 {
			l.mustAsk("tcp", net.JoinHostPort(entry.under(), "8080"))
			l.mustAsk("udp", net.JoinHostPort(entry.under(), "5353"))
			l.mustAsk("tcp", net.JoinHostPort(entry.under6(), "8080"))
		}
	}
}

// An entry node that is taken over by an attacker invents clients. It has its share
// of the table on the node of the task, and clients of others are answered.
func TestEntriesAreBounded(t *testing.T) {
	t.Parallel()
	const most, tries = 20, 100
	l := newLab(t, 3)
	target, stolen, entry := l.nodes[0], l.nodes[1], l.nodes[2]
	target.rebound(bounds{client: usualBounds.client, entry: bound{most, 10000, 10000}})
	p := newPublished(target.task(1))
	l.publish([]*node{stolen, entry}, p)
	l.mustAsk("udp", net.JoinHostPort(stolen.under(), "5353"))
	stolen.halt()
	netlab.Within(t, stolen.inside, func() error { return removeTables(insideTables...) })
	own, to := routerMAC(stolen.addr()), routerMAC(target.addr())
	for i := range tries {
		stolen.inject(uplinkName(p.vni), opener(unix.IPPROTO_TCP, own[:], to[:], netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), netip.MustParseAddr("10.255.0.1"), 7001, 80))
	}
	target.waitFor("dropped", func() bool { return target.in.State().GetDropped()[droppedBound] >= tries/2 })
	if n, longest := connections(t, target.inside, netip.MustParsePrefix("203.0.113.0/24")); n == 0 || n > most || longest > 15 {
		t.Errorf("%d connections are in the table, for %d s: want 1 to %d, for 15 s", n, longest, most)
	}
	for range most / 4 {
		l.mustAsk("tcp", net.JoinHostPort(entry.under(), "8080"))
		l.mustAsk("udp", net.JoinHostPort(entry.under(), "5353"))
	}
}
