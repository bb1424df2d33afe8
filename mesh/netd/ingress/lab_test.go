package ingress

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds what must happen; silence is how long a test listens for what
// must not.
const (
	deadline = 20 * time.Second
	silence  = 300 * time.Millisecond
)

const clientAddr, clientAddr6 = "192.0.2.100", "2001:db8::64"

// A lab is some nodes and a client on one underlay, all of them network namespaces
// of this test.
//
//	client 192.0.2.100 ──┬── node 1: u0 192.0.2.1, mesh 198.18.0.1, net-ingress, sandboxes
//	                     ├── node 2: u0 192.0.2.2, …
type lab struct {
	t      testing.TB
	wire   *netlab.Wire
	client *os.File
	nodes  []*node
}

type node struct {
	lab    *lab
	i      int
	id     string
	dir    string // run directory
	ns     *os.File
	inside *os.File
	f      *fabric.Fabric
	in     *Ingress
	gen    uint64
	halt   func() // nothing is put back any more
	stop   func() // ends ingress as the end of a process does
}

func (n *node) under() string    { return netlab.Under(n.i) }
func (n *node) under6() string   { return fmt.Sprintf("2001:db8::%x", n.i) }
func (n *node) addr() netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(n.i)}) }

func newLab(t testing.TB, n int) *lab {
	t.Helper()
	l := &lab{t: t, wire: netlab.NewWire(t)}
	l.client = l.plug(100)
	for i := 1; i <= n; i++ {
		x := &node{lab: l, i: i, id: ident.New(), dir: t.TempDir(), ns: l.plug(i)}
		if err := os.Mkdir(filepath.Join(x.dir, "netns"), 0o700); err != nil {
			t.Fatal(err)
		}
		x.inside = pinned(t, filepath.Join(x.dir, "netns", "net-ingress"))
		netlab.Within(t, x.ns, func() error { _, err := kernel.SetSysctl("1", "ipv4/conf/u0/forwarding"); return err })
		x.fabric()
		x.start()
		l.nodes = append(l.nodes, x)
	}
	l.connect()
	return l
}

// pinned makes a namespace as rund does, with lo up.
func pinned(t testing.TB, path string) *os.File {
	t.Helper()
	ns := netlab.Netns(t, path)
	netlab.Links(t, ns, func(h *netlink.Handle) error { return netlab.Up(h, "lo") })
	return ns
}

// plug makes a namespace on the wire that has IPv6 too.
func (l *lab) plug(i int) *os.File {
	l.t.Helper()
	ns := l.wire.Plug(i)
	netlab.Links(l.t, ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		return h.AddrAdd(u, &netlink.Addr{IPNet: kernel.IPNet(netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/64", i))), Flags: unix.IFA_F_NODAD})
	})
	return ns
}

func (n *node) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(netlab.Log{T: n.lab.t, Node: n.i}, nil))
}

func (n *node) fabric() {
	t := n.lab.t
	f, err := fabric.New(fabric.Options{Netns: n.ns})
	if err == nil {
		err = f.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	n.f = f
}

// connect makes all nodes peers of each other.
func (l *lab) connect() {
	l.t.Helper()
	key := func(n *node) []byte {
		s, err := n.f.State()
		if err != nil {
			l.t.Fatal(err)
		}
		return s.GetPublicKey()
	}
	for _, n := range l.nodes {
		req := &netdpb.FabricRequest{Generation: 1, OwnPublicKey: key(n), Address: n.addr().String() + "/15", ListenPort: 51820}
		for _, o := range l.nodes {
			if o != n {
				pair := []string{string(key(n)), string(key(o))}
				slices.Sort(pair)
				psk := sha256.Sum256([]byte("test " + strings.Join(pair, "")))
				req.Peers = append(req.Peers, &netdpb.FabricPeer{NodeId: o.id, PublicKey: key(o), PresharedKey: psk[:], Endpoint: o.under() + ":51820", Address: o.addr().String()})
			}
		}
		if _, err := n.f.Declare(l.t.Context(), req); err != nil {
			l.t.Fatal(err)
		}
	}
}

// start makes the node's ingress, as a new process would, and runs it.
func (n *node) start() {
	t := n.lab.t
	t.Helper()
	in, err := New(Options{RunDir: n.dir, Logger: n.logger(), Netns: n.ns, Mesh: n.f})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- in.Run(ctx) }()
	n.in, n.gen = in, 0
	n.halt = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	halt := n.halt
	n.stop = func() { halt(); in.Close() }
	t.Cleanup(n.stop)
}

// A task is a sandbox with servers in it.
type task struct {
	id   string
	node *node
	addr string
	six  string
	ns   *os.File
	// deafen has it refuse connections, as one whose process died.
	deafen func()
}

// task makes one whose servers answer with its name and whom they saw: TCP on port
// 80 and UDP on 53, on every address, as most programs do. It has another way
// out too.
func (n *node) task(last int) *task {
	t := n.lab.t
	t.Helper()
	x := &task{id: ident.New(), node: n, addr: fmt.Sprintf("10.255.0.%d", last), six: fmt.Sprintf("fd00:9::%x", last)}
	x.ns = pinned(t, filepath.Join(n.dir, "netns", x.id))
	netlab.Links(t, x.ns, func(h *netlink.Handle) error {
		err := errors.Join(h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", TxQLen: -1}, PeerName: "x0"}), netlab.Up(h, "eth0"), netlab.Up(h, "x0"))
		if err != nil {
			return err
		}
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		_, err = kernel.OnlyAddress(h, l, netip.MustParsePrefix("172.29.0.9/20"))
		return errors.Join(err, h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(172, 29, 0, 1)}))
	})
	var tcp net.Listener
	var udp net.PacketConn
	netlab.Within(t, x.ns, func() (err error) {
		if tcp, err = net.Listen("tcp", ":80"); err == nil {
			udp, err = net.ListenPacket("udp", ":53")
		}
		return err
	})
	x.deafen = func() { tcp.Close() }
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				stop := context.AfterFunc(ctx, func() { c.Close() }) // its end may not come through
				x.serve(c)
				stop()
			})
		}
	})
	running.Go(func() {
		buf := make([]byte, 2000)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			udp.WriteTo([]byte(x.sees(from)), from)
		}
	})
	t.Cleanup(func() { cancel(); tcp.Close(); udp.Close(); running.Wait() })
	return x
}

func (x *task) sees(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return fmt.Sprintf("%s sees %s\n", x.addr, host)
}

// serve answers each line.
func (x *task) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(deadline))
	buf := make([]byte, 100)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if _, err := c.Write([]byte(x.sees(c.RemoteAddr()))); err != nil {
			return
		}
	}
}
