package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/autolock/keydclient"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// keyset is what keyd would have of one.
type keyset struct {
	epoch       uint64
	root, other *x509.Certificate
	issuer      []byte
	cross       [][]byte
	external    []byte // the root's certificate of the external CA; nil: there is none
}

// world is a cluster of two managers, a worker that is connected and one that is
// away, whose nodes do what they are told as soon as they are looked at. Every
// keyset that was made can be told from the others, also of the same epoch.
type world struct {
	t        *testing.T
	s        *raftstore.Store
	nodes    []string // connected
	managers []string
	probe    error // of the external CA

	mu    sync.Mutex // guards the following
	made  map[string]*keyset
	calls int
	still map[string]bool // nodes that do nothing
	// called is asked before each keyset is handed out; looked at each look at the
	// sessions.
	called func(call int) error
	looked func()
	behind bool // keyd has not taken over the last keyset
}

var keys = map[string]*ecdsa.PrivateKey{} // of roots, by their subject; guarded by keysMu
var keysMu sync.Mutex

func root(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	name := "root " + ident.New()
	keysMu.Lock()
	defer keysMu.Unlock()
	keys[name] = key
	c := certificate(t, name, key, nil, time.Now())
	return c
}

// issuing is an issuing CA's certificate that was made at that time.
func issuing(t *testing.T, parent *x509.Certificate, at time.Time) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keysMu.Lock()
	defer keysMu.Unlock()
	return certificate(t, "issuing "+ident.New(), key, parent, at).Raw
}

func certificate(t *testing.T, name string, key *ecdsa.PrivateKey, parent *x509.Certificate, at time.Time) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: at.Add(-pki.CABackdate), NotAfter: at.Add(1000 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	by := key
	if parent == nil {
		parent = c
	} else {
		by = keys[parent.Subject.CommonName]
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func newWorld(t *testing.T, issuerAge time.Duration) *world {
	t.Helper()
	w := &world{t: t, s: raftstoretest.New(t, slices.Concat(pkistore.Tables(), autolockstore.Tables(), schedstore.Tables())...),
		made: map[string]*keyset{}, still: map[string]bool{}}
	first := &keyset{epoch: 1, root: root(t)}
	first.issuer = issuing(t, first.root, time.Now().Add(-issuerAge))
	w.update(func(tx *raftstore.Tx) error {
		c := &pkipb.Cluster{Id: pkistore.ClusterID, ClusterId: ident.New(), Roots: [][]byte{first.root.Raw}, Issuers: [][]byte{first.issuer}, KeysetEpoch: 1}
		if err := pkistore.Cluster.Put(tx, c); err != nil {
			return err
		}
		var sealed []*keydpb.SealedKeyset
		for i, role := range []profilepb.Role{profilepb.Role_ROLE_MANAGER, profilepb.Role_ROLE_MANAGER, profilepb.Role_ROLE_WORKER, profilepb.Role_ROLE_WORKER} {
			n := &pkipb.Node{Id: ident.New(), Name: []string{"manager-1", "manager-2", "worker-1", "worker-2"}[i], Role: role,
				LeafIssuer: pki.ActiveIssuer(c), LeafNotAfter: time.Now().Add(time.Hour).Unix()}
			if role == profilepb.Role_ROLE_MANAGER {
				n.Leaf, n.BootIssuer = []byte("leaf of "+n.Id), n.LeafIssuer
				w.managers = append(w.managers, n.Id)
				sealed = append(sealed, &keydpb.SealedKeyset{NodeId: n.Id, Sealed: w.seal(first)})
			}
			machine := &schedulerpb.Node{Id: n.Id, Description: &schedulerpb.NodeDescription{Features: []*taskpb.Feature{{Name: pki.ExternalFeature, Present: true}}}}
			if err := errors.Join(pkistore.Nodes.Put(tx, n), schedstore.Nodes.Put(tx, machine)); err != nil {
				return err
			}
			if i < 3 {
				w.nodes = append(w.nodes, n.Id)
			}
		}
		return PutKeysets(tx, 1, sealed)
	})
	return w
}

func (w *world) update(fn func(*raftstore.Tx) error) {
	w.t.Helper()
	if err := w.s.Update(w.t.Context(), fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) seal(k *keyset) []byte {
	handle := ident.New()
	w.made[handle] = k
	return []byte(handle)
}

// cluster is the record now.
func (w *world) cluster() (c *pkipb.Cluster) {
	w.t.Helper()
	if err := w.s.View(func(r *raftstore.ReadTx) (err error) { c, err = pkistore.GetCluster(r); return err }); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// inForce is the keyset that every manager was given last. It fails the test where
// the cluster record says something else of it: then certificates would be signed
// that nobody takes.
func (w *world) inForce() *keyset {
	w.t.Helper()
	var found *keyset
	c := w.cluster()
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.s.View(func(r *raftstore.ReadTx) error {
		for _, id := range w.managers {
			rec, _ := autolockstore.Keysets.Get(r, id)
			k := w.made[string(rec.GetSealed())]
			if k == nil || found != nil && k != found || rec.GetEpoch() != pki.KeysetEpoch(c) || k.epoch != rec.GetEpoch() {
				w.t.Errorf("the managers were given different keysets, or not that of epoch %d", pki.KeysetEpoch(c))
			}
			found = k
		}
		return nil
	})
	roots := [][]byte{found.root.Raw}
	if found.other != nil {
		roots = append(roots, found.other.Raw)
	}
	if !slices.EqualFunc(roots, c.GetRoots(), slices.Equal) || !slices.Equal(found.issuer, c.GetIssuers()[0]) || (found.other != nil) != (c.GetRotation() != nil) ||
		!slices.Equal(found.external, c.GetExternal().GetIssuer()) {
		w.t.Errorf("keyset of epoch %d has other CAs than the cluster record", found.epoch)
	}
	return found
}

// RotateCA implements Signer.
func (w *world) RotateCA(_ context.Context, change keydpb.CAChange, external *keydpb.External, managers [][]byte) (*keydpb.RotateCAResponse, error) {
	next := *w.inForce()
	w.mu.Lock()
	defer w.mu.Unlock()
	next.epoch++
	switch change {
	case keydpb.CAChange_CA_CHANGE_NEW_ROOT:
		if next.other != nil {
			return nil, errors.New("there are two roots")
		}
		next.other, next.cross = root(w.t), [][]byte{next.root.Raw}
	case keydpb.CAChange_CA_CHANGE_SWITCH_ROOT:
		next.root, next.other = next.other, next.root
		next.issuer = issuing(w.t, next.root, time.Now())
		if next.external != nil {
			next.external = issuing(w.t, next.root, time.Now())
		}
	case keydpb.CAChange_CA_CHANGE_DROP_ROOT:
		next.other = nil
	case keydpb.CAChange_CA_CHANGE_EXTERNAL:
		next.external = issuing(w.t, next.root, time.Now())
	case keydpb.CAChange_CA_CHANGE_NO_EXTERNAL:
		if next.external == nil {
			return nil, &keydclient.Error{Code: keydpb.Code_CODE_DENIED, Message: "no external CA is set"}
		}
		next.external = nil
	default:
		next.issuer = issuing(w.t, next.root, time.Now())
	}
	resp := &keydpb.RotateCAResponse{Epoch: next.epoch, Root: next.root.Raw, Issuer: next.issuer, Cross: next.cross, External: next.external}
	if next.other != nil {
		resp.Other = next.other.Raw
	}
	if len(managers) != len(w.managers) {
		w.t.Errorf("a keyset for %d managers", len(managers))
	}
	handle := w.seal(&next)
	for _, id := range w.managers {
		resp.Sealed = append(resp.Sealed, &keydpb.SealedKeyset{NodeId: id, Sealed: handle})
	}
	if w.calls++; w.called != nil {
		if err := w.called(w.calls); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// sessions are the connected nodes, who trust what the record says, and have
// renewed their certificates where that is asked for.
func (w *world) sessions() (out []dispatcher.SessionInfo) {
	w.mu.Lock()
	looked, still := w.looked, w.still
	w.mu.Unlock()
	if looked != nil {
		looked()
	}
	c := w.cluster()
	for _, id := range w.nodes {
		s := dispatcher.SessionInfo{NodeID: id}
		if !still[id] {
			s.Trusts = pki.HashesOf(c.GetRoots())
		}
		out = append(out, s)
	}
	return out
}

// follow has the nodes renew until ctx ends.
func (w *world) follow(ctx context.Context) {
	for pause(ctx, 5*time.Millisecond) == nil {
		_ = w.s.Update(ctx, func(tx *raftstore.Tx) error {
			c, err := pkistore.GetCluster(tx)
			if err != nil {
				return err
			}
			for _, id := range w.nodes {
				n, _ := pkistore.Nodes.Get(tx, id)
				if !pki.NeedsReissue(c, n) || w.still[id] {
					continue
				}
				n = proto.CloneOf(n)
				n.LeafIssuer, n.BootIssuer = pki.IssuerFor(c, n.GetRole()), pki.ActiveIssuer(c)
				if err := pkistore.Nodes.Put(tx, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// leader is a server as a manager has it that was just elected.
func (w *world) leader() *Server {
	probe := func(context.Context, string, *x509.Certificate) error { return w.probe }
	return New(Config{Store: w.s, Signer: w, Sessions: w.sessions, Probe: probe, Logger: slog.New(slog.DiscardHandler), Epoch: func() uint64 {
		epoch := pki.KeysetEpoch(w.cluster())
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.behind {
			epoch--
		}
		return epoch
	}})
}

// leads runs a leader, and its nodes, until done or the test's end; it returns what
// Run did.
func (w *world) leads(ctx context.Context, s *Server, done func(*pkipb.Cluster) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.follow(ctx) })
	wg.Go(func() {
		for pause(ctx, 5*time.Millisecond) == nil {
			if done(w.cluster()) {
				cancel()
			}
		}
	})
	return s.Run(ctx)
}
