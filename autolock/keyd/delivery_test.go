package keyd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// rundOf is a node with its rund.
type rundOf struct {
	id        string
	leaf      *ecdsa.PrivateKey
	chain     *profilepb.CertificateChain
	key       *seal.NodeKey
	statement []byte
}

func (c *cluster) newRund(t *testing.T) *rundOf {
	t.Helper()
	r := &rundOf{leaf: newKey(t)}
	req := c.mint(t, worker, nil).join(t, newCSR(t, r.leaf, nil), nil)
	joined, err := c.SignJoin(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	r.id, r.chain = req.NodeId, joined.Leaf
	if r.key, err = seal.NewNodeKey(); err != nil {
		t.Fatal(err)
	}
	if r.statement, err = r.key.Statement(c.init.ClusterId, r.id); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rundOf) ask(t testing.TB, items ...*keydpb.SealItem) *keydpb.OpenAndSealRequest {
	t.Helper()
	digest := seal.StatementDigest(r.statement)
	signature, err := r.leaf.Sign(rand.Reader, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return &keydpb.OpenAndSealRequest{Node: r.chain, Statement: r.statement, Signature: signature, Items: items}
}

// madeSecret is a version of a secret, as redoubtd keeps it.
type madeSecret struct {
	subject seal.Subject
	data    []byte
	key     *keydpb.SecretKey
}

func (c *cluster) makeSecret(t *testing.T, plain string) *madeSecret {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := &madeSecret{subject: seal.Subject{ClusterID: st.ClusterId, SecretID: ident.New(), VersionID: ident.New(), Kind: seal.KindFile}}
	data, sealed, err := seal.Seal(st.SecretsRecipient, st.SecretsEpoch, m.subject, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	m.data = data
	m.key = &keydpb.SecretKey{SecretId: m.subject.SecretID, VersionId: m.subject.VersionID, Kind: m.subject.Kind, Epoch: st.SecretsEpoch, Sealed: sealed}
	return m
}

func (m *madeSecret) item() *keydpb.SealItem {
	return &keydpb.SealItem{Key: m.key, ServiceId: ident.New(), TaskId: ident.New()}
}

// wantOpens has keyd give the secret to a task of a node, where it is read.
func (c *cluster) wantOpens(t *testing.T, m *madeSecret, want string) {
	t.Helper()
	node, item := c.newRund(t), m.item()
	resp, err := c.OpenAndSeal(t.Context(), node.ask(t, item))
	if err != nil {
		t.Fatal(err)
	}
	got, err := node.key.Open(node.id, seal.Grant{ServiceID: item.ServiceId, TaskID: item.TaskId}, m.subject, resp.Sealed[0], m.data)
	if err != nil || string(got) != want {
		t.Errorf("the task reads %q, %v", got, err)
	}
}

func TestOpenAndSeal(t *testing.T) {
	c := newCluster(t)
	m := c.makeSecret(t, "hunter2")
	c.wantOpens(t, m, "hunter2")
	c.restart(t)
	_, err := c.OpenAndSeal(t.Context(), &keydpb.OpenAndSealRequest{})
	wantCode(t, err, keydpb.Code_CODE_LOCKED)
	if st, err := c.Status(t.Context()); err != nil || st.SecretsRecipient != nil {
		t.Errorf("a locked keyd tells %v, %v", st, err)
	}
	c.unlock(t)
	c.wantOpens(t, m, "hunter2")
}

// A redoubtd that lies gets no key: not for a node that is none, nor with another
// node's rund or a key of its own.
func TestOpenAndSealRefusesLies(t *testing.T) {
	c, foreign := newCluster(t), newCluster(t)
	node, other, stranger := c.newRund(t), c.newRund(t), foreign.newRund(t)
	m, theirs := c.makeSecret(t, "hunter2"), foreign.makeSecret(t, "x")
	if _, err := c.OpenAndSeal(t.Context(), node.ask(t, m.item())); err != nil {
		t.Fatal(err)
	}
	boot := &rundOf{leaf: newKey(t), chain: c.init.Boot, statement: node.statement}
	for name, tc := range map[string]struct {
		req  func() *keydpb.OpenAndSealRequest
		want keydpb.Code
	}{
		"another node's signature": {func() *keydpb.OpenAndSealRequest {
			r := other.ask(t, m.item())
			r.Node, r.Statement = node.chain, node.statement
			return r
		}, keydpb.Code_CODE_DENIED},
		"the key of another rund": {func() *keydpb.OpenAndSealRequest {
			r := node.ask(t, m.item())
			r.Statement = other.statement
			return r
		}, keydpb.Code_CODE_DENIED},
		"a statement of another node, signed": {func() *keydpb.OpenAndSealRequest {
			r := *node
			r.statement = other.statement
			return r.ask(t, m.item())
		}, keydpb.Code_CODE_DENIED},
		"a node of another cluster": {func() *keydpb.OpenAndSealRequest { return stranger.ask(t, m.item()) }, keydpb.Code_CODE_DENIED},
		"a boot leaf":               {func() *keydpb.OpenAndSealRequest { return boot.ask(t, m.item()) }, keydpb.Code_CODE_DENIED},
		"a secret of another cluster": {func() *keydpb.OpenAndSealRequest {
			return node.ask(t, m.item(), theirs.item())
		}, keydpb.Code_CODE_DENIED},
		"another secret's key": {func() *keydpb.OpenAndSealRequest {
			i := m.item()
			i.Key = &keydpb.SecretKey{SecretId: ident.New(), VersionId: m.key.VersionId, Kind: m.key.Kind, Epoch: m.key.Epoch, Sealed: m.key.Sealed}
			return node.ask(t, i)
		}, keydpb.Code_CODE_DENIED},
		"a registry's secret for a file": {func() *keydpb.OpenAndSealRequest {
			i := m.item()
			i.Key = &keydpb.SecretKey{SecretId: m.key.SecretId, VersionId: m.key.VersionId, Kind: seal.KindRegistry, Epoch: m.key.Epoch, Sealed: m.key.Sealed}
			return node.ask(t, i)
		}, keydpb.Code_CODE_DENIED},
		"an epoch to come": {func() *keydpb.OpenAndSealRequest {
			i := m.item()
			i.Key = &keydpb.SecretKey{SecretId: m.key.SecretId, VersionId: m.key.VersionId, Kind: m.key.Kind, Epoch: 2, Sealed: m.key.Sealed}
			return node.ask(t, i)
		}, keydpb.Code_CODE_STALE_EPOCH},
		"no task": {func() *keydpb.OpenAndSealRequest {
			i := m.item()
			i.TaskId = ""
			return node.ask(t, i)
		}, keydpb.Code_CODE_INVALID},
		"nothing": {func() *keydpb.OpenAndSealRequest { return node.ask(t) }, keydpb.Code_CODE_INVALID},
		"too much": {func() *keydpb.OpenAndSealRequest {
			return node.ask(t, slices.Repeat([]*keydpb.SealItem{m.item()}, maxSecretKeys+1)...)
		}, keydpb.Code_CODE_INVALID},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := c.OpenAndSeal(t.Context(), tc.req())
			wantCode(t, err, tc.want)
			if resp != nil {
				t.Errorf("it is answered %v", resp)
			}
		})
	}
}

// When a manager leaves, secrets go on, are sealed anew, and what the master of
// before opened it opens no more.
func TestSecretsAreRewrapped(t *testing.T) {
	c := newCluster(t)
	m := c.makeSecret(t, "hunter2")
	adopt := func(epoch uint64) {
		t.Helper()
		r, err := c.RotateKeyset(t.Context(), &keydpb.RotateKeysetRequest{Managers: []*profilepb.CertificateChain{c.init.Manager}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: epoch, SealedKeyset: sealedFor(t, r, c.nodeID)}); err != nil {
			t.Fatal(err)
		}
	}
	adopt(2)
	adopt(3)
	c.wantOpens(t, m, "hunter2")
	st, err := c.Status(t.Context())
	if err != nil || st.SecretsEpoch != 3 || !slices.Equal(st.FormerMasters, []uint64{2, 1}) {
		t.Fatalf("%v, %v", st, err)
	}
	bad := &keydpb.SecretKey{SecretId: m.key.SecretId, VersionId: ident.New(), Kind: m.key.Kind, Epoch: 1, Sealed: m.key.Sealed}
	_, err = c.RewrapSecrets(t.Context(), []*keydpb.SecretKey{m.key, bad})
	wantCode(t, err, keydpb.Code_CODE_DENIED)
	wantCode(t, c.DropMasters(t.Context(), 2), keydpb.Code_CODE_STALE_EPOCH)
	resp, err := c.RewrapSecrets(t.Context(), []*keydpb.SecretKey{m.key})
	if err != nil || resp.Epoch != 3 {
		t.Fatalf("%v, %v", resp, err)
	}
	for range 2 { // again is no error
		if err := c.DropMasters(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.OpenAndSeal(t.Context(), c.newRund(t).ask(t, m.item()))
	wantCode(t, err, keydpb.Code_CODE_STALE_EPOCH)
	m.key.Sealed, m.key.Epoch = resp.Sealed[0], resp.Epoch
	c.restart(t)
	c.unlock(t)
	c.wantOpens(t, m, "hunter2")
	if st, err := c.Status(t.Context()); err != nil || len(st.FormerMasters) != 0 {
		t.Errorf("after a restart: %v, %v", st, err)
	}
}

// As many rotations as are remembered, and no more: a secret must not be lost.
func TestMastersAreNotLost(t *testing.T) {
	k, err := newKeyset(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for range maxFormer {
		next, err := k.next(time.Now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		k.destroy()
		k = next
	}
	defer k.destroy()
	if _, err := k.next(time.Now(), nil); err == nil || !strings.Contains(err.Error(), "still sealed") {
		t.Errorf("one more: %v", err)
	}
}

// What is too much at once spends nothing, and a rotation does not wait for what
// nodes ask for.
func TestSecretsAreBounded(t *testing.T) {
	c := newCluster(t)
	m, node := c.makeSecret(t, "hunter2"), c.newRund(t)
	// One is left, and none comes back while the test runs.
	c.server.mu.Lock()
	c.server.sealings = bucket{spent: secretRate.burst - 1, since: time.Now().Add(time.Hour)}
	c.server.mu.Unlock()
	_, err := c.OpenAndSeal(t.Context(), node.ask(t, m.item(), m.item()))
	wantCode(t, err, keydpb.Code_CODE_RATE_LIMITED)
	if _, err := c.OpenAndSeal(t.Context(), node.ask(t, m.item())); err != nil {
		t.Errorf("what was refused was spent: %v", err)
	}
	_, err = c.OpenAndSeal(t.Context(), node.ask(t, m.item()))
	wantCode(t, err, keydpb.Code_CODE_RATE_LIMITED)
	if _, err := c.RewrapSecrets(t.Context(), []*keydpb.SecretKey{m.key}); err != nil {
		t.Errorf("a rotation: %v", err)
	}
}

func BenchmarkOpenAndSeal(b *testing.B) {
	k, err := newKeyset(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	defer k.destroy()
	rund, err := seal.NewNodeKey()
	if err != nil {
		b.Fatal(err)
	}
	raw, err := rund.Statement(k.clusterID, ident.New())
	if err != nil {
		b.Fatal(err)
	}
	to, err := seal.ParseStatement(raw)
	if err != nil {
		b.Fatal(err)
	}
	s := seal.Subject{ClusterID: k.clusterID, SecretID: ident.New(), VersionID: ident.New(), Kind: seal.KindFile}
	_, sealed, err := seal.Seal(k.recipient, 1, s, []byte("x"))
	if err != nil {
		b.Fatal(err)
	}
	m := k.openMasters()
	for b.Loop() {
		key, _, err := m.open(&keydpb.SecretKey{SecretId: s.SecretID, VersionId: s.VersionID, Kind: s.Kind, Epoch: 1, Sealed: sealed})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := seal.ToNode(to, seal.Grant{ServiceID: ident.New(), TaskID: ident.New()}, s, key); err != nil {
			b.Fatal(err)
		}
	}
}
