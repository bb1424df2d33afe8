package keyd

import (
	"bytes"
	"crypto"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

type signer = crypto.Signer

func contains(b []byte, s string) bool { return bytes.Contains(b, []byte(s)) }

// sleep passes time in a bubble of synctest.
func sleep(d time.Duration) { <-time.After(d) }

// secondManager joins another manager to c's cluster, sealed to set, and returns
// its boot leaf with the key.
func secondManager(t *testing.T, c *cluster, set *keydpb.SlotSet) (*cluster, crypto.Signer, *profilepb.CertificateChain) {
	t.Helper()
	k := start(t, t.TempDir())
	keydKey, err := k.PrepareJoin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bootKey := newKey(t)
	join := c.mint(t, manager, nil).join(t, newCSR(t, newKey(t), keydKey), newCSR(t, bootKey, nil))
	signed, err := c.SignJoin(t.Context(), join)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.SealKeyset(t.Context(), &keydpb.SealKeysetRequest{Manager: signed.Leaf})
	if err != nil {
		t.Fatal(err)
	}
	_, err = k.ImportKeyset(t.Context(), &keydpb.ImportKeysetRequest{NodeId: join.NodeId, ClusterId: c.init.ClusterId,
		SealedKeyset: sealed.SealedKeyset, Slots: set, RootPin: profile.SPKIHash(c.server.secrets.keyset.root)})
	if err != nil {
		t.Fatal(err)
	}
	other := &cluster{instance: k, key: c.key, nodeID: join.NodeId, init: &keydpb.InitResponse{ClusterId: c.init.ClusterId, Manager: signed.Leaf, Boot: signed.Boot, Slots: set}}
	return other, bootKey, signed.Boot
}

// foreignStatement is an honest one of another cluster.
func foreignStatement(t *testing.T) *keydpb.SessionStatement {
	t.Helper()
	c, set, _ := withShares(t)
	other, key, boot := secondManager(t, c, set)
	other.restart(t)
	return statement(t, other, boot, key)
}
