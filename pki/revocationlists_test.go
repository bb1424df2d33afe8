package pki_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// listSigner is keyd: it remembers what it signed.
type listSigner struct {
	mu     sync.Mutex // guards the rest
	signed map[string][]pki.Revoked
	times  map[string]int
	fail   error // of the next one
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
