package port

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	worker  = profilepb.Role_ROLE_WORKER
	manager = profilepb.Role_ROLE_MANAGER

	patience = 20 * time.Second
)

// host is a manager with a port.
type host struct {
	*Port
	node   *pkitest.Node
	addr   string
	leader atomic.Pointer[Leader]

	mu sync.Mutex
	// Both are guarded by mu.
	denied  map[string]bool
	removed map[string]*pkipb.Node
}

func (h *host) deny(id string) {
	h.mu.Lock()
	h.denied[id] = true
	h.mu.Unlock()
	h.Recheck([]string{id})
}

func newHost(t *testing.T, ca *pkitest.CA, limits Limits) *host {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{node: ca.NewNode(t, manager), addr: l.Addr().String(), denied: map[string]bool{}, removed: map[string]*pkipb.Node{}}
	h.leader.Store(&Leader{Self: true})
	h.Port, err = New(Config{
		Listener: l, Boot: h.node.Boot, Logger: slog.New(slog.DiscardHandler), Limits: limits,
		Admit: func(_ string, p *authz.Peer) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			switch {
			case p == nil:
				return nil
			case h.denied[p.NodeID]:
				return errors.New("denied")
			case h.removed[p.NodeID] != nil:
				return authz.CheckRecord(h.removed[p.NodeID], p.Role, p.SPKI)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	h.Unlock(h.node.Credentials, func() Leader { return *h.leader.Load() })
	return h
}

// follow makes h a follower of leader.
func (h *host) follow(leader *host) {
	h.leader.Store(&Leader{NodeID: leader.node.Record.GetId(), Address: leader.addr})
}

// echo serves a protocol by sending back what comes and reports connections.
func (h *host) echo(t *testing.T, alpn string) <-chan *Conn {
	t.Helper()
	l, err := h.Listen(alpn)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *Conn, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			got <- c.(*Conn)
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		h.cut(func(string, []*authz.Peer) bool { return true })
		wg.Wait()
	})
	return got
}

func accepted(t *testing.T, got <-chan *Conn) *Conn {
	t.Helper()
	select {
	case c := <-got:
		return c
	case <-time.After(patience):
		t.Fatal("no connection came")
		return nil
	}
}

// ping dials and reports whether an echo comes back.
func ping(t *testing.T, addr string, cfg *tls.Config) (*tls.Conn, error) {
	t.Helper()
	conn, err := pki.DialTLS(t.Context(), addr, cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("ping")); err != nil {
		return nil, err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, err
	}
	if string(b) != "ping" {
		t.Errorf("echo %q", b)
	}
	return conn, nil
}

// isClosed waits until the other side ended the connection.
func isClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, conn)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Error("the connection stays open")
	}
}

func anonymous(alpn ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: alpn}
}

// TestWhoMayConnect is protocol × certificate.
func TestWhoMayConnect(t *testing.T) {
	ca, foreign := pkitest.New(t), pkitest.New(t)
	h := newHost(t, ca, Limits{})
	for _, alpn := range served {
		h.echo(t, alpn)
	}
	w, m := ca.NewNode(t, worker), ca.NewNode(t, manager)
	day := 24 * time.Hour
	certs := map[string]*pki.Credentials{
		"worker": w.Credentials, "manager": m.Credentials, "boot": m.Boot,
		"expired manager":    ca.NewNodeAt(t, manager, time.Now().Add(-2*day)).Credentials,
		"late worker":        ca.NewNodeAt(t, worker, time.Now().Add(-2*day)).Credentials,
		"very late worker":   ca.NewNodeAt(t, worker, time.Now().Add(-40*day)).Credentials,
		"manager of 2 hours": ca.NewNodeAt(t, manager, time.Now().Add(2*time.Hour)).Credentials,
		"foreign manager":    foreign.NewNode(t, manager).Credentials,
		"none":               nil,
	}
	allowed := map[string][]string{
		pki.ALPNGRPC:  {"worker", "manager", "late worker", "none"},
		pki.ALPNRaft:  {"manager"},
		pki.ALPNLocal: {"manager"},
		pki.ALPNLock:  {"manager", "boot"},
	}
	for alpn, who := range allowed {
		for name, creds := range certs {
			cfg := anonymous(alpn)
			if creds != nil {
				cfg.GetClientCertificate = creds.GetClientCertificate
			}
			_, err := ping(t, h.addr, cfg)
			if got, want := err == nil, slices.Contains(who, name); got != want {
				t.Errorf("%s by %s: accepted %t, want %t (%v)", alpn, name, got, want, err)
			}
		}
	}
}

func TestHandshakePolicy(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{})
	h.echo(t, pki.ALPNGRPC)
	with := func(change func(*tls.Config)) *tls.Config {
		c := anonymous(pki.ALPNGRPC)
		change(c)
		return c
	}
	for name, cfg := range map[string]*tls.Config{
		"TLS 1.2":       with(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
		"X25519":        with(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }),
		"P-256":         with(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} }),
		"no ALPN":       anonymous(),
		"two protocols": anonymous("h2", pki.ALPNRaft),
		"http/1.1":      anonymous("http/1.1"),
		"unknown":       anonymous("redoubt-raft/2"),
	} {
		if _, err := ping(t, h.addr, cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	cfg := with(func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(4) })
	for range 2 {
		conn, err := ping(t, h.addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
	}
}

func TestLocked(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{})
	for _, alpn := range served {
		h.echo(t, alpn)
	}
	m := ca.NewNode(t, manager)
	before, err := ping(t, h.addr, m.ClientConfig(pki.ALPNGRPC, ""))
	if err != nil {
		t.Fatal(err)
	}
	h.Lock()
	isClosed(t, before)
	for _, alpn := range []string{pki.ALPNGRPC} {
		if _, err := ping(t, h.addr, m.ClientConfig(alpn, "")); !errors.Is(err, pki.ErrPeerLocked) {
			t.Errorf("%s at a locked manager: %v", alpn, err)
		}
	}
	for _, alpn := range []string{pki.ALPNRaft, pki.ALPNLocal, pki.ALPNLeader} {
		if _, err := ping(t, h.addr, m.ClientConfig(alpn, "")); err == nil {
			t.Errorf("%s at a locked manager: accepted", alpn)
		}
	}
	if _, err := ping(t, h.addr, anonymous(pki.ALPNGRPC)); err == nil {
		t.Error("a caller who does not check was served by a locked manager")
	}
	if _, err := ping(t, h.addr, m.Boot.ClientConfig(pki.ALPNLock, h.node.Record.GetId())); err != nil {
		t.Errorf("lock status of a locked manager: %v", err)
	}
	h.Unlock(h.node.Credentials, func() Leader { return Leader{Self: true} })
	if _, err := ping(t, h.addr, m.ClientConfig(pki.ALPNGRPC, "")); err != nil {
		t.Errorf("after unlocking: %v", err)
	}
}

func TestSplice(t *testing.T) {
	ca := pkitest.New(t)
	lead, follower := newHost(t, ca, Limits{}), newHost(t, ca, Limits{})
	follower.follow(lead)
	got := lead.echo(t, pki.ALPNGRPC)
	follower.echo(t, pki.ALPNGRPC)
	w := ca.NewNode(t, worker)
	conn, err := ping(t, follower.addr, w.ClientConfig(pki.ALPNGRPC, lead.node.Record.GetId()))
	if err != nil {
		t.Fatal(err)
	}
	c := accepted(t, got)
	if c.Peer() == nil || c.Peer().NodeID != w.Record.GetId() {
		t.Error("the leader does not see the real caller")
	}
	if c.RemoteAddr().String() != conn.LocalAddr().String() {
		t.Errorf("the leader sees source %s, not %s", c.RemoteAddr(), conn.LocalAddr())
	}
	// The exporter is the same at both ends: a join through a follower works.
	cs, ss := conn.ConnectionState(), c.ConnectionState()
	a, err := cs.ExportKeyingMaterial("EXPORTER-x", nil, 32)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ss.ExportKeyingMaterial("EXPORTER-x", nil, 32); err != nil || !bytes.Equal(a, b) {
		t.Error("the exporters differ")
	}
	// A lot, both ways.
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var wg sync.WaitGroup
	wg.Go(func() { conn.Write(big) })
	back := make([]byte, len(big))
	if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(big, back) {
		t.Errorf("1 MiB through the splice: %v", err)
	}
	wg.Wait()

	// The caller is denied at the leader: cut although the leader has never
	// heard of it but through the follower.
	lead.deny(w.Record.GetId())
	isClosed(t, conn)

	anon, err := ping(t, follower.addr, anonymous(pki.ALPNGRPC))
	if err != nil {
		t.Fatalf("a joiner through a follower: %v", err)
	}
	accepted(t, got)
	// The follower is denied: what came through it is cut.
	lead.deny(follower.node.Record.GetId())
	isClosed(t, anon)
	if _, err := ping(t, follower.addr, anonymous(pki.ALPNGRPC)); err == nil {
		t.Error("spliced by a denied follower")
	}
}

func TestSpliceOneHop(t *testing.T) {
	ca := pkitest.New(t)
	a, b := newHost(t, ca, Limits{}), newHost(t, ca, Limits{})
	a.echo(t, pki.ALPNGRPC)
	b.echo(t, pki.ALPNGRPC)
	w := ca.NewNode(t, worker)
	// Each believes the other to lead: no loop, an end.
	a.follow(b)
	b.follow(a)
	if _, err := ping(t, a.addr, w.ClientConfig(pki.ALPNGRPC, "")); !errors.Is(err, pki.ErrConnectionLost) {
		t.Errorf("a loop: %v", err)
	}
	// No leader.
	a.leader.Store(&Leader{})
	if _, err := ping(t, a.addr, w.ClientConfig(pki.ALPNGRPC, "")); !errors.Is(err, pki.ErrConnectionLost) {
		t.Errorf("no leader: %v", err)
	}
	// Another manager answers at the leader's address.
	a.leader.Store(&Leader{NodeID: w.Record.GetId(), Address: b.addr})
	if _, err := ping(t, a.addr, w.ClientConfig(pki.ALPNGRPC, "")); err == nil {
		t.Error("spliced to a manager that is not the leader")
	}
	// LeaderChanged makes callers come again.
	a.leader.Store(&Leader{Self: true})
	conn, err := ping(t, a.addr, w.ClientConfig(pki.ALPNGRPC, ""))
	if err != nil {
		t.Fatal(err)
	}
	a.LeaderChanged()
	isClosed(t, conn)
}

// TestSpliceHeader speaks the splice protocol as a manager gone bad.
func TestSpliceHeader(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{})
	got := h.echo(t, pki.ALPNGRPC)
	h.echo(t, pki.ALPNRaft)
	m := ca.NewNode(t, manager)
	dial := func() *tls.Conn {
		c, err := pki.DialTLS(t.Context(), h.addr, m.ClientConfig(pki.ALPNLeader, ""))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for name, header := range map[string]string{
		"empty":     "\x00\x00\x00\x00",
		"huge":      "\xff\xff\xff\xff",
		"no addr":   "\x00\x00\x00\x05hello",
		"no port":   "\x00\x00\x00\x091.2.3.4:x",
		"a name":    "\x00\x00\x00\x0blocalhost:1",
		"canonical": "\x00\x00\x00\x0a[1.2.3.4]:",
	} {
		c := dial()
		if _, err := c.Write([]byte(header + "rest")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		isClosed(t, c)
	}
	// Only h2 may be inside.
	c := dial()
	if _, err := c.Write([]byte("\x00\x00\x00\x091.2.3.4:5")); err != nil {
		t.Fatal(err)
	}
	if err := tls.Client(c, m.ClientConfig(pki.ALPNRaft, "")).Handshake(); err == nil {
		t.Error("raft inside a splice was accepted")
	}
	// A worker may not splice at all.
	w := ca.NewNode(t, worker)
	if _, err := ping(t, h.addr, w.ClientConfig(pki.ALPNLeader, "")); err == nil {
		t.Error("a worker spliced")
	}
	if len(got) != 0 {
		t.Error("something came through")
	}
}

func TestLimits(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{
		HalfOpenPerSource: 3, AnonymousPerSource: 2, PerNode: 2,
		Handshake: 2 * time.Second, AnonymousLife: time.Hour, AnonymousBytes: 4096,
	})
	h.echo(t, pki.ALPNGRPC)
	// Handshakes that never come: they make room for one that does.
	var idle []net.Conn
	for i := range 4 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
		eventually(t, func() bool { return h.halfOpen() == min(i+1, 3) })
	}
	isClosed(t, idle[0])
	if c, err := ping(t, h.addr, anonymous("h2")); err != nil {
		t.Errorf("a handshake among idle connections of its source: %v", err)
	} else {
		c.Close()
	}
	for _, c := range idle {
		isClosed(t, c) // the deadline of handshakes
	}
	eventually(t, func() bool { return h.halfOpen() == 0 && h.strangers() == 0 })

	var anon []*tls.Conn
	for range 3 {
		c, err := ping(t, h.addr, anonymous("h2"))
		if err != nil {
			t.Fatal(err)
		}
		anon = append(anon, c)
	}
	isClosed(t, anon[0]) // the third took its place
	if h.strangers() != 2 {
		t.Errorf("%d anonymous connections", h.strangers())
	}
	// A stranger may send so much and no more.
	anon[2].Write(make([]byte, 8192))
	isClosed(t, anon[2])
	eventually(t, func() bool { return h.strangers() == 1 })

	w := ca.NewNode(t, worker)
	for i := range 3 {
		_, err := ping(t, h.addr, w.ClientConfig(pki.ALPNGRPC, ""))
		if (err == nil) != (i < 2) {
			t.Errorf("connection %d of a node: %v", i+1, err)
		}
	}
}

func TestAnonymousLife(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{AnonymousLife: 100 * time.Millisecond})
	h.echo(t, pki.ALPNGRPC)
	conn, err := pki.DialTLS(t.Context(), h.addr, anonymous("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	isClosed(t, conn)
	eventually(t, func() bool { return h.strangers() == 0 && h.inUse(classConnection) == 0 })
}

func (h *host) inUse(c class) int {
	h.counts.mu.Lock()
	defer h.counts.mu.Unlock()
	return h.counts.used[countKey{c, ""}]
}

func (h *host) strangers() int {
	h.anonymous.mu.Lock()
	defer h.anonymous.mu.Unlock()
	return h.anonymous.n
}

func (h *host) halfOpen() int {
	n := 0
	for _, x := range []*crowd{h.quiet, h.half} {
		x.mu.Lock()
		n += x.n
		x.mu.Unlock()
	}
	return n
}

// eventually waits for a state that nothing announces.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("it never came to that")
		}
	}
}

func TestRaftDialer(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{})
	got := h.echo(t, pki.ALPNRaft)
	m := ca.NewNode(t, manager)
	dial := RaftDialer(m.Credentials)
	conn, err := dial(t.Context(), raftstore.JoinAddr(h.node.Record.GetId(), h.addr))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if c := accepted(t, got); c.Peer().NodeID != m.Record.GetId() {
		t.Error("raft does not know its peer")
	}
	if _, err := dial(t.Context(), raftstore.JoinAddr(m.Record.GetId(), h.addr)); !errors.Is(err, pki.ErrWrongNode) {
		t.Errorf("another node at the address: %v", err)
	}
	for _, addr := range []string{"", h.addr, "x@" + h.addr, m.Record.GetId() + "@"} {
		if _, err := dial(t.Context(), addr); err == nil {
			t.Errorf("dialled %q", addr)
		}
	}
	h.Lock()
	if _, err := DialGRPC(t.Context(), m.Credentials, []string{h.addr}); !errors.Is(err, pki.ErrPeerLocked) {
		t.Errorf("dialling a locked manager: %v", err)
	}
}

func TestTrustSwap(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{})
	h.echo(t, pki.ALPNGRPC)
	w := ca.NewNode(t, worker)
	if _, err := ping(t, h.addr, w.ClientConfig(pki.ALPNGRPC, "")); err != nil {
		t.Fatal(err)
	}
	// The issuer is no longer active: its certificates are refused although
	// they verify up to the root.
	trust := ca.Trust()
	trust.Issuers = []*x509.Certificate{pkitest.New(t).Issuer}
	if err := h.node.SetTrust(trust); err != nil {
		t.Fatal(err)
	}
	if _, err := ping(t, h.addr, w.ClientConfig(pki.ALPNGRPC, "")); err == nil {
		t.Error("an inactive issuer was accepted")
	}
}

func TestListen(t *testing.T) {
	h := newHost(t, pkitest.New(t), Limits{})
	if _, err := h.Listen(pki.ALPNLeader); err == nil {
		t.Error("the splice protocol was handed out")
	}
	l, err := h.Listen(pki.ALPNRaft)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Listen(pki.ALPNRaft); err == nil {
		t.Error("two listeners of one protocol")
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener: %v", err)
	}
	again, err := h.Listen(pki.ALPNRaft)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func hello(t testing.TB, protos ...string) []byte {
	client, server := net.Pipe()
	defer server.Close()
	done := make(chan []byte, 1)
	go func() {
		b := make([]byte, maxHello)
		n, _ := server.Read(b)
		done <- b[:n]
		server.Close()
	}()
	cfg := anonymous(protos...)
	cfg.MinVersion = tls.VersionTLS13
	tls.Client(client, cfg).Handshake()
	return <-done
}

// memConn is a connection that reads from memory and must not be written to.
type memConn struct {
	net.Conn
	r *bytes.Reader
	t testing.TB
}

func (c memConn) Read(b []byte) (int, error) { return c.r.Read(b) }
func (c memConn) Write([]byte) (int, error) {
	c.t.Error("the peek answered")
	return 0, io.ErrClosedPipe
}
func (c memConn) SetWriteDeadline(time.Time) error { return nil }
func (c memConn) Close() error                     { return nil }

func FuzzPeekHello(f *testing.F) {
	h := hello(f, pki.ALPNGRPC)
	f.Add(h)
	f.Add(h[:len(h)/2])
	f.Add(append(slices.Clone(h), "more"...))
	f.Add(hello(f, pki.ALPNRaft, "h2"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		offered, read, err := peekHello(memConn{r: bytes.NewReader(b), t: t})
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, read) || len(read) > maxHello {
			t.Error("what was read is not what was sent")
		}
		for _, p := range offered {
			if !strings.Contains(string(b), p) {
				t.Error("a protocol that was not offered")
			}
		}
	})
}

func TestPeekHello(t *testing.T) {
	h := hello(t, pki.ALPNLock)
	offered, read, err := peekHello(memConn{r: bytes.NewReader(h), t: t})
	if err != nil || len(offered) != 1 || offered[0] != pki.ALPNLock || !bytes.Equal(read, h) {
		t.Errorf("%q, %d of %d bytes, %v", offered, len(read), len(h), err)
	}
	// A record that announces more than the bound, and plain HTTP.
	big := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0}, make([]byte, 2*maxHello)...)
	for _, b := range [][]byte{big, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), {}, h[:40]} {
		if _, _, err := peekHello(memConn{r: bytes.NewReader(b), t: t}); err == nil {
			t.Errorf("peeked at %.20q", b)
		}
	}
}

func FuzzReadSource(f *testing.F) {
	b, err := appendSource(nil, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("\x00\x00\x00\x07[::1]:1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readSource(bytes.NewReader(b))
		if err != nil {
			return
		}
		// What is read is what would be written, up to mapped addresses.
		if _, err := appendSource(nil, a); err != nil {
			t.Error(err)
		}
	})
}
