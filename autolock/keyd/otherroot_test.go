package keyd

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// A manager that was off while the root was replaced is sealed no share and released
// by nobody, and passes none on: the refusal says why. What is typed on it opens it.
func TestRootReplacedMeanwhile(t *testing.T) {
	c, other, sign, _ := withRelease(t)
	ticket := ticketOf(t, other.instance)
	var adopted []*keydpb.SealedKeyset
	both := []*profilepb.CertificateChain{c.init.Manager, other.init.Manager}
	var last *keydpb.RotateCAResponse
	for _, what := range []keydpb.CAChange{newRoot, switchRoot, dropRoot} {
		r, err := c.RotateCA(t.Context(), &keydpb.RotateCARequest{Change: what, Managers: both})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.GetSealed() {
			if s.GetNodeId() != c.nodeID {
				adopted = append(adopted, s)
				continue
			}
			if _, err := c.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: r.GetEpoch(), SealedKeyset: s.GetSealed()}); err != nil {
				t.Fatal(err)
			}
		}
		last = r
	}
	bootKey := newKey(t)
	own, err := c.SignOwn(t.Context(), &keydpb.SignOwnRequest{Csr: newCSR(t, newKey(t), nil), BootCsr: newCSR(t, bootKey, nil)})
	if err != nil {
		t.Fatal(err)
	}
	verify := func(at *cluster, to *keydpb.SessionStatement) error {
		at.server.mu.Lock()
		defer at.server.mu.Unlock()
		_, err := at.server.verifySession(to, time.Now())
		return err
	}
	other.restart(t)
	if err := verify(c, sign(other)); !errors.Is(err, errOtherRoot) {
		t.Errorf("of the one that was off: %v", err)
	}
	_, err = c.Release(t.Context(), &keydpb.ReleaseRequest{To: sign(other), Ticket: ticket})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	if !strings.Contains(err.Error(), "while the root was replaced") {
		t.Error(err)
	}
	c.restart(t)
	if err := verify(other, statement(t, c, own.Boot, bootKey)); !errors.Is(err, errOtherRoot) {
		t.Errorf("by the one that was off: %v", err)
	}

	// Opened by hand, it takes the last keyset and knows the root.
	other.unlock(t)
	if _, err := other.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: last.GetEpoch(), SealedKeyset: adopted[len(adopted)-1].GetSealed()}); err != nil {
		t.Fatal(err)
	}
	if err := verify(other, statement(t, c, own.Boot, bootKey)); err != nil {
		t.Errorf("with the last keyset: %v", err)
	}
}
