package pki_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// What a node signs is its own, whoever brings it; nothing else passes for it.
func TestSaid(t *testing.T) {
	ca := pkitest.New(t)
	a, b := ca.NewNode(t, profilepb.Role_ROLE_WORKER), ca.NewNode(t, profilepb.Role_ROLE_MANAGER)
	message := []byte("label\x00what it says")
	chain, signature, err := a.Say(message)
	if err != nil {
		t.Fatal(err)
	}
	if by, err := b.SaidBy(message, chain, signature); err != nil || by != a.Identity().NodeID {
		t.Fatalf("%s, %v", by, err)
	}
	theirs, _, err := b.Say(message)
	if err != nil {
		t.Fatal(err)
	}
	old := ca.NewNodeAt(t, profilepb.Role_ROLE_WORKER, time.Now().Add(-100*24*time.Hour))
	expired, late, err := old.Say(message)
	if err != nil {
		t.Fatal(err)
	}
	boot, bootSays, err := b.Boot.Say(message)
	if err != nil {
		t.Fatal(err)
	}
	stranger, strange, err := pkitest.New(t).NewNode(t, profilepb.Role_ROLE_WORKER).Say(message)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		message   []byte
		chain     [][]byte
		signature []byte
		err       error
	}{
		"another message":         {[]byte("label\x00"), chain, signature, pki.ErrSignature},
		"another's certificate":   {message, theirs, signature, pki.ErrSignature},
		"no signature":            {message, chain, nil, pki.ErrSignature},
		"no certificate":          {message, nil, signature, pki.ErrUntrusted},
		"an expired certificate":  {message, expired, late, pki.ErrPeerExpired},
		"a boot leaf":             {message, boot, bootSays, pki.ErrPeerLocked},
		"another cluster":         {message, stranger, strange, pki.ErrOtherCluster},
		"the issuer in its place": {message, chain[1:], signature, pki.ErrUntrusted},
	} {
		if by, err := b.SaidBy(c.message, c.chain, c.signature); err == nil || by != "" || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v", name, by, err)
		}
	}
}
