package fabric

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A thief is a WireGuard of its own with the keys of a node, to which every
// address is a peer's. It keeps what it sends.
type thief struct {
	conn.Bind
	ns  *os.File
	dev *device.Device
	tun *tuntest.ChannelTUN

	mu   sync.Mutex // guards the following
	sent [][]byte
	to   conn.Endpoint
}

// Open makes the sockets where the thief is: the device opens them in whatever
// thread it happens to be in.
func (x *thief) Open(port uint16) (receive []conn.ReceiveFunc, is uint16, err error) {
	err = kernel.InNetns(x.ns, func() (err error) {
		receive, is, err = x.Bind.Open(port)
		return err
	})
	return receive, is, err
}

func (x *thief) Send(bufs [][]byte, to conn.Endpoint) error {
	x.mu.Lock()
	for _, b := range bufs {
		x.sent, x.to = append(x.sent, bytes.Clone(b)), to
	}
	x.mu.Unlock()
	return x.Bind.Send(bufs, to)
}

// again sends all that was sent of a kind once more.
func (x *thief) again(kind byte) (n int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, b := range x.sent {
		if b[0] == kind {
			if err = x.Bind.Send([][]byte{b}, x.to); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// steal ends the node's fabric and has a thief in its place, who calls the others.
func (n *node) steal(others ...*node) *thief {
	t := n.lab.t
	t.Helper()
	own := *n.f.current.key()
	public := n.state().GetPublicKey()
	config := fmt.Sprintf("private_key=%x\nlisten_port=51820\n", own[:])
	for _, o := range others {
		key := o.state().GetPublicKey()
		config += fmt.Sprintf("public_key=%x\npreshared_key=%x\nendpoint=%s:51820\nallowed_ip=%s/32\n", key, pair(public, key), o.under(), o.mesh())
		if o == others[0] {
			config += "allowed_ip=0.0.0.0/0\n"
		}
	}
	n.stop()
	x := &thief{Bind: conn.NewDefaultBind(), ns: n.ns, tun: tuntest.NewChannelTUN()}
	x.dev = device.NewDevice(x.tun.TUN(), x, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(x.dev.Close)
	if err := errors.Join(x.dev.IpcSet(config), x.dev.Up()); err != nil {
		t.Fatal(err)
	}
	return x
}

// inTunnel is a datagram of VXLAN as it is in the tunnel.
func inTunnel(src, dst netip.Addr, frame []byte) []byte {
	p := make([]byte, 28, 28+len(frame))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(frame)))
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(p[20:], 5555)
	binary.BigEndian.PutUint16(p[22:], vxlanPort)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(frame)))
	return append(p, frame...)
}

// Root of a node takes its keys out of netd and puts a WireGuard of its own in its
// place, with any addresses it likes. A peer takes from it what it took before; what
// is sent again is taken once, and who is no peer does not answer.
func TestStolenKeys(t *testing.T) {
	const vni = 4097
	l := newLab(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	a.declare(a.request(b, c))
	b.declare(b.request(a))
	c.declare(c.request(a))
	l.overlays(vni)
	ear, deaf := a.ear(), c.ear()
	x := b.steal(a, c)
	own := vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside())
	under := netip.MustParseAddr(a.under())
	control := inTunnel(b.mesh(), a.mesh(), own)
	sent, heard := 0, 0
	for end := time.Now().Add(deadline); heard == 0; heard += ear.listens(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the thief is not even taken for the node: this test shows nothing")
		}
		x.tun.Outbound <- control
		sent++
	}
	// Those that waited for the handshake come all together.
	for end := time.Now().Add(deadline); heard < sent && time.Now().Before(end); {
		heard += ear.listens(10 * time.Millisecond)
	}
	const packets = 10
	for name, p := range map[string][]byte{
		"another peer's mesh address": inTunnel(c.mesh(), a.mesh(), vxlanFrame(vni, c.mac(), a.mac(), c.inside(), a.inside())),
		"another's, its own frame":    inTunnel(c.mesh(), a.mesh(), own),
		"whom it speaks to":           inTunnel(a.mesh(), a.mesh(), own),
		"its underlay address":        inTunnel(netip.MustParseAddr(b.under()), a.mesh(), own),
		"127.0.0.1":                   inTunnel(netip.MustParseAddr("127.0.0.1"), a.mesh(), own),
		"a container":                 inTunnel(netip.MustParseAddr(b.inside()), a.mesh(), own),
		"itself with another's MAC":   inTunnel(b.mesh(), a.mesh(), vxlanFrame(vni, c.mac(), a.mac(), b.inside(), a.inside())),
		"itself on another network":   inTunnel(b.mesh(), a.mesh(), vxlanFrame(vni+1, b.mac(), a.mac(), b.inside(), a.inside())),
		"itself to the underlay":      inTunnel(b.mesh(), under, own),
		"itself to 127.0.0.1":         inTunnel(b.mesh(), netip.MustParseAddr("127.0.0.1"), own),
		"itself to a container":       vxlanFrame(vni, b.mac(), a.mac(), b.inside(), a.inside())[8+14:],
		"itself by way of a to c":     inTunnel(b.mesh(), netip.MustParseAddr(c.under()), own),
	} {
		for range packets {
			x.tun.Outbound <- p
		}
		for range packets {
			x.tun.Outbound <- control
		}
		// What came before has been judged when the last of these is there.
		if got := ear.hears(packets); got != packets {
			t.Errorf("as %s: %d arrived, of %d that may", name, got, packets)
		}
	}
	// Data, then handshakes.
	for _, kind := range []byte{4, 1} {
		n, err := x.again(kind)
		if err != nil || n == 0 {
			t.Fatalf("%d sent again (%v)", n, err)
		}
		if got := ear.hears(0); got != 0 {
			t.Errorf("of %d packets of kind %d that were sent again %d arrived", n, kind, got)
		}
	}
	x.tun.Outbound <- control
	if got := ear.hears(1); got != 1 {
		t.Errorf("%d arrived after all was sent again", got)
	}
	// c has no peer b.
	x.tun.Outbound <- inTunnel(b.mesh(), c.mesh(), vxlanFrame(vni, b.mac(), c.mac(), b.inside(), c.inside()))
	if got := deaf.hears(0); got != 0 {
		t.Errorf("%d arrived at a node that it shares nothing with", got)
	}
	text, err := x.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	shook := []bool{}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "last_handshake_time_sec="); ok {
			shook = append(shook, v != "0")
		}
	}
	slices.SortFunc(shook, func(a, b bool) int { return map[bool]int{true: 1}[a] - map[bool]int{true: 1}[b] })
	if !slices.Equal(shook, []bool{false, true}) {
		t.Errorf("who answered a handshake: %v, and one should have", shook)
	}
}
