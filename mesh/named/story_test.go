package named_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/named"
	"github.com/redoubt-cluster/redoubt/mesh/named/hand"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 20 * time.Second

// newNetns makes a network namespace with lo up, and enters it for a function.
func newNetns(t testing.TB) hand.In {
	t.Helper()
	var ns *os.File
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	in := func(fn func() error) error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			if err == nil {
				err = fn()
			}
			done <- err
		}()
		return <-done
	}
	err := in(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// node is a named that can be restarted, as its supervisor would: the sockets on
// which it listens stay.
type node struct {
	t             testing.TB
	control, hand *net.UnixListener
	tell          *wire.Client
	stop          func()
	gen           uint64
}

func newNode(t testing.TB) *node {
	dir := t.TempDir()
	n := &node{t: t}
	listen := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	n.control, n.hand = listen("named"), listen("net")
	n.tell = wire.NewClient(n.control.Addr().String())
	t.Cleanup(func() { n.tell.Close() })
	return n
}

func (n *node) start() {
	n.t.Helper()
	copyOf := func(l *net.UnixListener) net.Listener {
		f, err := l.File()
		if err != nil {
			n.t.Fatal(err)
		}
		defer f.Close()
		c, err := net.FileListener(f)
		if err != nil {
			n.t.Fatal(err)
		}
		c.(*net.UnixListener).SetUnlinkOnClose(false)
		return c
	}
	uid := uint32(os.Getuid())
	s := named.New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	control, h := copyOf(n.control), copyOf(n.hand)
	go func() { ended <- s.Serve(ctx, control, uid, h, uid) }()
	n.stop = func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			n.t.Errorf("Serve: %v", err)
		}
		s.Close()
		n.stop = func() {}
	}
	n.t.Cleanup(func() { n.stop() })
}

func (n *node) declare(req *namedpb.DeclareRequest) {
	n.t.Helper()
	n.gen++
	req.Generation = n.gen
	var resp namedpb.Response
	call := &namedpb.Request{Verb: &namedpb.Request_Declare{Declare: req}}
	err := n.tell.Call(n.t.Context(), call, &resp)
	if err != nil { // after a restart the old connection is of no use
		err = n.tell.Call(n.t.Context(), call, &resp)
	}
	if err != nil || resp.GetError() != nil {
		n.t.Fatalf("declare: %v %v", err, resp.GetError())
	}
}

// netd is the half that makes sockets.
func (n *node) netd(t testing.TB) (*hand.Hand, func()) {
	h := hand.New(n.hand.Addr().String(), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { h.Run(ctx); close(ended) }()
	stop := func() { cancel(); <-ended }
	t.Cleanup(stop)
	return h, stop
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		runtime.Gosched()
	}
}

// resolver is a Go resolver in the sandbox, as a Go program there would have it.
func resolver(in hand.In) *net.Resolver {
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (c net.Conn, err error) {
		err = in(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, network, "127.0.0.11:53")
			return err
		})
		return c, err
	}}
}

func ask(t testing.TB, in hand.In, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	var c net.Conn
	if err := in(func() (err error) { c, err = net.Dial(network, "127.0.0.11:53"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := new(dns.Msg).SetQuestion(name, kind)
	m.SetEdns0(4096, false)
	r, _, err := (&dns.Client{Net: network, Timeout: deadline, UDPSize: 4096}).ExchangeWithConn(m, &dns.Conn{Conn: c})
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return r
}

// upstream is a resolver outside, which knows one name.
func upstream(t testing.TB, seen func(string)) string {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		seen(strings.ToLower(q.Question[0].Name))
		r := new(dns.Msg).SetReply(q)
		if strings.EqualFold(q.Question[0].Name, "example.org.") && q.Question[0].Qtype == dns.TypeA {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 7)}}
		} else if !strings.EqualFold(q.Question[0].Name, "example.org.") {
			r.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(r)
	})}
	ready := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(ready) }
	ended := make(chan error)
	go func() { ended <- srv.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() { srv.Shutdown(); <-ended })
	return pc.LocalAddr().String()
}

// TestStory: two sandboxes in namespaces of their own, on networks that they share
// in part, through restarts of named and of netd.
func TestStory(t *testing.T) {
	n := newNode(t)
	n.start()
	h, stopNetd := n.netd(t)
	a, b := newNetns(t), newNetns(t)
	taskA, taskB := ident.New(), ident.New()
	front, back := ident.New(), ident.New()
	wanted := map[string]hand.In{taskA: a, taskB: b}
	h.Keep(wanted)
	var outside []string
	seen := make(chan string, 1000)
	world := func(readyDB bool) *namedpb.DeclareRequest {
		return &namedpb.DeclareRequest{
			Resolvers: &namedpb.Resolvers{Upstreams: []string{n.upstream(t, seen)}},
			Networks: []*namedpb.Network{
				{Id: front, Subnets: []string{"10.200.1.0/24"}, Services: []*namedpb.Service{{Name: "web", Aliases: []string{"www"}, Vips: []string{"10.200.1.200", "fd00::c8"},
					Ports: []*namedpb.Port{{Name: "http", Port: 80}},
					Tasks: []*namedpb.Task{{Id: "1", Slot: 1, Addresses: []string{"10.200.1.2"}, Ready: true}, {Id: "2", Slot: 2, Addresses: []string{"10.200.1.3"}}}}}},
				{Id: back, Subnets: []string{"10.200.2.0/24"}, Services: []*namedpb.Service{{Name: "db",
					Tasks: []*namedpb.Task{{Id: "3", Slot: 1, Addresses: []string{"10.200.2.2"}, Ready: readyDB}, {Id: "4", Slot: 2, Addresses: []string{"10.200.2.3"}, Ready: true}}}}},
			},
			Sandboxes: []*namedpb.Sandbox{
				{TaskId: taskA, Hostname: "web-1", NetworkIds: []string{front, back}, Addresses: []string{"10.200.1.2"}, Forward: true},
				{TaskId: taskB, Hostname: "db-1", NetworkIds: []string{back}, Addresses: []string{"10.200.2.2"}},
			}}
	}
	n.declare(world(true))
	eventually(t, "both have sockets", func() bool { return h.Err(taskA) == nil && h.Err(taskB) == nil })

	check := func(in hand.In, name string, want ...string) {
		t.Helper()
		got, err := resolver(in).LookupHost(t.Context(), name)
		slices.Sort(got)
		if err != nil && len(want) > 0 || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v, want %v", name, got, err, want)
		}
		var nx *net.DNSError
		if len(want) == 0 && (!errors.As(err, &nx) || !nx.IsNotFound) {
			t.Errorf("%s: %v, want that it is not there", name, err)
		}
	}
	all := func() {
		t.Helper()
		check(a, "web.", "10.200.1.200", "fd00::c8")
		check(a, "WWW.", "10.200.1.200", "fd00::c8")
		check(a, "tasks.web.", "10.200.1.2")
		check(a, "1.web.", "10.200.1.2")
		check(a, "2.web.")
		check(a, "db.", "10.200.2.2", "10.200.2.3")
		check(b, "db.", "10.200.2.2", "10.200.2.3")
		check(b, "db-1.", "10.200.2.2")
		check(b, "web.") // of a network it is not on
		check(b, "tasks.web.")
		check(b, "example.org.") // its network is internal
		check(a, "example.org.", "192.0.2.7")
		check(a, "nosuch.")
	}
	all()
	if names, err := resolver(a).LookupAddr(t.Context(), "10.200.1.200"); err != nil || !slices.Equal(names, []string{"web."}) {
		t.Errorf("PTR: %v %v", names, err)
	}
	if _, srv, err := resolver(a).LookupSRV(t.Context(), "http", "tcp", "web."); err != nil || len(srv) != 1 || srv[0].Target != "web." || srv[0].Port != 80 {
		t.Errorf("SRV: %v %v", srv, err)
	}
	for _, network := range []string{"udp", "tcp"} {
		if r := ask(t, a, network, "web.", dns.TypeA); len(r.Answer) != 1 || !r.Authoritative || r.IsEdns0() == nil {
			t.Errorf("%s: %v", network, r)
		}
	}

	// A task is withdrawn: from the answer to the declaration on nobody is told of it.
	n.declare(world(false))
	check(b, "db.", "10.200.2.3")
	check(b, "1.db.")
	n.declare(world(true))

	// named is started again: nobody but netd and redoubtd has anything to do.
	n.stop()
	early := make(chan error, 1)
	go func() { // asks while there is no named: the query waits in the socket
		_, err := resolver(b).LookupHost(context.Background(), "db.")
		early <- err
	}()
	n.start()
	eventually(t, "both have sockets again", func() bool { return h.Err(taskA) == nil && h.Err(taskB) == nil })
	n.declare(world(true))
	if err := <-early; err != nil {
		t.Errorf("asked while named was away: %v", err)
	}
	all()

	// netd is started again: named goes on, and gives nothing up before it is told.
	stopNetd()
	all()
	h, _ = n.netd(t)
	all()
	h.Keep(wanted)
	eventually(t, "the new netd knows", func() bool { return h.Err(taskA) == nil && h.Err(taskB) == nil })
	all()

	// A sandbox goes.
	h.Keep(map[string]hand.In{taskA: a})
	eventually(t, "it is given back", func() bool {
		return b(func() error {
			pc, err := net.ListenPacket("udp4", "127.0.0.11:53")
			if err == nil {
				pc.Close()
			}
			return err
		}) == nil
	})
	check(a, "web.", "10.200.1.200", "fd00::c8")

	for len(seen) > 0 {
		name := <-seen
		outside = append(outside, name)
		if name != "example.org." {
			t.Errorf("the resolver outside was asked for %s", name)
		}
	}
	if len(outside) == 0 {
		t.Error("the resolver outside was never asked: the test proves nothing")
	}
}

var upstreamAddr string

func (n *node) upstream(t testing.TB, seen chan<- string) string {
	if upstreamAddr == "" {
		upstreamAddr = upstream(t, func(s string) { seen <- s })
		t.Cleanup(func() { upstreamAddr = "" })
	}
	if _, err := netip.ParseAddrPort(upstreamAddr); err != nil {
		t.Fatal(err)
	}
	return upstreamAddr
}
