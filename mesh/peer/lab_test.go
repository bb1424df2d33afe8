package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds what must happen.
const deadline = 20 * time.Second

// A world is some nodes that reach each other: over pipes in a bubble of
// synctest, with real TLS.
type world struct {
	t     testing.TB
	ca    *pkitest.CA
	nodes []*node

	mu     sync.Mutex
	hosts  map[string]*pipeListener // by host:port
	cut    map[string]bool          // "from to": no connection is made
	inside map[string]string        // of nodes behind a NAT: where they are themselves
	off    map[netip.Addr]bool      // mesh addresses of nodes that nobody hears
	dialed int
}

type node struct {
	*Peers
	w       *world
	i       int
	creds   *pki.Credentials
	netd    *kernel
	address string
	stop    func()
	words   hearing
	silence silence
}

func newWorld(t testing.TB, n int) *world {
	w := &world{t: t, ca: pkitest.New(t), hosts: map[string]*pipeListener{}, cut: map[string]bool{}, inside: map[string]string{}, off: map[netip.Addr]bool{}}
	var creds []*pki.Credentials
	for range n {
		creds = append(creds, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER).Credentials)
	}
	// In the order of their ids, so that a test knows who is the lower one.
	slices.SortFunc(creds, func(a, b *pki.Credentials) int { return strings.Compare(a.Identity().NodeID, b.Identity().NodeID) })
	for i, c := range creds {
		x := &node{w: w, i: i + 1, creds: c, netd: newKernel(), address: fmt.Sprintf("192.0.2.%d:7946", i+1)}
		w.nodes = append(w.nodes, x)
		x.start(nil)
	}
	return w
}

func (x *node) id() string       { return x.creds.Identity().NodeID }
func (x *node) mesh() netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(x.i)}) }
func (x *node) view() View       { return View{ID: x.id(), Mesh: x.mesh(), Underlay: x.address} }

// start runs the node's Peers, as a new process would.
func (x *node) start(change func(*Options)) {
	x.w.t.Helper()
	l := x.w.listen(x.address)
	x.words.clear()
	o := Options{ID: x.id(), TLS: x.creds, Netd: x.netd, Listener: l, RotateEvery: -1, Heard: x.words.take, Silent: x.silence.take,
		ask:    func(ctx context.Context, to netip.AddrPort) bool { return x.w.answers(ctx, x.mesh(), to.Addr()) },
		Logger: slog.New(slog.NewTextHandler(testWriter{x.w.t, x.i}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		dial:   func(ctx context.Context, address string) (net.Conn, error) { return x.w.dial(ctx, x.address, address) }}
	if change != nil {
		change(&o)
	}
	p, err := New(o)
	if err != nil {
		x.w.t.Fatal(err)
	}
	x.Peers = p
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			x.w.t.Errorf("Run: %v", err)
		}
	})
	x.w.t.Cleanup(x.stop)
}

// know makes all of them peers of each other.
func (w *world) know(nodes ...*node) {
	for _, x := range nodes {
		x.set(nodes...)
	}
}

func (x *node) set(nodes ...*node) {
	x.w.t.Helper()
	var views []View
	for _, o := range nodes {
		if o != x {
			views = append(views, o.view())
		}
	}
	if err := x.Set(netip.PrefixFrom(x.mesh(), 15), views); err != nil {
		x.w.t.Fatal(err)
	}
}

// status of one peer.
func (x *node) of(o *node) PeerStatus {
	for _, s := range x.State().Peers {
		if s.NodeID == o.id() {
			return s
		}
	}
	return PeerStatus{}
}

// joined reports whether the two netds would let each other's handshakes through.
func joined(a, b *node) error {
	pa, pb := a.netd.peer(b.id()), b.netd.peer(a.id())
	switch {
	case pa == nil || pb == nil:
		return fmt.Errorf("nodes %d and %d: declared %t and %t", a.i, b.i, pa != nil, pb != nil)
	case !bytes.Equal(pa.PublicKey, b.netd.public()) || !bytes.Equal(pb.PublicKey, a.netd.public()):
		return fmt.Errorf("nodes %d and %d have old keys of each other", a.i, b.i)
	case !bytes.Equal(pa.PresharedKey, pb.PresharedKey):
		return fmt.Errorf("nodes %d and %d have different pre-shared keys", a.i, b.i)
	}
	return nil
}

func (w *world) joined(nodes ...*node) {
	w.t.Helper()
	for i, a := range nodes {
		for _, b := range nodes[i+1:] {
			if err := joined(a, b); err != nil {
				w.t.Errorf("%v; %+v; %+v", err, a.of(b), b.of(a))
			}
		}
	}
}

type testWriter struct {
	t testing.TB
	i int
}

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("node %d: %s", w.i, bytes.TrimSpace(b))
	return len(b), nil
}

// bubble runs a story in time that does not pass by itself.
func bubble(t *testing.T, n int, story func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, n)
		story(t, w)
		for _, x := range w.nodes {
			x.stop()
		}
	})
}

// after lets time pass, and then all that follows from it happen.
func after(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

// Connections are pipes with addresses.
type pipeListener struct {
	w       *world
	address string
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (w *world) listen(address string) *pipeListener {
	l := &pipeListener{w: w, address: address, conns: make(chan net.Conn), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[address] = l
	return l
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(l.address))
}

type pipe struct {
	net.Conn
	remote, local net.Addr
}

func (p pipe) RemoteAddr() net.Addr { return p.remote }
func (p pipe) LocalAddr() net.Addr  { return p.local }

func (w *world) dial(ctx context.Context, from, to string) (net.Conn, error) {
	w.mu.Lock()
	l, cut := w.hosts[to], w.cut[from+" "+to]
	own := from
	if inside := w.inside[from]; inside != "" {
		own = inside
	}
	w.dialed++
	w.mu.Unlock()
	if l == nil || cut {
		return nil, fmt.Errorf("%s: connection refused", to)
	}
	ours, theirs := newPipe()
	addr := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	select {
	case l.conns <- pipe{theirs, addr(from), addr(to)}:
		return pipe{ours, addr(to), addr(own)}, nil
	case <-l.done:
	case <-ctx.Done():
	}
	ours.Close()
	return nil, fmt.Errorf("%s: connection refused", to)
}

func (w *world) sever(a, b *node, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[a.address+" "+b.address], w.cut[b.address+" "+a.address] = cut, cut
}

// leaf makes credentials of any shape.
func leaf(t testing.TB, ca *pkitest.CA, id string, role profilepb.Role, at time.Time, life time.Duration) *pki.Credentials {
	t.Helper()
	k, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.Issue(profile.Identity{ClusterID: ca.ClusterID, NodeID: id, Role: role}, k.Public(), at, life)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.NewCredentials(chain, k, ca.Trust())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (x *node) mesh_(bits int) netip.Prefix {
	if bits == 0 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(x.mesh(), bits)
}

func freshID() string { return ident.New() }

func lines(err error) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(fmt.Sprint(err)) {
			if !yield(line) {
				return
			}
		}
	}
}

func addr(a [4]byte) netip.Addr { return netip.AddrFrom4(a) }
