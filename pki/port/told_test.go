package port

import (
	"io"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// TestTold: a node that was removed reaches h2 and nothing else, for a moment,
// within the bounds of a stranger, and through a follower too.
func TestTold(t *testing.T) {
	ca := pkitest.New(t)
	limits := Limits{ToldLife: 500 * time.Millisecond, AnonymousBytes: 4 << 10}
	lead, follower := newHost(t, ca, limits), newHost(t, ca, limits)
	follower.follow(lead)
	got := lead.echo(t, pki.ALPNGRPC)
	for _, alpn := range []string{pki.ALPNRaft, pki.ALPNLock, pki.ALPNLocal} {
		lead.echo(t, alpn)
	}
	w, m := ca.NewNode(t, worker), ca.NewNode(t, manager)
	for _, n := range []*pkitest.Node{w, m} {
		n.Record.Denied = true
		lead.remove(n.Record)
	}
	for _, addr := range []string{lead.addr, follower.addr} {
		for name, n := range map[string]*pkitest.Node{"worker": w, "manager": m} {
			conn, err := ping(t, addr, n.ClientConfig(pki.ALPNGRPC, lead.node.Record.GetId()))
			if err != nil {
				t.Fatalf("a removed %s is not told: %v", name, err)
			}
			if c := accepted(t, got); c.Peer().NodeID != n.Record.GetId() || !c.bounded {
				t.Error("the connection has no bounds, or is not of the node")
			}
			isClosed(t, conn)
		}
	}
	for _, alpn := range []string{pki.ALPNRaft, pki.ALPNLock, pki.ALPNLocal} {
		if _, err := ping(t, lead.addr, m.ClientConfig(alpn, "")); err == nil {
			t.Errorf("a removed manager reaches %s", alpn)
		}
	}
	// What it may send is bounded, and how often it may be here.
	conn, err := ping(t, lead.addr, w.ClientConfig(pki.ALPNGRPC, ""))
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, got)
	go conn.Write(make([]byte, 8<<10))
	if n, err := io.Copy(io.Discard, conn); n > 4<<10 {
		t.Errorf("%d bytes passed (%v)", n, err)
	}
	var conns []io.Closer
	for range 20 {
		c, err := ping(t, lead.addr, w.ClientConfig(pki.ALPNGRPC, ""))
		if err != nil {
			t.Fatal(err)
		}
		accepted(t, got)
		conns = append(conns, c)
	}
	n := lead.told.Len()
	if n > defaults.ToldPerNode {
		t.Errorf("%d of %d connections of one removed node are there", n, len(conns))
	}
	// Others are as welcome as before.
	if _, err := ping(t, follower.addr, ca.NewNode(t, worker).ClientConfig(pki.ALPNGRPC, "")); err != nil {
		t.Error(err)
	}
}

// remove makes Admit say of a node what the authorizer says of that record.
func (h *host) remove(n *pkipb.Node) {
	h.mu.Lock()
	h.removed[n.GetId()] = n
	h.mu.Unlock()
	h.Recheck([]string{n.GetId()})
}
