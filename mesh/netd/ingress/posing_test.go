package ingress

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// Who is called through the routing mesh begins no connection to the port that he was
// called from: a container elsewhere could call from one that its node serves.
func TestWhoIsCalledCallsNobody(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	x := n.task(1)
	l.publish(l.nodes, newPublished(x))
	// The task answers nothing, as one whose queue is full.
	blackhole := &netlink.Route{Dst: kernel.IPNet(netip.MustParsePrefix(clientAddr + "/32")), Type: unix.RTN_BLACKHOLE, Table: 200}
	netlab.Links(t, x.ns, func(h *netlink.Handle) error { return h.RouteAdd(blackhole) })
	var listener net.Listener
	var heard net.PacketConn
	netlab.Within(t, l.client, func() (err error) {
		if heard, err = net.ListenPacket("ip4:tcp", clientAddr); err != nil {
			return err
		}
		_, err = heard.WriteTo(firstPacket(clientAddr, n.under(), 22, 8080), &net.IPAddr{IP: net.ParseIP(n.under())})
		return err
	})
	defer heard.Close()
	// next is the flags of the next packet to port 22.
	next := func(patience time.Duration) byte {
		heard.SetReadDeadline(time.Now().Add(patience))
		for b := make([]byte, 100); ; {
			k, _, err := heard.ReadFrom(b)
			if err != nil {
				return 0
			}
			if k >= 20 && binary.BigEndian.Uint16(b[2:]) == 22 {
				return b[13] & 0x3f
			}
		}
	}
	const syn = 1 << 1
	next(silence)
	netlab.Links(t, x.ns, func(h *netlink.Handle) error { return h.RouteDel(blackhole) })
	netlab.Within(t, l.client, func() (err error) { listener, err = net.Listen("tcp", ":22"); return err })
	defer listener.Close()
	x.deafen()
	netlab.Within(t, x.ns, func() error {
		d := net.Dialer{Timeout: silence, LocalAddr: &net.TCPAddr{IP: net.ParseIP(x.addr), Port: 80}, Control: func(_, _ string, c syscall.RawConn) (err error) {
			c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return err
		}}
		c, err := d.Dial("tcp", clientAddr+":22")
		if err == nil {
			c.Close()
			t.Error("a task reaches who called it")
		}
		return nil
	})
	for got := next(silence); got != 0; got = next(silence) {
		if got == syn {
			t.Error("a first packet of the task arrives")
		}
	}
}

// firstPacket is one of TCP.
func firstPacket(from, to string, sport, dport uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[7], b[12], b[13], b[14] = 1, 5<<4, 1<<1, 0x20
	s, d := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	sum := uint32(unix.IPPROTO_TCP + len(b))
	for _, part := range [][]byte{s[:], d[:], b} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[16:], ^uint16(sum))
	return b
}
