package port

import (
	"crypto/x509"
	"errors"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

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
