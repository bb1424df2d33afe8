package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
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
	keys := &testJournal{known: map[string]bool{}}
	w.m.journal = keys
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
		w.awaitNoted(t, before+1)
		u := w.noted(t)[0]
		if u.GetNodeId() != id.NodeID || u.GetRole() != id.Role || u.GetSource() != "127.0.0.1" || u.GetSerial() != forged.Leaf().SerialNumber.Text(16) {
			t.Errorf("the alarm says %v", u)
		}
	}
	if list := w.noted(t); len(list) != 3 {
		t.Errorf("%d alarms: %v", len(list), list)
	}

	// A keyd that gives no answer says neither yes nor no.
	id := profile.Identity{ClusterID: w.ca.ClusterID, NodeID: ident.New(), Role: profilepb.Role_ROLE_WORKER}
	for _, known := range []bool{true, false} {
		creds := w.forge(t, id)
		keys.set(creds, known)
		asked := keys.silent(errors.New("keyd is slow"))
		w.shows(t, creds)
		for range 2 {
			<-asked
		}
		if len(w.noted(t)) != 3 {
			t.Fatalf("no answer of keyd, whose journal has it (%v), is an alarm", known)
		}
		keys.silent(nil)
		if !known {
			w.awaitNoted(t, 4)
		}
	}

	// A key that a node was given certificates for gives nobody another node's name.
	stolen, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys.set(w.forgeFor(t, id, stolen), true)
	w.shows(t, w.forgeFor(t, profile.Identity{ClusterID: w.ca.ClusterID, NodeID: known.Record.GetId(), Role: profilepb.Role_ROLE_WORKER}, stolen))
	w.awaitNoted(t, 5)

	// What another manager was shown.
	witness, forged := witnessServer{m: w.m}, w.forge(t, id)
	for name, req := range map[string]*pkipb.SuspectRequest{
		"nothing":             {},
		"a long one":          {Certificate: make([]byte, maxSuspect+1)},
		"no certificate":      {Certificate: []byte("x")},
		"no address":          {Certificate: forged.Leaf().Raw, Source: "a place"},
		"a foreign cluster's": {Certificate: pkitest.New(t).NewNode(t, profilepb.Role_ROLE_WORKER).Leaf().Raw},
	} {
		if _, err := witness.Suspect(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, leaf := range []*x509.Certificate{first.Leaf(), forged.Leaf(), forged.Leaf()} {
		if _, err := witness.Suspect(t.Context(), &pkipb.SuspectRequest{Certificate: leaf.Raw, Source: "192.0.2.7"}); err != nil {
			t.Fatal(err)
		}
	}
	w.awaitNoted(t, 6)
	if u := w.noted(t)[0]; u.GetSource() != "192.0.2.7" || u.GetNodeId() != id.NodeID {
		t.Errorf("the alarm says %v", u)
	}
}

// TestForgedPeer: a forged certificate that is shown in the mesh raises the alarm, and
// a worker's takes no manager's place.
func TestForgedPeer(t *testing.T) {
	w := newCallerWorld(t)
	w.m.strange = make(chan shown, 16)
	w.m.journal = &testJournal{known: map[string]bool{}}
	w.m.opened.Store(true)
	serveInTest(t, w.m.reconcile)
	admit := w.m.admitPeer(authz.New(authz.Config{Directory: pkistore.Directory{Store: w.m.store}, Logger: slog.New(slog.DiscardHandler)}))
	shows := func(c *pki.Credentials) error {
		cert, err := c.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		var cs tls.ConnectionState
		for _, der := range cert.Certificate {
			x, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			cs.PeerCertificates = append(cs.PeerCertificates, x)
		}
		return admit(cs, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 40000})
	}
	honest, manager := w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_WORKER)), w.put(t, w.ca.NewNode(t, profilepb.Role_ROLE_MANAGER))
	for _, n := range []*pkitest.Node{honest, manager} {
		if err := shows(n.Credentials); err != nil {
			t.Error("a node with its own certificate is refused: ", err)
		}
	}
	if err := shows(w.forge(t, profile.Identity{ClusterID: w.ca.ClusterID, NodeID: manager.Record.GetId(), Role: profilepb.Role_ROLE_WORKER})); err == nil {
		t.Error("a worker takes the place of a manager")
	}
	w.awaitNoted(t, 1)
	if u := w.noted(t)[0]; u.GetNodeId() != manager.Record.GetId() || u.GetRole() != profilepb.Role_ROLE_WORKER || u.GetSource() != "192.0.2.7" {
		t.Errorf("the alarm says %v", u)
	}
}

// testJournal is what keyd's journal has, or the error with which it does not say.
type testJournal struct {
	mu    sync.Mutex // guards the rest
	known map[string]bool
	err   error
	asked chan struct{}
}

func (j *testJournal) set(c *pki.Credentials, known bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.known[c.Identity().NodeID+string(c.Identity().SPKI)] = known
}

// silent has it fail with err; each failure is sent on the channel.
func (j *testJournal) silent(err error) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.err, j.asked = err, make(chan struct{}, 64)
	return j.asked
}

func (j *testJournal) Journalled(_ context.Context, req *keydpb.JournalledRequest) (*keydpb.JournalledResponse, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		j.asked <- struct{}{}
		return nil, j.err
	}
	r := &keydpb.JournalledResponse{}
	for _, spki := range req.GetSpki() {
		r.Known = append(r.Known, j.known[req.GetNodeId()+string(spki)])
	}
	return r, nil
}

// awaitNoted waits until there are n alarms.
func (w *callerWorld) awaitNoted(t *testing.T, n int) {
	t.Helper()
	raftstoretest.Await(t, w.m.store, func(r raftstore.Reader) error {
		c, err := pkistore.GetCluster(r)
		if got := len(c.GetUnjournalled()); err == nil && got != n {
			err = fmt.Errorf("%d alarms, want %d", got, n)
		}
		return err
	}, pkistore.Cluster)
}

func (w *callerWorld) forge(t *testing.T, id profile.Identity) *pki.Credentials {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return w.forgeFor(t, id, key)
}

func (w *callerWorld) forgeFor(t *testing.T, id profile.Identity, key *ecdsa.PrivateKey) *pki.Credentials {
	t.Helper()
	var err error
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
