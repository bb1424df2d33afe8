package ingress

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// A node that has its IPv6 address and its way out from a router keeps both when
// it begins to route for tasks and when it ends that, and listens all the while.
func TestWhatRoutersSaidStays(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	netlab.Within(t, l.client, func() error { _, err := kernel.SetSysctl("0", "ipv6/conf/u0/accept_ra"); return err }) // it hears itself
	netlab.Within(t, n.ns, func() error { _, err := kernel.SetSysctl("0", "ipv6/conf/u0/dad_transmits"); return err })
	first := n.learn("2001:db8:1::/64")
	p := newPublished(n.task(1))
	l.publish(l.nodes, p)
	n.mustStillHave("with a port", first)
	l.mustAsk("tcp", "["+first.String()+"]:8080")
	second := n.learn("2001:db8:2::/64")
	l.mustAsk("tcp", "["+second.String()+"]:8080")
	if bad := n.declare(n.request(nil)); len(bad) > 0 {
		t.Error(bad)
	}
	n.mustStillHave("without ports", first, second)
	n.learn("2001:db8:3::/64")
}

// mustStillHave fails where an address or the way out is gone.
func (n *node) mustStillHave(when string, addrs ...netip.Addr) {
	n.lab.t.Helper()
	has, out := n.learned()
	if !out {
		n.lab.t.Errorf("%s there is no route that the router gave", when)
	}
	for _, a := range addrs {
		if !has[a] {
			n.lab.t.Errorf("%s it has %v, not %s", when, has, a)
		}
	}
}

// learn has the client be the router that gives this prefix and a way out, and
// returns the address that the node made of it.
func (n *node) learn(prefix string) (got netip.Addr) {
	t := n.lab.t
	t.Helper()
	within := netip.MustParsePrefix(prefix)
	say := n.lab.router(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); ; <-tick.C {
		has, out := n.learned()
		for a := range has {
			if out && within.Contains(a) {
				return a
			}
		}
		if time.Now().After(end) {
			t.Fatalf("nothing is learned of %s: it has %v, and a route: %v", prefix, has, out)
		}
		say()
	}
}

// learned are the node's usable addresses, and whether a router gave it a way out.
func (n *node) learned() (has map[netip.Addr]bool, out bool) {
	has = map[netip.Addr]bool{}
	netlab.Links(n.lab.t, n.ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		addrs, err := kernel.Whole(func() ([]netlink.Addr, error) { return h.AddrList(u, unix.AF_INET6) })
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				has[ip] = true
			}
		}
		if err != nil {
			return err
		}
		routes, err := kernel.Whole(func() ([]netlink.Route, error) { return h.RouteList(u, unix.AF_INET6) })
		for _, r := range routes {
			ones := 0
			if r.Dst != nil {
				ones, _ = r.Dst.Mask.Size()
			}
			out = out || ones == 0 && r.Protocol == unix.RTPROT_RA
		}
		return err
	})
	return has, out
}

// router returns what multicasts one Router Advertisement (RFC 4861) from the client.
func (l *lab) router(prefix netip.Prefix) func() {
	t := l.t
	t.Helper()
	msg := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08} // for half an hour; the kernel adds the checksum
	msg = append(msg, make([]byte, 8)...)
	msg = append(msg, 3, 4, byte(prefix.Bits()), 0xc0)
	msg = binary.BigEndian.AppendUint32(msg, 3600)
	msg = binary.BigEndian.AppendUint32(msg, 1800)
	msg = append(msg, 0, 0, 0, 0)
	msg = append(msg, prefix.Addr().AsSlice()...)
	var fd int
	netlab.Within(t, l.client, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6); err != nil {
			return err
		}
		if err := unix.BindToDevice(fd, "u0"); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
	})
	t.Cleanup(func() { unix.Close(fd) })
	netlab.Links(t, l.client, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: u.Attrs().Index, Dst: kernel.IPNet(prefix), Src: net.ParseIP(clientAddr6)})
	})
	all := netip.MustParseAddr("ff02::1").As16()
	return func() {
		// Its own address may not be ready yet: it is asked again.
		if err := unix.Sendto(fd, msg, 0, &unix.SockaddrInet6{Addr: all}); err != nil && err != unix.EADDRNOTAVAIL {
			t.Fatal(err)
		}
	}
}
