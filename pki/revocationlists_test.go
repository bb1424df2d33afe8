package pki_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// listSigner is keyd: it remembers what it signed.
type listSigner struct {
	mu     sync.Mutex // guards the rest
	signed map[string][]pki.Revoked
	times  map[string]int
	fail   error  // of the next one
	ca     []byte // of workloads
}

func (s *listSigner) WorkloadCA(context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ca, nil
}

func (s *listSigner) SignCRL(_ context.Context, ca []byte, revoked []pki.Revoked, _ uint64) ([]byte, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail; err != nil {
		s.fail = nil
		return nil, time.Time{}, err
	}
	s.signed[string(ca)] = revoked
	s.times[string(ca)]++
	return []byte("crl"), time.Now().Add(72 * time.Hour), nil
}

// TestRevocationLists: a list names what a denied node was given and what has not
// ended, from the moment it is denied; a root's names the CAs of nodes and of
// workloads that a manager took along. Nothing is signed for nothing.
func TestRevocationLists(t *testing.T) {
	c := newCluster(t)
	s := &listSigner{signed: map[string][]pki.Revoked{}, times: map[string]int{}, fail: errors.New("keyd is busy")}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- pki.RunRevocationLists(ctx, pki.ListsConfig{Store: c.store, Signer: s, Logger: slog.New(slog.DiscardHandler)})
	}()
	defer func() { cancel(); <-done }()
	issuing, root := sha256.Sum256(c.Issuer.Raw), sha256.Sum256(c.Root.Raw)
	current := func() (listed, roots []pki.Revoked) {
		t.Helper()
		wait, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		lists, err := pki.AwaitRevocationLists(wait, c.store)
		lists = slices.DeleteFunc(lists, (*pkipb.RevocationList).GetFormer)
		if err != nil || len(lists) != 2 {
			t.Fatalf("%d lists, %v", len(lists), err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.signed[string(issuing[:])], s.signed[string(root[:])]
	}
	if a, b := current(); len(a)+len(b) != 0 {
		t.Fatalf("nobody was removed, and %v, %v are listed", a, b)
	}
	joined, err := c.join(c.token(pki.TokenRequest{Role: worker}))
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.join(c.token(pki.TokenRequest{Role: worker}))
	if err != nil {
		t.Fatal(err)
	}
	certs := c.node(joined.NodeID).GetCertificates()
	if len(certs) != 1 || !bytes.Equal(certs[0].GetIssuer(), issuing[:]) {
		t.Fatalf("what it was given is %v", certs)
	}
	// One that has ended, and one of a CA that is in force no more.
	c.update(func(tx *raftstore.Tx) error {
		n, _ := store.Nodes.Get(tx, joined.NodeID)
		n = proto.CloneOf(n)
		n.Certificates = append(n.Certificates,
			&pkipb.IssuedCertificate{Serial: []byte{1}, Issuer: issuing[:], NotAfter: time.Now().Add(-time.Minute).Unix()},
			&pkipb.IssuedCertificate{Serial: []byte{2}, Issuer: root[:16], NotAfter: time.Now().Add(time.Hour).Unix()})
		return store.Nodes.Put(tx, n)
	})
	c.update(func(tx *raftstore.Tx) error {
		_, err := pki.Leave(tx, joined.NodeID, pki.Leaving{Listed: true})
		return err
	})
	if a, _ := current(); len(a) != 1 || !bytes.Equal(a[0].Serial, certs[0].GetSerial()) || time.Since(time.Unix(a[0].At, 0)) > time.Minute {
		t.Errorf("listed are %v, want %x alone", a, certs[0].GetSerial())
	}
	s.mu.Lock()
	times := s.times[string(issuing[:])]
	s.mu.Unlock()
	if times != 2 {
		t.Errorf("two lists were due, and %d signed", times)
	}
	if n := c.node(other.NodeID); n.GetDenied() || len(n.GetCertificates()) != 1 {
		t.Errorf("the other node is %v", n)
	}
	// A manager leaves, with the keys of the issuing and of the workload CA.
	before := c.Issuer.SerialNumber.Bytes()
	workload := c.NextIssuer(t) // a CA below the root that the record does not name
	next := c.NextIssuer(t)
	m := c.NewNode(t, manager)
	c.update(func(tx *raftstore.Tx) error {
		rec := proto.CloneOf(m.Record)
		rec.KeysetEpoch = 1
		return store.Nodes.Put(tx, rec)
	})
	c.update(func(tx *raftstore.Tx) error {
		rec, _ := store.Nodes.Get(tx, m.Record.GetId())
		_, err := pki.Leave(tx, rec.GetId(), pki.Leaving{Compromised: true,
			Next: &pki.NextKeyset{Epoch: 2, Issuer: next.Raw, FormerWorkloadIssuer: workload.Raw, Retired: pki.KeysToRetire(tx, rec)}})
		return err
	})
	issuing = sha256.Sum256(next.Raw)
	a, b := current()
	by := func(serial []byte) bool {
		return slices.ContainsFunc(b, func(r pki.Revoked) bool { return bytes.Equal(r.Serial, serial) })
	}
	if len(a) != 0 || len(b) != 2 || !by(before) || !by(workload.SerialNumber.Bytes()) {
		t.Errorf("listed are %v, and by the root %v, want its issuing and workload CAs of before", a, b)
	}
}

// TestWorkloadLists: the list of the CA of workloads names what was issued for a denied
// identity and to a denied node, until it ends, also after the identity was allowed
// again; one of a CA of before stays, for what that one had issued.
func TestWorkloadLists(t *testing.T) {
	c := newCluster(t)
	first, second := c.NextIssuer(t), c.NextIssuer(t)
	c.NextIssuer(t) // which issues to nodes
	s := &listSigner{signed: map[string][]pki.Revoked{}, times: map[string]int{}, ca: first.Raw}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- pki.RunRevocationLists(ctx, pki.ListsConfig{Store: c.store, Signer: s, Logger: slog.New(slog.DiscardHandler)})
	}()
	defer func() { cancel(); <-done }()
	of := func(ca *x509.Certificate) []byte { sum := sha256.Sum256(ca.Raw); return sum[:] }
	issued := func(ca *x509.Certificate, serial byte, life time.Duration) *pkipb.IssuedCertificate {
		return &pkipb.IssuedCertificate{Serial: []byte{serial}, Issuer: of(ca), NotAfter: time.Now().Add(life).Unix()}
	}
	// listed is what the lists of workloads name, and how many there are.
	listed := func(ca *x509.Certificate, want int) (serials []byte) {
		t.Helper()
		wait, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		for n := -1; n != want; {
			lists, err := pki.AwaitRevocationLists(wait, c.store)
			if err != nil {
				t.Fatalf("%d lists of workloads, want %d: %v", n, want, err)
			}
			n = 0
			for _, l := range lists {
				if l.GetWorkload() {
					n++
				}
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.signed[string(of(ca))] {
			serials = append(serials, r.Serial...)
		}
		slices.Sort(serials)
		return serials
	}
	if got := listed(first, 1); len(got) != 0 {
		t.Fatalf("nothing was revoked, and %v are listed", got)
	}
	id := profile.ServiceURI(c.ClusterID, "", "web").String()
	list := func(certs ...*pkipb.IssuedCertificate) {
		t.Helper()
		c.update(func(tx *raftstore.Tx) error { return pki.ListIdentity(tx, id, certs) })
	}
	list(issued(first, 1, time.Hour))
	if got := listed(first, 1); len(got) != 0 {
		t.Errorf("of an identity that is not denied %v are listed", got)
	}
	c.update(func(tx *raftstore.Tx) error { _, _, err := pki.DenyIdentity(tx, id); return err })
	// Of which CA they are may be a node's word: the issuing CA and the root list none.
	list(issued(c.Issuer, 9, time.Hour), issued(c.Root, 9, time.Hour))
	list(issued(first, 1, time.Hour), issued(first, 2, time.Hour), issued(first, 3, -time.Minute))
	list(issued(first, 2, time.Hour), issued(first, 4, time.Hour))
	if got := listed(first, 1); !bytes.Equal(got, []byte{1, 2, 4}) {
		t.Errorf("of a denied identity %v are listed", got)
	}
	for _, ca := range []*x509.Certificate{c.Issuer, c.Root} {
		if got := listed(ca, 1); len(got) != 0 {
			t.Errorf("%s lists %v of workloads", ca.Subject, got)
		}
	}
	// A revocation does not push out what was listed before it.
	c.update(func(tx *raftstore.Tx) error {
		was, _ := store.DeniedIdentities.Get(tx, id)
		var many []*pkipb.IssuedCertificate
		for i := range 7000 {
			many = append(many, &pkipb.IssuedCertificate{Serial: []byte{100, byte(i >> 8), byte(i)}, Issuer: of(second), NotAfter: time.Now().Add(20 * time.Hour).Unix()})
		}
		if err := pki.ListIdentity(tx, id, many); err != nil {
			return err
		}
		rec, _ := store.DeniedIdentities.Get(tx, id)
		if n := len(was.GetCertificates()); len(rec.GetCertificates()) >= 7000 || !slices.EqualFunc(rec.GetCertificates()[:n], was.GetCertificates(), func(a, b *pkipb.IssuedCertificate) bool { return proto.Equal(a, b) }) {
			t.Error("what was listed before gave way")
		}
		return store.DeniedIdentities.Put(tx, was)
	})
	// What a node merely claims takes no place from what was issued, of this revocation or
	// of a later one, however long it is said to live; and what is known to be issued stands
	// there as that.
	c.update(func(tx *raftstore.Tx) error {
		was, _ := store.DeniedIdentities.Get(tx, id)
		var many []*pkipb.IssuedCertificate
		for i := range 7000 {
			many = append(many, &pkipb.IssuedCertificate{Serial: []byte{100, byte(i >> 8), byte(i)}, Issuer: of(second), NotAfter: time.Now().Add(20 * time.Hour).Unix(), Claimed: true})
		}
		if err := pki.ListIdentity(tx, id, many); err != nil {
			return err
		}
		after := []*pkipb.IssuedCertificate{issued(second, 50, time.Hour), {Serial: many[0].Serial, Issuer: of(second), NotAfter: many[0].NotAfter}}
		if err := pki.ListIdentity(tx, id, after); err != nil {
			return err
		}
		rec, _ := store.DeniedIdentities.Get(tx, id)
		got, n := rec.GetCertificates(), len(was.GetCertificates())
		same := func(a, b *pkipb.IssuedCertificate) bool { return proto.Equal(a, b) }
		if len(got) >= 7000 || !slices.EqualFunc(got[:n+2], slices.Concat(was.GetCertificates(), after), same) || !got[n+2].GetClaimed() {
			t.Errorf("of %d, the first are %v", len(got), got[:n+3])
		}
		return store.DeniedIdentities.Put(tx, was)
	})
	// Nor on the list itself, which has those of all revocations.
	flood := profile.ServiceURI(c.ClusterID, "", "flood").String()
	c.update(func(tx *raftstore.Tx) error {
		var many []*pkipb.IssuedCertificate
		for i := range 7000 {
			many = append(many, &pkipb.IssuedCertificate{Serial: []byte{100, byte(i >> 8), byte(i)}, Issuer: of(first), NotAfter: time.Now().Add(20 * time.Hour).Unix(), Claimed: true})
		}
		rec, _, err := pki.DenyIdentity(tx, flood)
		if err != nil {
			return err
		}
		rec = proto.CloneOf(rec)
		rec.DeniedAt += 60
		return errors.Join(store.DeniedIdentities.Put(tx, rec), pki.ListIdentity(tx, flood, many))
	})
	listed(first, 1)
	s.mu.Lock()
	signed := s.signed[string(of(first))]
	s.mu.Unlock()
	if len(signed) != 6000 || !slices.ContainsFunc(signed, func(r pki.Revoked) bool { return bytes.Equal(r.Serial, []byte{1}) }) {
		t.Errorf("of %d on the list, the first are %v", len(signed), signed[:4])
	}
	c.update(func(tx *raftstore.Tx) error { return store.DeniedIdentities.Delete(tx, flood) })
	// A node whose task had one of the same.
	joined, err := c.join(c.token(pki.TokenRequest{Role: worker}))
	if err != nil {
		t.Fatal(err)
	}
	workloads := []*pkipb.IssuedCertificate{issued(first, 4, time.Hour), issued(first, 5, time.Hour)}
	c.update(func(tx *raftstore.Tx) error { return pki.ListWorkloads(tx, joined.NodeID, workloads) })
	if n := c.node(joined.NodeID); len(n.GetWorkloadCertificates()) != 0 {
		t.Error("a member's are listed")
	}
	c.update(func(tx *raftstore.Tx) error { _, err := pki.Leave(tx, joined.NodeID, pki.Leaving{}); return err })
	c.update(func(tx *raftstore.Tx) error { return pki.ListWorkloads(tx, joined.NodeID, workloads) })
	if got := listed(first, 1); !bytes.Equal(got, []byte{1, 2, 4, 5}) {
		t.Errorf("of a denied node too, %v are listed", got)
	}
	// Allowed again and denied again: what was issued before is still listed.
	c.update(func(tx *raftstore.Tx) error { _, err := pki.AllowIdentity(tx, id); return err })
	c.update(func(tx *raftstore.Tx) error { _, _, err := pki.DenyIdentity(tx, id); return err })
	if got := listed(first, 1); !bytes.Contains(got, []byte{1, 2, 4}) {
		t.Errorf("allowed and denied again: %v are listed", got)
	}
	// Another CA of workloads: the list of the one before stays as it is.
	s.mu.Lock()
	s.ca = second.Raw
	s.mu.Unlock()
	list(issued(second, 6, time.Hour))
	if got := listed(second, 2); !bytes.Equal(got, []byte{6}) {
		t.Errorf("the next CA lists %v", got)
	}
	if got := listed(first, 2); !bytes.Contains(got, []byte{1, 2, 4}) {
		t.Errorf("the CA of before lists %v", got)
	}
	// One that has ended leaves the record with the last of its node.
	c.update(func(tx *raftstore.Tx) error {
		n, _ := store.Nodes.Get(tx, joined.NodeID)
		n = proto.CloneOf(n)
		n.WorkloadCertificates = []*pkipb.IssuedCertificate{issued(second, 7, -time.Second)}
		return store.Nodes.Put(tx, n)
	})
	w, err := c.store.Watch(func(*raftstore.ReadTx) error { return nil }, store.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	wait, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	for len(c.node(joined.NodeID).GetWorkloadCertificates()) > 0 {
		if _, err := w.Next(wait); err != nil {
			t.Fatal("what has ended is remembered")
		}
	}
}
