package node

import (
	"context"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// shows has a node try a call on port 2377.
func (w *callerWorld) shows(t *testing.T, creds *pki.Credentials) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cc, err := port.DialGRPC(ctx, creds, []string{w.addr})
	if err != nil {
		return // it was refused
	}
	defer cc.Close()
	if s, err := schedulerpb.NewDispatcherClient(cc).Session(ctx); err == nil {
		if _, err := s.Recv(); err == nil {
			t.Error("it was let in")
		}
	}
}

// TestForgedCertificate: of certificates that verify, those that were given out are
// none of the alarm's business, also if they are old; one that nobody gave out is
// told of once, of a node on record or not.
func TestForgedCertificate(t *testing.T) {
	w := newCallerWorld(t)
	w.m.strange = make(chan shown, 16)
	w.m.opened.Store(true)
	serveInTest(t, w.m.reconcile)

	// Given out, renewed twice, and shown again: refused, and no alarm.
	old := w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER))
	spki := old.Identity().SPKI
	var first *pki.Credentials // renewed twice since
	for range 3 {
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		id := old.Identity()
		chain, err := w.ca.Issue(profile.Identity{ClusterID: id.ClusterID, NodeID: id.NodeID, Role: id.Role}, key.Public(), time.Now(), profile.LeafLife)
		if err != nil {
			t.Fatal(err)
		}
		w.update(t, func(tx *raftstore.Tx) error { return pki.RecordLeaf(tx, id.NodeID, spki, pki.Issued{Leaf: chain}) })
		next, err := pki.NewCredentials(chain, key, w.ca.Trust())
		if err != nil {
			t.Fatal(err)
		}
		if old.Credentials, spki = next, next.Identity().SPKI; len(w.noted(t)) > 0 {
			t.Fatal("a certificate that is given out raises an alarm")
		}
		if first == nil {
			first = next
		}
	}
	w.shows(t, first)

	// Nobody gave these out: for a node on record, one of another role, and one
	// that nobody knows.
	known := w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER))
	for _, id := range []profile.Identity{
		{ClusterID: w.ca.ClusterID, NodeID: known.Record.GetId(), Role: profilepb.Role_ROLE_WORKER},
		{ClusterID: w.ca.ClusterID, NodeID: known.Record.GetId(), Role: profilepb.Role_ROLE_MANAGER},
		{ClusterID: w.ca.ClusterID, NodeID: ident.New(), Role: profilepb.Role_ROLE_WORKER},
	} {
		before := len(w.noted(t))
		forged := w.forge(t, id)
		for range 2 {
			w.shows(t, forged)
		}
		deadline := time.Now().Add(20 * time.Second)
		for len(w.noted(t)) == before && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		list := w.noted(t)
		if len(list) != before+1 {
			t.Fatalf("%v: %d alarms after %d", id, len(list), before)
		}
		u := list[0]
		if u.GetNodeId() != id.NodeID || u.GetRole() != id.Role || u.GetSource() != "127.0.0.1" || u.GetSerial() != forged.Leaf().SerialNumber.Text(16) {
			t.Errorf("the alarm says %v", u)
		}
	}
	if list := w.noted(t); len(list) != 3 {
		t.Errorf("%d alarms: %v", len(list), list)
	}
}

func (w *callerWorld) forge(t *testing.T, id profile.Identity) *pki.Credentials {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if id.Role == profilepb.Role_ROLE_MANAGER {
		if id.KeydKey, err = pkitest.KeydKey(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	chain, err := w.ca.Issue(id, key.Public(), time.Now(), profile.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(chain, key, w.ca.Trust())
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func (w *callerWorld) noted(t *testing.T) (list []*pkipb.Unjournalled) {
	t.Helper()
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		c, err := pkistore.GetCluster(r)
		list = c.GetUnjournalled()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return list
}
