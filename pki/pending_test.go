package pki

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// cutStore commits nothing while it is cut.
type cutStore struct {
	*raftstore.Store
	cut error
}

func (s *cutStore) Update(ctx context.Context, fn func(*raftstore.Tx) error) error {
	if s.cut != nil {
		return s.cut
	}
	return s.Store.Update(ctx, fn)
}

// TestDecide: a decision that was not committed is none, whatever was asked, and can be
// asked again; one that was is on record before the machine hears of it.
func TestDecide(t *testing.T) {
	s := &cutStore{Store: raftstoretest.New(t, store.Tables()...)}
	var p Pending
	wait := func() PendingNode {
		n := PendingNode{ID: ident.New(), Name: "m2", Role: profilepb.Role_ROLE_MANAGER, TokenID: ident.New(), Source: "192.0.2.7", Fingerprint: JoinFingerprint([]byte(ident.New()), nil)}
		if err := s.Update(t.Context(), func(tx *raftstore.Tx) error { return store.Tokens.Put(tx, &pkipb.Token{Id: n.TokenID}) }); err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.ask(n, time.Now()); err != nil {
			t.Fatal(err)
		}
		return n
	}
	token := func(n PendingNode) (tok *pkipb.Token) {
		if err := s.View(func(r *raftstore.ReadTx) error { tok, _ = store.Tokens.Get(r, n.TokenID); return nil }); err != nil {
			t.Fatal(err)
		}
		return tok
	}
	for _, approve := range []bool{true, false} {
		n := wait()
		s.cut = errors.New("no quorum")
		if _, err := p.Decide(t.Context(), s, n.Fingerprint, approve); !errors.Is(err, s.cut) {
			t.Errorf("approve %t: %v", approve, err)
		}
		if id, err := p.decided(n, time.Now()); id != "" || err != nil || len(p.List(time.Now())) != 1 {
			t.Errorf("approve %t was not committed, and decided %q %v", approve, id, err)
		}
		s.cut = nil
		if _, err := p.Decide(t.Context(), s, n.ID[:ident.MinPrefix], approve); err != nil {
			t.Fatal(err)
		}
		id, err := p.decided(n, time.Now())
		if approve && (id != n.ID || err != nil) || !approve && !errors.Is(err, errDenied) {
			t.Errorf("approve %t: %q %v", approve, id, err)
		}
		tok := token(n)
		if d := tok.GetDecision(); tok.GetRevoked() == approve || d.GetApproved() != approve || d.GetNodeId() != n.ID || d.GetFingerprint() != n.Fingerprint || d.GetSource() != n.Source {
			t.Errorf("approve %t: %v", approve, tok)
		}
		if _, err := p.Decide(t.Context(), s, n.Fingerprint, !approve); !errors.Is(err, ErrNotPending) {
			t.Errorf("decided twice: %v", err)
		}
	}
	// Two operators at once: a denial stands.
	n := wait()
	if err := errors.Join(p.decide(n.key(), true, time.Now()), p.decide(n.key(), false, time.Now())); err != nil {
		t.Error(err)
	}
	if err := p.decide(n.key(), true, time.Now()); !errors.Is(err, ErrNotPending) {
		t.Errorf("%v", err)
	}
}
