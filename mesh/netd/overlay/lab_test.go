package overlay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds what must happen; silence is how long a test listens for what
// must not.
const (
	deadline = 20 * time.Second
	silence  = 200 * time.Millisecond
)

// A lab is some nodes on one underlay, each with real WireGuard, all of them
// network namespaces of this test.
type lab struct {
	t     testing.TB
	wire  *netlab.Wire
	nodes []*node
}

type node struct {
	lab    *lab
	i      int
	id     string
	ns     *os.File
	runDir string
	f      *fabric.Fabric
	o      *Overlays
	gen    uint64
	fgen   uint64
	halt   func() // nothing is put back any more
	stop   func() // ends both as the end of a process does
}

func (n *node) under() string    { return netlab.Under(n.i) }
func (n *node) mesh() netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(n.i)}) }

var within, links, up = netlab.Within, netlab.Links, netlab.Up

func newNetns(t testing.TB) *os.File { return netlab.Netns(t, "") }

func newLab(t testing.TB, n int) *lab {
	t.Helper()
	l := &lab{t: t, wire: netlab.NewWire(t)}
	for i := 1; i <= n; i++ {
		x := &node{lab: l, i: i, id: ident.New(), ns: l.wire.Plug(i), runDir: t.TempDir()}
		if err := os.Mkdir(filepath.Join(x.runDir, "netns"), 0o711); err != nil {
			t.Fatal(err)
		}
		x.start()
		l.nodes = append(l.nodes, x)
	}
	l.connect()
	return l
}

// start makes fabric and networks of the node, as a new process would, and runs
// them.
func (n *node) start() {
	t := n.lab.t
	t.Helper()
	log := slog.New(slog.NewTextHandler(netlab.Log{T: t, Node: n.i}, nil))
	f, err := fabric.New(fabric.Options{Netns: n.ns, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	o, err := New(Options{RunDir: n.runDir, Fabric: f, Netns: n.ns, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- f.Run(ctx) }()
	go func() { ended <- o.Run(ctx) }()
	n.f, n.o, n.gen, n.fgen = f, o, 0, 0
	n.halt = sync.OnceFunc(func() {
		cancel()
		for range 2 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		}
	})
	halt := n.halt
	n.stop = sync.OnceFunc(func() { halt(); o.Close(); f.Close() })
	t.Cleanup(n.stop)
}

// connect makes all nodes peers of each other.
func (l *lab) connect() {
	l.t.Helper()
	keys := make(map[*node][]byte)
	for _, n := range l.nodes {
		s, err := n.f.State()
		if err != nil {
			l.t.Fatal(err)
		}
		keys[n] = s.GetPublicKey()
	}
	for _, n := range l.nodes {
		n.fgen++
		req := &netdpb.FabricRequest{Generation: n.fgen, OwnPublicKey: keys[n], Address: n.mesh().String() + "/15", ListenPort: 51820}
		for _, p := range l.nodes {
			if p == n {
				continue
			}
			pair := []string{string(keys[n]), string(keys[p])}
			slices.Sort(pair)
			psk := sha256.Sum256([]byte("test " + strings.Join(pair, "")))
			req.Peers = append(req.Peers, &netdpb.FabricPeer{NodeId: p.id, PublicKey: keys[p], PresharedKey: psk[:], Endpoint: p.under() + ":51820", Address: p.mesh().String()})
		}
		if _, err := n.f.Declare(l.t.Context(), req); err != nil {
			l.t.Fatalf("node %d: %v", n.i, err)
		}
		n.o.Follow()
	}
}

// pin makes a network namespace and binds it below the node's run directory.
func (n *node) pin(name string) *os.File {
	t := n.lab.t
	t.Helper()
	ns, path := newNetns(t), n.netns(name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, ns, func() error { return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "") })
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return ns
}

func (n *node) unpin(name string) {
	n.lab.t.Helper()
	if err := errors.Join(unix.Unmount(n.netns(name), unix.MNT_DETACH), os.Remove(n.netns(name))); err != nil {
		n.lab.t.Fatal(err)
	}
}

func (n *node) netns(name string) string { return filepath.Join(n.runDir, "netns", name) }

// A lane is a network of the lab: what its nodes declare of it.
type lane struct {
	lab      *lab
	id       string
	k        int
	dual     bool
	deny     bool
	boxes    []*box
	services []*netdpb.OverlayService
	rules    []*netdpb.OverlayRule
	ns       map[*node]*os.File
}

// A box is a sandbox with an end on a network.
type box struct {
	lane    *lane
	node    *node
	ns      *os.File
	netns   string
	task    string
	service string
	addrs   []string
	serving bool
	index   uint32
}

func (w *lane) four(i int) string { return fmt.Sprintf("10.200.%d.%d", w.k, i) }
func (w *lane) six(i int) string  { return fmt.Sprintf("fd52::%x:%x", w.k, i) }
func (w *lane) netns() string     { return netnsPrefix + w.id }
func (w *lane) vni() uint32       { return uint32(1000 + w.k) }

// network makes one with a namespace on each node.
func (l *lab) network(k int) *lane {
	l.t.Helper()
	w := &lane{lab: l, id: ident.New(), k: k, dual: true, ns: map[*node]*os.File{}}
	for _, n := range l.nodes {
		w.ns[n] = n.pin(w.netns())
	}
	return w
}

// box makes a sandbox on a node with an address ending in i.
func (w *lane) box(n *node, i int) *box {
	w.lab.t.Helper()
	b := &box{lane: w, node: n, task: ident.New(), service: ident.New(), netns: ident.New(), addrs: []string{w.four(i)}, serving: true}
	if w.dual {
		b.addrs = append(b.addrs, w.six(i))
	}
	b.ns = n.pin(b.netns)
	w.boxes = append(w.boxes, b)
	return b
}

func (b *box) endpoint(on *node) *netdpb.OverlayEndpoint {
	e := &netdpb.OverlayEndpoint{TaskId: b.task, ServiceId: b.service, Addresses: b.addrs, Serving: b.serving}
	if b.node == on {
		e.Netns, e.Index = b.netns, b.index
	} else {
		e.Node = b.node.mesh().String()
	}
	return e
}

func (w *lane) declared(on *node) *netdpb.OverlayNetwork {
	out := &netdpb.OverlayNetwork{Id: w.id, Vni: w.vni(), Netns: w.netns(), DefaultDeny: w.deny, Services: w.services, Rules: w.rules,
		Subnets: []*netdpb.OverlaySubnet{{Subnet: w.four(0) + "/24", Gateway: w.four(1)}}}
	if w.dual {
		out.Subnets = append(out.Subnets, &netdpb.OverlaySubnet{Subnet: w.six(0) + "/112", Gateway: w.six(1)})
	}
	for _, b := range w.boxes {
		out.Endpoints = append(out.Endpoints, b.endpoint(on))
	}
	return out
}

// request declares the networks whole, under the next generation.
func (n *node) request(ws ...*lane) *netdpb.OverlayRequest {
	n.gen++
	req := &netdpb.OverlayRequest{Generation: n.gen, MeshAddress: n.mesh().String()}
	for _, w := range ws {
		req.Networks = append(req.Networks, w.declared(n))
	}
	return req
}

// change declares a difference.
func (n *node) change(w *lane, net *netdpb.OverlayNetwork) *netdpb.OverlayRequest {
	n.gen++
	net.Id, net.Changes = w.id, true
	return &netdpb.OverlayRequest{Generation: n.gen, Base: n.gen - 1, Networks: []*netdpb.OverlayNetwork{net}}
}

// declare expects that all of it is as declared.
func (n *node) declare(req *netdpb.OverlayRequest) {
	n.lab.t.Helper()
	for _, r := range n.results(req) {
		if r.GetError() != "" {
			n.lab.t.Fatalf("node %d: %v", n.i, r)
		}
	}
}

func (n *node) results(req *netdpb.OverlayRequest) []*netdpb.OverlayResult {
	n.lab.t.Helper()
	resp, err := n.o.Declare(n.lab.t.Context(), req)
	if err != nil {
		n.lab.t.Fatalf("node %d: %v", n.i, err)
	}
	return append(resp.GetNetworks(), resp.GetEndpoints()...)
}

// declare declares the networks on all nodes.
func (l *lab) declare(ws ...*lane) {
	l.t.Helper()
	for _, n := range l.nodes {
		n.declare(n.request(ws...))
	}
}
