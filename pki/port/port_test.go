package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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
	// All are guarded by mu.
	heard   []string // of whom, where and why Refused was told
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
		Refused: func(id authz.Identity, method, reason string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			host, _, _ := net.SplitHostPort(id.Source.String())
			h.heard = append(h.heard, strings.Join([]string{id.NodeID, host, method, reason}, " "))
		},
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
		h.cut(func(tracked) bool { return true })
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
	if err := echoed(conn); err != nil {
		return nil, err
	}
	return conn, nil
}

// echoed returns an error unless what is sent comes back.
func echoed(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("ping")); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != "ping" {
		return fmt.Errorf("echo %q", b)
	}
	return nil
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
