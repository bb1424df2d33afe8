package port

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

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
	// LeaderChanged makes callers come again, but not those that found the new one.
	a.leader.Store(&Leader{Self: true})
	conn, err := ping(t, a.addr, w.ClientConfig(pki.ALPNGRPC, ""))
	if err != nil {
		t.Fatal(err)
	}
	a.LeaderChanged(Leader{Self: true})
	if err := echoed(conn); err != nil {
		t.Errorf("a caller of the new leader was cut: %v", err)
	}
	a.LeaderChanged(Leader{})
	isClosed(t, conn)
	b.leader.Store(&Leader{Self: true})
	a.follow(b)
	if conn, err = ping(t, a.addr, w.ClientConfig(pki.ALPNGRPC, "")); err != nil {
		t.Fatal(err)
	}
	a.LeaderChanged(*a.leader.Load())
	if err := echoed(conn); err != nil {
		t.Errorf("a caller who was led to the new leader was cut: %v", err)
	}
	a.LeaderChanged(Leader{NodeID: w.Record.GetId(), Address: b.addr})
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
