package fabric

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fasttap"
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

const controlPort = 7946

// A lab is some nodes on one underlay, all of them network namespaces of this
// test.
//
//	node 1: u0 192.0.2.1, rdtw… 198.18.0.1, its overlay's namespace 10.200.0.1
//	node 2: u0 192.0.2.2, rdtw… 198.18.0.2, its overlay's namespace 10.200.0.2
//	…                      wire (a bridge in a namespace) in the middle
type lab struct {
	t     testing.TB
	wire  *netlab.Wire
	nodes []*node
}

type node struct {
	lab     *lab
	i       int
	id      string
	ns      *os.File
	overlay *os.File // nil: none yet
	f       *Fabric
	gen     uint64
	best    fasttap.Mode // of the embedded driver; 0: any
	halt    func()       // nothing is put back any more
	stop    func()       // ends the fabric as the end of a process does
}

func (n *node) under() string        { return netlab.Under(n.i) }
func (n *node) mesh() netip.Addr     { return netip.AddrFrom4([4]byte{198, 18, 0, byte(n.i)}) }
func (n *node) inside() string       { return fmt.Sprintf("10.200.0.%d", n.i) }
func (n *node) mac() (m [6]byte)     { return routerMAC(n.mesh()) }
func routerMAC(a netip.Addr) [6]byte { b := a.As4(); return [6]byte{2, 0x52, b[0], b[1], b[2], b[3]} }

var within, routes, up = netlab.Within, netlab.Links, netlab.Up

func newNetns(t testing.TB) *os.File {
	f := netlab.Netns(t, "")
	routes(t, f, func(h *netlink.Handle) error { return up(h, "lo") })
	return f
}

func newLab(t testing.TB, n int) *lab {
	t.Helper()
	return newLabOf(t, make([]fasttap.Mode, n)...)
}

// newLabOf makes a node of each mode; one without a mode has the kernel's
// WireGuard where there is one.
func newLabOf(t testing.TB, modes ...fasttap.Mode) *lab {
	t.Helper()
	l := &lab{t: t, wire: netlab.NewWire(t)}
	for i, mode := range modes {
		x := &node{lab: l, i: i + 1, id: ident.New(), ns: l.wire.Plug(i + 1), best: mode}
		x.start()
		l.nodes = append(l.nodes, x)
	}
	return l
}

// start makes a fabric of the node, as a new process would, and runs it.
func (n *node) start() {
	t := n.lab.t
	t.Helper()
	f, err := New(Options{Netns: n.ns, Logger: slog.New(slog.NewTextHandler(netlab.Log{T: t, Node: n.i}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	f.best, f.avoidKernel = n.best, n.best != 0
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	n.f, n.gen = f, 0
	n.halt = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	halt := n.halt
	n.stop = func() { halt(); f.Close() }
	t.Cleanup(n.stop)
}

func (n *node) state() *netdpb.FabricStateResponse {
	n.lab.t.Helper()
	s, err := n.f.State()
	if err != nil {
		n.lab.t.Fatal(err)
	}
	return s
}

// pair is the pre-shared key of two WireGuard keys.
func pair(a, b []byte) []byte {
	keys := []string{string(a), string(b)}
	slices.Sort(keys)
	sum := sha256.Sum256([]byte("test " + strings.Join(keys, "")))
	return sum[:]
}

// request declares the nodes as peers, under the next generation.
func (n *node) request(peers ...*node) *netdpb.FabricRequest {
	n.lab.t.Helper()
	n.gen++
	own := n.state().GetPublicKey()
	req := &netdpb.FabricRequest{Generation: n.gen, OwnPublicKey: own, Address: n.mesh().String() + "/15", ListenPort: 51820, ControlPort: controlPort}
	for _, p := range peers {
		key := p.state().GetPublicKey()
		req.Peers = append(req.Peers, &netdpb.FabricPeer{NodeId: p.id, PublicKey: key, PresharedKey: pair(own, key),
			Endpoint: p.under() + ":51820", Address: p.mesh().String()})
	}
	return req
}

func (n *node) declare(req *netdpb.FabricRequest) *netdpb.FabricResponse {
	n.lab.t.Helper()
	r, err := n.f.Declare(n.lab.t.Context(), req)
	if err != nil {
		n.lab.t.Fatalf("node %d: %v", n.i, err)
	}
	return r
}

// connect makes all nodes peers of each other.
func (l *lab) connect() {
	l.t.Helper()
	for _, n := range l.nodes {
		n.declare(n.request(l.others(n)...))
	}
}

func (l *lab) others(n *node) (out []*node) {
	for _, o := range l.nodes {
		if o != n {
			out = append(out, o)
		}
	}
	return out
}

// overlays gives each node one end of the network vni, in a namespace of its own.
func (l *lab) overlays(vni uint32) {
	l.t.Helper()
	for _, n := range l.nodes {
		n.overlay = newNetns(l.t)
		var admit []Admission
		name, mtu, _ := n.f.Link()
		routes(l.t, n.ns, func(h *netlink.Handle) error {
			wg, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			mac := n.mac()
			x := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx0", TxQLen: -1, MTU: mtu - vxlanOverhead, HardwareAddr: mac[:]},
				VxlanId: int(vni), SrcAddr: n.mesh().AsSlice(), VtepDevIndex: wg.Attrs().Index, Port: vxlanPort}
			if err := h.LinkAdd(x); err != nil {
				return fmt.Errorf("vxlan: %w", err)
			}
			return h.LinkSetNsFd(x, int(n.overlay.Fd()))
		})
		routes(l.t, n.overlay, func(h *netlink.Handle) error {
			x, err := h.LinkByName("vx0")
			if err != nil {
				return err
			}
			if _, err := kernel.OnlyAddress(h, x, netip.MustParsePrefix(n.inside()+"/24")); err != nil {
				return err
			}
			for _, o := range l.others(n) {
				mac := o.mac()
				admit = append(admit, Admission{Node: o.mesh(), VNI: vni, MAC: mac})
				if err := errors.Join(
					h.NeighSet(&netlink.Neigh{LinkIndex: x.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
						IP: net.ParseIP(o.inside()).To4(), HardwareAddr: mac[:]}),
					h.NeighAppend(&netlink.Neigh{LinkIndex: x.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT,
						Flags: netlink.NTF_SELF, IP: o.mesh().AsSlice(), HardwareAddr: mac[:]})); err != nil {
					return err
				}
			}
			return h.LinkSetUp(x)
		})
		if err := n.f.Admit(l.t.Context(), admit); err != nil {
			l.t.Fatal(err)
		}
	}
}

// routeVia leads to one address, or everywhere, by way of a neighbour.
func routeVia(to, via netip.Addr) func(h *netlink.Handle) error {
	return func(h *netlink.Handle) error {
		l, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: via.AsSlice()}
		if to.IsValid() {
			r.Dst = kernel.IPNet(netip.PrefixFrom(to, 32))
		}
		return h.RouteReplace(r)
	}
}

// nothing is a declaration of nothing.
func nothing(gen uint64) *netdpb.FabricRequest { return &netdpb.FabricRequest{Generation: gen} }
