package fabric

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// fragments is rawUDP in two pieces, neither of which holds all of the headers.
func fragments(ns *os.File, from, to netip.Addr, payload []byte) error {
	udp := binary.BigEndian.AppendUint16([]byte{0xc0, 0, vxlanPort >> 8, vxlanPort & 0xff}, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	return kernel.InNetns(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		const first = 24
		for offset, part := range map[int][]byte{0: udp[:first], first: udp[first:]} {
			p := make([]byte, 20, 20+len(part))
			p[0], p[3], p[4], p[5], p[8], p[9] = 0x45, byte(20+len(part)), 7, 7, 64, unix.IPPROTO_UDP
			p[7] = byte(offset / 8)
			if offset == 0 {
				p[6] = 0x20 // more of them
			}
			copy(p[12:], from.AsSlice())
			copy(p[16:], to.AsSlice())
			if err := unix.Sendto(fd, append(p, part...), 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Nobody looks after the node, and somebody flushes its ruleset: no frame arrives in
// a network from anywhere, and nothing by its mesh address.
func TestNothingArrivesWithoutTheTable(t *testing.T) {
	const vni = 4097
	l := newLab(t, 2)
	l.connect()
	l.overlays(vni)
	a, b := l.nodes[0], l.nodes[1]
	stranger := l.wire.Plug(9)
	ear := a.ear()
	b.rooted()
	frame, under := vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside()), netip.MustParseAddr(a.under())
	heard := func(want int) (n int) {
		for _, err := range []error{
			rawUDP(stranger, netip.MustParseAddr("192.0.2.9"), under, frame), fragments(stranger, netip.MustParseAddr("192.0.2.9"), under, frame),
			rawUDP(b.ns, b.mesh(), a.mesh(), frame),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return ear.hears(want)
	}
	if n := heard(1); n != 1 {
		t.Fatalf("%d of 3 arrived with the table, want the peer's", n)
	}
	a.halt()
	within(t, a.ns, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error { c.FlushRuleset(); return c.Flush() })
	})
	if n := heard(0); n != 0 {
		t.Errorf("%d of 3 arrived without the table", n)
	}
	// The control: with nothing in its place, the way is open to all.
	within(t, a.ns, func() error { _, err := kernel.DropUnjudged(kernel.JudgedByMesh, nil); return err })
	if n := heard(3); n != 3 {
		t.Errorf("%d of 3 arrived where nothing stops them", n)
	}
	before := a.state().GetRepairs()
	a.f.repair(t.Context())
	if n := heard(1); n != 1 {
		t.Errorf("%d of 3 arrived once all is put back, want the peer's", n)
	}
	if now := a.state().GetRepairs(); now != before+1 {
		t.Errorf("%d repairs, want %d", now, before+1)
	}
	// Policies by themselves are put back too, the next time that somebody looks.
	within(t, a.ns, func() error { _, err := kernel.DropUnjudged(kernel.JudgedByMesh, nil); return err })
	a.f.repair(t.Context())
	within(t, a.ns, func() error {
		c, err := kernel.DropUnjudged(kernel.JudgedByMesh, a.f.table.content.unjudged())
		if c {
			t.Error("policies were not put back")
		}
		return err
	})
}
