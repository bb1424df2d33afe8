package netd

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// dialFrom opens a connection from a port of the caller's choice.
func (w *world) dialFrom(ns *os.File, network string, from uint16, to string, patience time.Duration) (c net.Conn, err error) {
	w.t.Helper()
	w.in(ns, func() error {
		d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) (err error) {
			raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return err
		}}
		d.LocalAddr = &net.TCPAddr{Port: int(from)}
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{Port: int(from)}
		}
		c, err = d.DialContext(context.Background(), network, to)
		return nil
	})
	return c, err
}

// A first packet of TCP is none of a flow that there was, whatever connection
// tracking takes it for: after a server's reset, the client's port goes on being the
// flow's.
func TestAFirstPacketIsNoAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1)
	var l net.Listener
	w.in(w.outside, func() (err error) { l, err = net.Listen("tcp", "0.0.0.0:8080"); return err })
	defer l.Close()
	declare := func(published ...string) {
		t.Helper()
		req := w.request(a)
		req.Reach = &netdpb.Reach{Nodes: []string{outsideIP}, Published: published}
		w.mustApply(req)
	}
	again := func(patience time.Duration) error {
		c, err := w.dialFrom(a.ns, "tcp", 40123, outsideIP+":8080", patience)
		if err != nil {
			return err
		}
		defer c.Close()
		served, err := l.Accept()
		if err != nil {
			return err
		}
		served.(*net.TCPConn).SetLinger(0)
		served.Close() // a reset
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("reading: %v, want a reset", err)
		}
		return nil
	}
	declare("tcp/8080")
	for range 2 { // the port is taken again at once
		if err := again(deadline); err != nil {
			t.Fatal(err)
		}
	}
	declare()
	if err := again(silence); err == nil {
		t.Error("a port that nobody publishes any more is reached in a flow that was reset")
	}
}

// Who answers at a published port of this node has the other side's port chosen by
// who called, maybe a container on the other node: it is not to connect to it.
func TestWhoIsCalledCallsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1, tcpPort(80, 80))
	req := w.request(a)
	req.Reach = &netdpb.Reach{Nodes: []string{outsideIP}, Published: []string{"tcp/80"}}
	w.mustApply(req)
	w.serve(w.outside, "tcp", "0.0.0.0:22")
	blackhole := func(do func(h *netlink.Handle, r *netlink.Route) error) {
		t.Helper()
		w.routes(a.ns, func(h *netlink.Handle) error {
			return do(h, &netlink.Route{Dst: &net.IPNet{IP: net.ParseIP(outsideIP), Mask: net.CIDRMask(32, 32)}, Type: unix.RTN_BLACKHOLE})
		})
	}
	// The container does not answer the first packet; that the host knows nothing of it
	// stands for a container's way out that ended there.
	blackhole((*netlink.Handle).RouteAdd)
	var err error
	w.in(w.outside, func() error {
		var c net.Conn
		if c, err = net.Dial("ip4:tcp", nodeIP); err == nil {
			defer c.Close()
			_, err = c.Write(syn(outsideIP, nodeIP, 22, 80))
		}
		return err
	})
	blackhole((*netlink.Handle).RouteDel)
	if c, err := w.dialFrom(a.ns, "tcp", 80, outsideIP+":22", silence); err == nil {
		c.Close()
		t.Error("a container reaches a node's port by taking a call for its own")
	}
	if err != nil {
		t.Fatal(err)
	}
	w.reaches(w.outside, "tcp", outsideIP+":22", "")
}

// syn is a first packet of TCP.
func syn(from, to string, sport, dport uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[7], b[12], b[13], b[14] = 1, 5<<4, tcpSYN, 0x20
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

// No container calls a node from a port of its own choice: whoever answers there may
// be its accomplice, and goes on to answer the node's own service at that port.
func TestPortsTowardsNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.box(1)
	for _, ns := range []*os.File{w.outside, w.other} {
		w.portOf(ns, "0.0.0.0:53")
	}
	req := w.request(a)
	req.Reach = &netdpb.Reach{Nodes: []string{outsideIP}, Published: []string{"udp/53"}}
	w.mustApply(req)
	for _, own := range []uint16{22, 9100, 40123} {
		for host, kept := range map[string]bool{outsideIP: own == 40123, otherIP: true} {
			c, err := w.dialFrom(a.ns, "udp", own, host+":53", deadline)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(deadline))
			saw := make([]byte, 2)
			if _, err = c.Write([]byte("?")); err == nil {
				_, err = c.Read(saw)
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := binary.BigEndian.Uint16(saw); (p == own) != kept || host == outsideIP && (p < firstOut || p > lastOut) {
				t.Errorf("from port %d %s sees %d", own, host, p)
			}
		}
	}
}

// portOf answers each datagram with the port it came from.
func (w *world) portOf(ns *os.File, addr string) {
	w.t.Helper()
	done := make(chan struct{})
	var pc net.PacketConn
	w.in(ns, func() (err error) { pc, err = net.ListenPacket("udp4", addr); return err })
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(binary.BigEndian.AppendUint16(nil, uint16(from.(*net.UDPAddr).Port)), from)
		}
	}()
	w.t.Cleanup(func() { pc.Close(); <-done })
}
