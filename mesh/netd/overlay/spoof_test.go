package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

const canary = "CANARY-51c0ffee"

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// datagram is an IP packet with a UDP datagram from and to port 7001.
func datagram(src, dst string) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	udp := binary.BigEndian.AppendUint16(nil, 7001)
	udp = binary.BigEndian.AppendUint16(udp, 7001)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(canary)))
	udp = append(append(udp, 0, 0), canary...)
	if s.Is6() {
		return ip6(unix.IPPROTO_UDP, s, d, udp)
	}
	ip := make([]byte, 20)
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte(20+len(udp)), 64, unix.IPPROTO_UDP
	copy(ip[12:], s.AsSlice())
	copy(ip[16:], d.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(ip, udp...)
}

// ip6 fills in the checksum of what is carried: at 6 of UDP, at 2 of ICMPv6.
func ip6(proto byte, src, dst netip.Addr, payload []byte) []byte {
	hops := byte(255)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 0, 0, byte(len(payload)), 0, 0, 0, proto)
	at := 6
	if proto == unix.IPPROTO_ICMPV6 {
		at = 2
	}
	binary.BigEndian.PutUint16(payload[at:], checksum(append(pseudo, payload...)))
	ip := append([]byte{0x60, 0, 0, 0, 0, byte(len(payload)), proto, hops}, append(src.AsSlice(), dst.AsSlice()...)...)
	return append(ip, payload...)
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}

func ethernet(to, from []byte, kind uint16, payload []byte) []byte {
	b := append(append([]byte{}, to...), from...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// An ear counts frames that come in by an interface.
type ear struct{ fd int }

func listen(t testing.TB, ns *os.File, link string) *ear {
	t.Helper()
	e := &ear{}
	within(t, ns, func() (err error) {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(e.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Index})
	})
	t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// hears counts all frames, and those with the canary, until the time is over or
// enough have come.
func (e *ear) hears(patience time.Duration, enough int) (all, canaries int) {
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(patience); canaries < enough; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		k, from, err := unix.Recvfrom(e.fd, buf, 0)
		if l, ok := from.(*unix.SockaddrLinklayer); err != nil || ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		all++
		if bytes.Contains(buf[:k], []byte(canary)) {
			canaries++
		}
	}
	return all, canaries
}

// send puts a frame on the sandbox's interface.
func (b *box) send(frames ...[]byte) {
	t := b.lane.lab.t
	t.Helper()
	within(t, b.ns, func() error {
		l, err := net.InterfaceByName("ov0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, f := range frames {
			if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Protocol: htons(binary.BigEndian.Uint16(f[12:])), Ifindex: l.Index, Halen: 6}); err != nil {
				return err
			}
		}
		return nil
	})
}

// A container says by ARP, neighbour discovery, router advertisement and DHCP that
// it is somebody else, and sends as somebody else. Nobody hears it, and the
// kernel's table of neighbours stays as it was.
func TestSpoofingFromAContainer(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	w := l.network(1)
	rogue, near, far := w.box(a, 2), w.box(a, 3), w.box(b, 4)
	near.serve()
	far.serve()
	l.declare(w)
	rogue.reaches(near)
	rogue.reaches(far)
	a.quiet()
	e := &endpoint{addrs: [2]netip.Addr{netip.MustParseAddr(rogue.addrs[0])}}
	own := sandboxMAC(w.id, e)
	broadcast := bytes.Repeat([]byte{0xff}, 6)
	arp := func(op byte, sender string, target string) []byte {
		p := []byte{0, 1, 8, 0, 6, 4, 0, op}
		p = append(append(p, own...), netip.MustParseAddr(sender).AsSlice()...)
		return append(append(p, broadcast...), netip.MustParseAddr(target).AsSlice()...)
	}
	six := func(src, dst string, icmp ...byte) []byte {
		return ip6(unix.IPPROTO_ICMPV6, netip.MustParseAddr(src), netip.MustParseAddr(dst), append(icmp, canary...))
	}
	everybody := []byte{0x33, 0x33, 0, 0, 0, 1}
	victim := netip.MustParseAddr(w.six(3)).AsSlice()
	advert := append(append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, victim...), append([]byte{2, 1}, own...)...)
	dhcp := datagram("0.0.0.0", "255.255.255.255")
	binary.BigEndian.PutUint16(dhcp[20:], 68)
	binary.BigEndian.PutUint16(dhcp[22:], 67)
	ears := []*ear{listen(t, near.ns, "ov0"), listen(t, far.ns, "ov0")}
	before := w.neighbours(a)
	frames := [][]byte{
		ethernet(broadcast, own, unix.ETH_P_ARP, arp(2, w.four(3), w.four(1))),
		ethernet(gatewayMAC, own, unix.ETH_P_ARP, arp(2, w.four(4), w.four(1))),
		ethernet(broadcast, own, unix.ETH_P_ARP, arp(1, w.four(3), w.four(3))),
		ethernet(everybody, own, unix.ETH_P_IPV6, six(w.six(3), "ff02::1", advert...)),
		ethernet(gatewayMAC, own, unix.ETH_P_IPV6, six(w.six(2), w.six(1), advert...)),
		ethernet(everybody, own, unix.ETH_P_IPV6, six("fe80::1", "ff02::1", 134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0)),
		ethernet(gatewayMAC, own, unix.ETH_P_IPV6, six(w.six(2), w.six(3), 137, 0, 0, 0, 0, 0, 0, 0)),
		ethernet(broadcast, own, unix.ETH_P_IP, dhcp),
		ethernet(gatewayMAC, own, unix.ETH_P_IP, datagram(w.four(4), w.four(3))),
		ethernet(gatewayMAC, own, unix.ETH_P_IP, datagram("10.9.9.9", w.four(4))),
		ethernet(gatewayMAC, own, unix.ETH_P_IPV6, datagram(w.six(4), w.six(3))),
		ethernet(gatewayMAC, []byte{6, 1, 2, 3, 4, 5}, unix.ETH_P_IP, datagram(w.four(2), w.four(3))),
		ethernet(broadcast, own, unix.ETH_P_IP, datagram(w.four(2), w.four(3))),
		ethernet(gatewayMAC, own, 0x8100, append([]byte{0, 5, 8, 0}, datagram(w.four(2), w.four(3))...)),
	}
	for i := range 200 {
		frames = append(frames, ethernet(broadcast, own, unix.ETH_P_ARP, arp(1, fmt.Sprintf("10.200.1.%d", i+10), w.four(1))))
	}
	rogue.send(frames...)
	for i, e := range ears {
		if all, _ := e.hears(silence, 1); all > 0 {
			t.Errorf("ear %d heard %d frames", i, all)
		}
	}
	if after := w.neighbours(a); after != before {
		t.Errorf("the table of neighbours was\n%s\nand is\n%s", before, after)
	}
	rogue.reaches(near)
	rogue.reaches(far)
	// That the ears hear is shown by what may be sent.
	for _, src := range rogue.addrs {
		for i, to := range []*box{near, far} {
			dst, kind := to.addrs[0], uint16(unix.ETH_P_IP)
			if netip.MustParseAddr(src).Is6() {
				dst, kind = to.addrs[1], unix.ETH_P_IPV6
			}
			rogue.send(ethernet(gatewayMAC, own, kind, datagram(src, dst)))
			if _, n := ears[i].hears(deadline, 1); n != 1 {
				t.Errorf("%s → %s did not arrive", src, dst)
			}
		}
	}
	if n := a.state().GetRepairs(); n != 0 {
		t.Errorf("%d repairs", n)
	}
}

// neighbours are all that the namespace has.
func (w *lane) neighbours(n *node) string {
	var out []string // the kernel's order is of no meaning
	links(w.lab.t, w.ns[n], func(h *netlink.Handle) error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			all, err := h.NeighList(0, family)
			if err != nil {
				return err
			}
			for _, x := range all {
				if !x.IP.IsMulticast() && !x.IP.IsLoopback() {
					out = append(out, fmt.Sprintln(x.IP, x.HardwareAddr, x.LinkIndex))
				}
			}
		}
		return nil
	})
	slices.Sort(out)
	return strings.Join(out, "")
}

// rooted takes the node's own rules about tunnels away for good.
func (n *node) rooted() {
	n.lab.t.Helper()
	n.halt()
	within(n.lab.t, n.ns, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error {
			c.DelTable(&nftables.Table{Name: "redoubt_mesh", Family: nftables.TableFamilyINet})
			return c.Flush()
		})
	})
}

// A rooted node sends VXLAN for a network it has no part in, in its own name and
// in another's; a node that has part in it sends as an endpoint of another node.
func TestForgedFrames(t *testing.T) {
	t.Parallel()
	l := newLab(t, 3)
	a, b, stranger := l.nodes[0], l.nodes[1], l.nodes[2]
	w := l.network(1)
	target, friend := w.box(a, 2), w.box(b, 3)
	other := w.box(b, 4)
	target.serve()
	for _, n := range []*node{a, b} {
		n.declare(n.request(w))
	}
	friend.reaches(target)
	own := l.network(2) // all share this one: its frames come out of the tunnel
	own.box(stranger, 3)
	shared := own.box(a, 2)
	shared.serve()
	for _, n := range l.nodes[:2] {
		n.declare(n.request(w, own))
	}
	stranger.declare(stranger.request(own))
	own.boxes[0].reaches(shared)

	frame := func(as *node, vni uint32, src string) []byte {
		to, from := routerMAC(a.mesh()), routerMAC(as.mesh())
		p := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8)
		return append(p, ethernet(to[:], from[:], unix.ETH_P_IP, datagram(src, w.four(2)))...)
	}
	say := func(n *node, payload []byte) {
		t.Helper()
		within(t, n.ns, func() error {
			c, err := net.Dial("udp", a.mesh().String()+":4789")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(payload)
			return err
		})
	}
	b.rooted()
	stranger.rooted()
	e := listen(t, target.ns, "ov0")
	say(stranger, frame(stranger, w.vni(), w.four(3)))
	say(stranger, frame(b, w.vni(), w.four(3)))
	say(stranger, frame(stranger, own.vni(), w.four(3)))
	say(b, frame(stranger, w.vni(), w.four(3)))
	say(b, frame(b, w.vni(), w.four(2)))
	say(b, frame(b, w.vni(), w.four(99)))
	if _, n := e.hears(silence, 1); n > 0 {
		t.Errorf("%d forged frames arrived", n)
	}
	say(b, frame(b, w.vni(), w.four(3))) // as it may
	if _, n := e.hears(deadline, 1); n != 1 {
		t.Error("what may be sent did not arrive")
	}
	// Its last endpoint goes: nor may it any more.
	a.declare(a.change(w, &netdpb.OverlayNetwork{RemovedEndpoints: []string{friend.task}}))
	say(b, frame(b, w.vni(), w.four(3)))
	a.declare(a.change(w, &netdpb.OverlayNetwork{RemovedEndpoints: []string{other.task}}))
	say(b, frame(b, w.vni(), w.four(4)))
	if _, n := e.hears(silence, 1); n > 0 {
		t.Errorf("%d frames of those who are gone arrived", n)
	}
	if s, err := a.f.State(); err != nil || s.GetDropped()["vxlan_forged"] < 4 {
		t.Errorf("dropped %v (%v)", s.GetDropped(), err)
	}
}
