package fasttap

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 60 * time.Second

// A side is a node with a sandbox on an overlay, in three network namespaces as
// Redoubt makes them:
//
//	box 10.77.N.2 ── veth ── net ── VXLAN ── node: WireGuard 198.18.0.N ── underlay
type side struct {
	n              int
	node, net, box string
	dev            Interface
	wg             *device.Device
}

// An end is how a side is made.
type end struct {
	best    Mode
	ownBind bool
}

func (e end) String() string {
	if e.ownBind {
		return e.best.String() + "+bind"
	}
	return e.best.String()
}

// inNetns runs fn on a thread in a namespace.
func inNetns(name string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends here
		f, err := os.Open("/run/netns/" + name)
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// run runs ip's or nft's commands in a namespace.
func run(t testing.TB, netns, script string, command ...string) {
	t.Helper()
	if err := inNetns(netns, func() error {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(script)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%v: %w\n%s%s", command, err, script, out)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func ip(t testing.TB, netns, script string) {
	t.Helper()
	run(t, netns, script, "ip", "-batch", "-")
}

// nsBind opens its sockets in a namespace.
type nsBind struct {
	conn.Bind
	netns string
}

func (b nsBind) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	e := inNetns(b.netns, func() error {
		fns, actual, err = b.Bind.Open(port)
		return err
	})
	return fns, actual, e
}

// nsDevice looks at itself in a namespace, which wireguard-go's own needs.
type nsDevice struct {
	Interface
	netns string
}

func (d nsDevice) MTU() (mtu int, err error) {
	e := inNetns(d.netns, func() error {
		mtu, err = d.Interface.MTU()
		return err
	})
	return mtu, e
}

// newWorld makes two sides and connects them.
func newWorld(t testing.TB, a, b end, mtu int) [2]*side {
	t.Helper()
	sides := [2]*side{{n: 1}, {n: 2}}
	var keys [2]*ecdh.PrivateKey
	for i, s := range sides {
		for _, ns := range []struct {
			to   *string
			name string
		}{{&s.node, "node"}, {&s.net, "net"}, {&s.box, "box"}} {
			*ns.to = fmt.Sprintf("fasttap-%d-%s-%s%d", os.Getpid(), strings.ToLower(rand.Text()[:6]), ns.name, s.n)
			if out, err := exec.Command("ip", "netns", "add", *ns.to).CombinedOutput(); err != nil {
				t.Fatalf("ip netns add: %v\n%s", err, out)
			}
			t.Cleanup(func() { exec.Command("ip", "netns", "del", *ns.to).Run() })
			ip(t, *ns.to, "link set lo up")
		}
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, sides[0].node, fmt.Sprintf("link add u0 type veth peer name u0 netns %s\naddr add 192.0.2.1/24 dev u0\nlink set u0 up", sides[1].node))
	ip(t, sides[1].node, "addr add 192.0.2.2/24 dev u0\nlink set u0 up")
	for i, e := range []end{a, b} {
		sides[i].tunnel(t, e, mtu, keys[i], keys[1-i])
		sides[i].overlay(t)
	}
	return sides
}

// tunnel makes the WireGuard interface.
func (s *side) tunnel(t testing.TB, e end, mtu int, key, peer *ecdh.PrivateKey) {
	t.Helper()
	if err := inNetns(s.node, func() (err error) {
		s.dev, err = Open("wg0", Config{MTU: mtu, VXLANPort: 4789, Best: e.best})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if s.dev.Mode() != e.best {
		t.Fatalf("mode %s instead of %s: %s", s.dev.Mode(), e.best, s.dev.Why())
	}
	s.dev = nsDevice{s.dev, s.node}
	bind := conn.NewStdNetBind()
	if e.ownBind {
		bind = NewBind()
	}
	log := &device.Logger{Verbosef: device.DiscardLogf, Errorf: t.Logf}
	s.wg = device.NewDevice(s.dev, nsBind{bind, s.node}, log)
	t.Cleanup(func() { s.wg.Close(); <-s.wg.Wait() })
	other := 3 - s.n
	if err := s.wg.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=192.0.2.%d:%d\nallowed_ip=198.18.0.%d/32\nallowed_ip=fd18::%d/128\n",
		hex.EncodeToString(key.Bytes()), 51820, hex.EncodeToString(peer.PublicKey().Bytes()), other, 51820, other, other)); err != nil {
		t.Fatal(err)
	}
	if err := s.wg.Up(); err != nil {
		t.Fatal(err)
	}
	ip(t, s.node, fmt.Sprintf("addr add 198.18.0.%d/24 dev wg0\naddr add fd18::%d/64 dev wg0\nlink set wg0 up", s.n, s.n))
}

// overlay makes the VXLAN device, moves it into the network's namespace, and
// routes to a sandbox.
func (s *side) overlay(t testing.TB) {
	t.Helper()
	n, other := s.n, 3-s.n
	ip(t, s.node, fmt.Sprintf("link add vx0 address 02:52:c6:12:00:0%d type vxlan id 77 local 198.18.0.%d dev wg0 dstport 4789 nolearning\n"+
		"link set vx0 netns %s", n, n, s.net))
	ip(t, s.net, fmt.Sprintf(`link set vx0 up
link add v0 address 02:52:00:00:00:01 type veth peer name ov0 netns %[3]s
link set v0 up
route add 10.77.%[1]d.2/32 dev v0
route add 10.77.%[2]d.2/32 dev vx0
route add fd77:%[1]d::2/128 dev v0
route add fd77:%[2]d::2/128 dev vx0
neigh add 10.77.%[2]d.2 lladdr 02:52:c6:12:00:0%[2]d dev vx0
neigh add fd77:%[2]d::2 lladdr 02:52:c6:12:00:0%[2]d dev vx0`, n, other, s.box))
	run(t, s.net, fmt.Sprintf("fdb add 02:52:c6:12:00:0%d dev vx0 dst 198.18.0.%d self", other, other), "bridge", "-batch", "-")
	run(t, s.net, "", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	ip(t, s.box, fmt.Sprintf(`link set ov0 address 02:00:00:00:00:0%[1]d
link set ov0 up
addr add 10.77.%[1]d.2/32 dev ov0
addr add fd77:%[1]d::2/128 dev ov0 nodad
route add 10.77.%[2]d.2/32 dev ov0
route add fd77:%[2]d::2/128 dev ov0
neigh add 10.77.%[2]d.2 lladdr 02:52:00:00:00:01 dev ov0
neigh add fd77:%[2]d::2 lladdr 02:52:00:00:00:01 dev ov0`, n, other))
	// What the overlay carries, with the encapsulation.
	mtu, err := s.dev.MTU()
	if err != nil {
		t.Fatal(err)
	}
	ip(t, s.box, fmt.Sprintf("link set ov0 mtu %d", mtu-50))
	ip(t, s.net, fmt.Sprintf("link set v0 mtu %d\nneigh add 10.77.%d.2 lladdr 02:00:00:00:00:0%d dev v0\nneigh add fd77:%d::2 lladdr 02:00:00:00:00:0%d dev v0",
		mtu-50, n, n, n, n))
}

// dial connects from one namespace to an address in another.
func dial(t testing.TB, from, to, address string) (client, server net.Conn) {
	t.Helper()
	var l net.Listener
	if err := inNetns(to, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := inNetns(from, func() (err error) {
		client, err = (&net.Dialer{Timeout: deadline}).Dial("tcp", l.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}
