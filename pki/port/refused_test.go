package port

import (
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// TestRefusedIsTold: a removed manager on any protocol of managers, and a certificate
// that another CA signed; not who is served, nor who is refused by each call.
func TestRefusedIsTold(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{})
	all := []string{pki.ALPNRaft, pki.ALPNLocal, pki.ALPNWitness, pki.ALPNLeader}
	for _, alpn := range append(all[:3:3], pki.ALPNGRPC) {
		h.echo(t, alpn)
	}
	take := func() []string {
		h.mu.Lock()
		defer h.mu.Unlock()
		told := h.heard
		h.heard = nil
		return told
	}
	m := ca.NewNode(t, manager)
	if _, err := ping(t, h.addr, m.ClientConfig(pki.ALPNRaft, "")); err != nil || len(take()) > 0 {
		t.Fatalf("one that is served: %v", err)
	}
	h.deny(m.Record.GetId())
	for _, alpn := range all {
		ping(t, h.addr, m.ClientConfig(alpn, ""))
		name, _, _ := strings.Cut(alpn, "/")
		want := m.Record.GetId() + " 127.0.0.1 port/" + name + " denied"
		eventually(t, func() bool { return slices.Contains(take(), want) })
	}
	stranger := pkitest.New(t).NewNode(t, manager).ClientConfig(pki.ALPNRaft, "")
	stranger.VerifyConnection = nil // it takes whom it meets
	ping(t, h.addr, stranger)
	eventually(t, func() bool {
		return slices.ContainsFunc(take(), func(s string) bool { return strings.HasPrefix(s, " 127.0.0.1 port/redoubt-raft ") })
	})
	w := ca.NewNode(t, worker)
	w.Record.Denied = true
	h.remove(w.Record)
	if _, err := ping(t, h.addr, w.ClientConfig(pki.ALPNGRPC, "")); err != nil || len(take()) > 0 {
		t.Errorf("one whose calls are refused: %v", err)
	}
}
