package fabric

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// vxlanFrame is what VXLAN carries: an Ethernet frame with a datagram to port
// 7001 of an overlay address.
func vxlanFrame(vni uint32, from, to [6]byte, src, dst string) []byte {
	text := []byte(canary)
	p := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8)
	p = append(append(append(p, to[:]...), from[:]...), 8, 0)
	ip := make([]byte, 28)
	total := len(ip) + len(text)
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte(total), 64, unix.IPPROTO_UDP
	copy(ip[12:], netip.MustParseAddr(src).AsSlice())
	copy(ip[16:], netip.MustParseAddr(dst).AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], 7001)
	binary.BigEndian.PutUint16(ip[22:], 7001)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(text)))
	return append(append(p, ip...), text...)
}

// An ear counts the forged datagrams that arrive at a node's overlay, whatever
// becomes of them there.
type ear struct{ fd int }

func (n *node) ear() *ear {
	t := n.lab.t
	t.Helper()
	e := &ear{}
	within(t, n.overlay, func() (err error) {
		e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// hears counts: until as many have arrived as are to, however busy the machine, and
// then for as long as a test listens for what must not.
func (e *ear) hears(want int) (n int) {
	for end := time.Now().Add(deadline); n < want && time.Now().Before(end); {
		n += e.listens(10 * time.Millisecond)
	}
	return n + e.listens(silence)
}

// listens counts until the time is over.
func (e *ear) listens(patience time.Duration) (n int) {
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(patience); ; {
		left := time.Until(end)
		if left <= 0 {
			return n
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		k, from, err := unix.Recvfrom(e.fd, buf, 0)
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue // what the receiver says to it
		}
		if err == nil && string(buf[max(0, k-len(canary)):k]) == canary {
			n++
		}
	}
}

func (n *node) deleteTable() {
	within(n.lab.t, n.ns, removeTable)
}

// A stranger on the underlay and a rooted node send VXLAN for a network the
// receiver is on. The control is the one thing that is allowed.
func TestForgedFramesDoNotArrive(t *testing.T) {
	const vni = 4097
	l := newLab(t, 3)
	l.connect()
	l.overlays(vni)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	stranger := l.wire.Plug(9)
	ear := a.ear()
	under := netip.MustParseAddr(a.under())

	// b is rooted: nothing of ours is in force there.
	b.rooted()
	for name, x := range map[string]struct {
		ns       *os.File
		from, to netip.Addr
		frame    []byte
		arrives  bool
	}{
		"control: a peer on its network": {b.ns, b.mesh(), a.mesh(), vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside()), true},
		"stranger":                       {stranger, netip.MustParseAddr("192.0.2.9"), under, vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside()), false},
		"stranger as a mesh node":        {stranger, b.mesh(), under, vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside()), false},
		"stranger as an underlay node":   {stranger, netip.MustParseAddr(b.under()), under, vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside()), false},
		"peer outside the tunnel":        {b.ns, netip.MustParseAddr(b.under()), under, vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside()), false},
		"peer with another's MAC":        {b.ns, b.mesh(), a.mesh(), vxlanFrame(vni, c.mac(), a.mac(), c.inside(), a.inside()), false},
		"peer with a MAC of nobody":      {b.ns, b.mesh(), a.mesh(), vxlanFrame(vni, [6]byte{2, 1, 2, 3, 4, 5}, a.mac(), b.inside(), a.inside()), false},
		"peer as another peer":           {b.ns, c.mesh(), a.mesh(), vxlanFrame(vni, c.mac(), a.mac(), c.inside(), a.inside()), false},
		"network nobody has":             {b.ns, b.mesh(), a.mesh(), vxlanFrame(vni+1, b.mac(), a.mac(), b.inside(), a.inside()), false},
	} {
		t.Run(name, func(t *testing.T) {
			const packets = 20
			for range packets {
				if err := rawUDP(x.ns, x.from, x.to, x.frame); err != nil {
					t.Fatal(err)
				}
			}
			want := map[bool]int{true: packets}[x.arrives]
			if got := ear.hears(want); got != want {
				t.Errorf("%d of %d arrived, want %d", got, packets, want)
			}
		})
	}
	// To the mesh address, by way of the underlay, as a neighbour can.
	within(t, stranger, func() error {
		return kernel.WithRoutes(stranger, routeVia(a.mesh(), under))
	})
	for range 20 {
		if err := rawUDP(stranger, b.mesh(), a.mesh(), vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside())); err != nil {
			t.Fatal(err)
		}
	}
	if got := ear.hears(0); got != 0 {
		t.Errorf("%d arrived at the mesh address from the underlay", got)
	}
	d := a.state().GetDropped()
	if d[droppedForged] < 60 || d[droppedSpoofed] < 40 {
		t.Errorf("not counted: %v", d)
	}
}

// rooted takes the node's rules away for good.
func (n *node) rooted() {
	n.halt()
	n.deleteTable()
	within(n.lab.t, n.ns, func() error { _, err := kernel.DropUnjudged(kernel.JudgedByMesh, nil); return err })
}

// What a stopped netd leaves lets nothing out in clear: not VXLAN, and not what
// is for a mesh address.
func TestNothingLeavesInClear(t *testing.T) {
	l := newLab(t, 2)
	l.connect()
	l.overlays(4097)
	a, b := l.nodes[0], l.nodes[1]
	b.echo()
	a.reaches(b)
	tap := l.tap()
	a.stop()
	// The interface without its process, then no interface at all.
	send := func() {
		for _, port := range []int{vxlanPort, controlPort} {
			kernel.InNetns(a.ns, func() error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				unix.Sendto(fd, []byte(canary), 0, &unix.SockaddrInet4{Port: port, Addr: b.mesh().As4()})
				return unix.Sendto(fd, []byte(canary), 0, &unix.SockaddrInet4{Port: vxlanPort, Addr: netip.MustParseAddr(b.under()).As4()})
			})
		}
		kernel.InNetns(a.overlay, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, []byte(canary), 0, &unix.SockaddrInet4{Port: 7001, Addr: netip.MustParseAddr(b.inside()).As4()})
		})
	}
	send()
	routes(t, a.ns, removeLinks)
	within(t, a.ns, func() error { return kernel.WithRoutes(a.ns, routeVia(netip.Addr{}, netip.MustParseAddr(b.under()))) })
	send()
	tap.end()
	if tap.canaries != 0 || tap.clear != 0 {
		t.Errorf("%d canaries and %d frames of VXLAN were on the wire in clear", tap.canaries, tap.clear)
	}
	control := l.tap()
	a.deleteTable()
	send()
	control.end()
	if control.canaries == 0 || control.clear == 0 {
		t.Error("the tap sees nothing: the test shows nothing")
	}
}

// A process of the node, of no matter which user, is no endpoint: only the
// kernel's VXLAN speaks in the tunnel. The control is the same without the table.
func TestProcessesSendNoVXLAN(t *testing.T) {
	const vni = 4097
	l := newLab(t, 2)
	l.connect()
	l.overlays(vni)
	a, b := l.nodes[0], l.nodes[1]
	b.echo()
	a.reaches(b) // there is a session, however busy the machine
	ear := b.ear()
	frame := vxlanFrame(vni, a.mac(), b.mac(), a.inside(), b.inside())
	send := func() {
		within(t, a.ns, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for range 20 {
				err = unix.Sendto(fd, frame, 0, &unix.SockaddrInet4{Port: vxlanPort, Addr: b.mesh().As4()})
				if err != nil && !errors.Is(err, unix.EPERM) {
					return err
				}
			}
			return nil
		})
	}
	send()
	if got := ear.hears(0); got != 0 {
		t.Errorf("%d datagrams of a process arrived in an overlay", got)
	}
	if d := a.state().GetDropped()[droppedSent]; d < 20 {
		t.Errorf("%d are counted as dropped", d)
	}
	a.rooted()
	send()
	if got := ear.hears(20); got != 20 {
		t.Errorf("without the table %d of 20 arrived: the test shows nothing", got)
	}
}
