package rules

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Errors about one's own packets arrive, from a neighbour, from another node's
// endpoint, and behind a virtual address.
func TestErrorsArrive(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b, c := l.nodes[0].box("a"), l.nodes[0].box("b"), l.nodes[1].box("c")
	l.service("b")
	l.service("c")
	l.set()
	for _, to := range []netip.Addr{b.addr4, b.addr6, c.addr4, c.addr6, vip4(0), vip6(0), vip4(1), vip6(1)} {
		a.refused("udp", to, 9) // nobody listens
	}
}

// The way to an endpoint is narrow at the other node: the error that says so
// comes from that node's namespace, and gets through.
func TestTooBigArrives(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, c := l.nodes[0].box("a"), l.nodes[1].box("c")
	l.set()
	routes(t, l.nodes[1].ns, func(h *netlink.Handle) error {
		p, err := h.LinkByName(c.port)
		if err != nil {
			return err
		}
		return h.LinkSetMTU(p, 1300)
	})
	for _, to := range []netip.Addr{c.addr4, c.addr6} {
		var conn net.Conn
		within(t, a.ns, func() (err error) {
			conn, err = net.Dial("udp", netip.AddrPortFrom(to, 9).String())
			return err
		})
		defer conn.Close()
		raw, err := conn.(*net.UDPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		learnt := func() (mtu int) {
			raw.Control(func(fd uintptr) {
				if to.Is4() {
					mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
				} else {
					mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
				}
			})
			return mtu
		}
		e := a.ear()
		conn.Write(make([]byte, 1400))
		icmp := func(f []byte) bool {
			return to.Is4() && f[23] == unix.IPPROTO_ICMP && f[34] == 3 || to.Is6() && f[20] == unix.IPPROTO_ICMPV6 && f[54] == 2
		}
		if e.hears(1, deadline, func(f []byte) bool { return len(f) > 54 && icmp(f) }) != 1 {
			_, near := l.nodes[0].counters()
			_, far := l.nodes[1].counters()
			t.Errorf("%s: the error did not arrive: dropped %v here, %v there", to, near, far)
		}
		if got := learnt(); got != 1300 {
			t.Errorf("%s: MTU %d of the way, want 1300", to, got)
		}
	}
}

// Nobody ends another's flow, or narrows its way, by an error about it: neither a
// neighbour nor a node that was taken over, under its own address or another.
func TestErrorsAboutOthersAreDropped(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	a, m, c, r := l.nodes[0].box("a"), l.nodes[0].box("m"), l.nodes[1].box("c"), l.nodes[2].box("r")
	c.serve(80)
	l.set()
	for _, v6 := range []bool{false, true} {
		at := func(b *box) netip.Addr {
			if v6 {
				return b.addr6
			}
			return b.addr4
		}
		refuses, code, eth := byte(3), byte(3), uint16(unix.ETH_P_IP)
		gateway := gateway4
		if v6 {
			refuses, code, eth, gateway = 1, 4, unix.ETH_P_IPV6, gateway6
		}
		f := a.reaches("udp", at(c), 80)
		port := netip.MustParseAddrPort(f.LocalAddr().String()).Port()
		quoted := udp(at(a), at(c), port, 80, "?")
		forged := func(from netip.Addr) []byte { return icmpError(from, at(a), refuses, code, quoted) }
		m.sends(frame(m.mac, portMAC, eth, forged(at(m))), frame(m.mac, portMAC, eth, forged(at(c))), frame(m.mac, portMAC, eth, forged(gateway)))
		within(t, l.nodes[2].ns, func() error { // rooted
			fd, err := packetSocket("vx0")
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for _, from := range []netip.Addr{at(r), at(c), gateway} {
				if _, err := unix.Write(fd, frame(l.nodes[2].router, l.nodes[0].router, eth, forged(from))); err != nil {
					return err
				}
			}
			return nil
		})
		if err := f.ask(deadline); err != nil {
			t.Errorf("IPv6 %v: the flow was disturbed: %v", v6, err)
		}
		// The control: who it was for may refuse it, and so may its node.
		c.sends(frame(c.mac, portMAC, eth, forged(at(c))))
		if err := f.answer(deadline); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("IPv6 %v: %v, want a refusal", v6, err)
		}
	}
	if _, dropped := l.nodes[0].counters(); dropped[droppedError] != 12 {
		t.Errorf("%v, want 12 forged", dropped)
	}
}
