package keyd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// modelKeyd is a keyd and what the model knows of it.
type modelKeyd struct {
	*Server
	dir, id string
	key     autolock.OperatorKey
	keydKey []byte
	locked  bool
	epoch   uint64
	issuer  []byte   // DER
	retired [][]byte // keyd keys
}

// modelLeaf is a certificate that some keyd gave, with its key.
type modelLeaf struct {
	chain *profilepb.CertificateChain
	key   *ecdsa.PrivateKey
	id    profile.Identity
}

// modelRotation is a keyset that some keyd made.
type modelRotation struct {
	resp    *keydpb.RotateKeysetResponse
	retired [][]byte
}

// machine is a lying redoubtd beside two managers' keyds: it has all that keyds
// gave out, keeps it for ever, and mixes it as it likes.
type machine struct {
	outer     *testing.T
	keyds     []*modelKeyd
	root      []byte
	clusterID string
	leaves    []*modelLeaf
	tokens    []*token
	rotations []*modelRotation
	keydKeys  [][]byte // of keyds, and of nobody
	granted   map[string]int
}

func newMachine(t *testing.T) *machine {
	m := &machine{outer: t, granted: map[string]int{}}
	a := m.start(t.TempDir(), autolock.NewOperatorKey())
	a.id = newID()
	key := newKey(t)
	a.keydKey = m.must(a, &keydpb.Request{Verb: &keydpb.Request_PrepareJoin{PrepareJoin: &keydpb.PrepareJoinRequest{}}}).GetPrepareJoin().GetKeydKey()
	init := m.must(a, &keydpb.Request{Verb: &keydpb.Request_Init{Init: &keydpb.InitRequest{NodeId: a.id,
		ManagerCsr: newCSR(t, key, a.keydKey), BootCsr: newCSR(t, newKey(t), nil), Slots: []*keydpb.Slot{a.key.Slot()}}}}).GetInit()
	m.root, m.clusterID = init.Manager.Certificates[2], init.ClusterId
	m.keep(init.Manager, key)
	a.epoch, a.issuer = 1, init.Manager.Certificates[1]

	b := m.start(t.TempDir(), a.key)
	b.keydKey = m.must(b, &keydpb.Request{Verb: &keydpb.Request_PrepareJoin{PrepareJoin: &keydpb.PrepareJoinRequest{}}}).GetPrepareJoin().GetKeydKey()
	key = newKey(t)
	req := m.minted(a, manager).join(t, newCSR(t, key, b.keydKey), newCSR(t, newKey(t), nil))
	b.id = req.NodeId
	leaf := m.must(a, &keydpb.Request{Verb: &keydpb.Request_SignJoin{SignJoin: req}}).GetSignJoin().GetLeaf()
	m.keep(leaf, key)
	sealed := m.must(a, &keydpb.Request{Verb: &keydpb.Request_SealKeyset{SealKeyset: &keydpb.SealKeysetRequest{Manager: leaf}}}).GetSealKeyset().GetSealedKeyset()
	m.must(b, &keydpb.Request{Verb: &keydpb.Request_ImportKeyset{ImportKeyset: &keydpb.ImportKeysetRequest{NodeId: b.id, ClusterId: m.clusterID,
		SealedKeyset: sealed, Slots: init.Slots, RootPin: profile.SPKIHash(a.secrets.keyset.root)}}})
	b.epoch, b.issuer = 1, a.issuer
	// A worker, and the token that it came with: chance hardly makes them.
	m.tokens, key = []*token{m.minted(a, worker)}, newKey(t)
	req = m.tokens[0].join(t, newCSR(t, key, nil), nil)
	m.keep(m.must(a, &keydpb.Request{Verb: &keydpb.Request_SignJoin{SignJoin: req}}).GetSignJoin().GetLeaf(), key)

	m.keydKeys = [][]byte{a.keydKey, b.keydKey}
	for range 2 {
		p, err := newPrepared()
		if err != nil {
			t.Fatal(err)
		}
		m.keydKeys = append(m.keydKeys, p.public)
		p.destroy()
	}
	return m
}

func (m *machine) minted(k *modelKeyd, role profilepb.Role) *token {
	rec, private := newRecord(m.outer, role)
	return &token{rec.Id, private, m.must(k, &keydpb.Request{Verb: &keydpb.Request_MintToken{MintToken: &keydpb.MintTokenRequest{Record: rec}}}).GetMintToken().GetSigned()}
}

func (m *machine) start(dir string, key autolock.OperatorKey) *modelKeyd {
	s, err := New(Config{Dir: dir, Section: DefaultSection()})
	if err != nil {
		m.outer.Fatal(err)
	}
	k := &modelKeyd{Server: s, dir: dir, key: key}
	m.keyds = append(m.keyds, k)
	return k
}

func (m *machine) close() {
	for _, k := range m.keyds {
		k.Close()
	}
}

func (m *machine) must(k *modelKeyd, req *keydpb.Request) *keydpb.Response {
	m.outer.Helper()
	resp, err := k.controlVerb(m.outer.Context(), req)
	if err != nil {
		m.outer.Fatal(err)
	}
	return resp
}

// ask makes a call and holds what comes of it against the lock.
func (m *machine) ask(t *rapid.T, k *modelKeyd, req *keydpb.Request) *keydpb.Response {
	k.managers, k.reseals, k.mints, k.denials = bucket{}, bucket{}, bucket{}, bucket{} // rates have tests of their own
	resp, err := k.controlVerb(m.outer.Context(), req)
	switch {
	case k.locked && codeOf(err) != keydpb.Code_CODE_LOCKED:
		t.Fatalf("a locked keyd answers %T with %v, %v", req.Verb, resp, err)
	case err != nil && codeOf(err) == keydpb.Code_CODE_INTERNAL:
		t.Fatalf("%T: %v", req.Verb, err)
	case err != nil:
		return nil
	}
	m.granted[strings.TrimPrefix(fmt.Sprintf("%T", req.Verb), "*keydpb.Request_")]++
	return resp
}

func (m *machine) keep(chain *profilepb.CertificateChain, key *ecdsa.PrivateKey) *modelLeaf {
	certs, err := profile.ParseChain(chain)
	if err != nil {
		m.outer.Fatal(err)
	}
	id, err := profile.NodeFromCert(certs[0])
	if err != nil {
		m.outer.Fatal(err)
	}
	l := &modelLeaf{chain, key, id}
	m.leaves = append(m.leaves, l)
	return l
}

// issued fails unless the certificate is within the profile.
func (m *machine) issued(t *rapid.T, k *modelKeyd, chain *profilepb.CertificateChain, role profilepb.Role, node string, keydKey []byte) {
	cert := leafOf(m.outer, chain, m.root)
	id, err := profile.NodeFromCert(cert)
	life := profile.LeafLife
	if role == boot {
		life = profile.BootLeafLife
	}
	switch {
	case err != nil:
		t.Fatalf("a certificate outside the profile: %v", err)
	case id.Role != role || id.ClusterID != m.clusterID || node != "" && id.NodeID != node || !bytes.Equal(id.KeydKey, keydKey):
		t.Fatalf("a certificate of %v %s, not of %v %s", id.Role, id.NodeID, role, node)
	case cert.IsCA || cert.NotAfter.After(time.Now().Add(life)) || cert.KeyUsage&x509.KeyUsageCertSign != 0:
		t.Fatalf("a certificate that can do too much, until %v", cert.NotAfter)
	case !bytes.Equal(chain.GetCertificates()[1], k.issuer):
		t.Fatal("a certificate of another issuer than the one in force")
	}
}
