package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

type world struct {
	master    *seal.Master
	node      *seal.NodeKey
	statement seal.Statement
	raw       []byte
	subject   seal.Subject
	grant     seal.Grant
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		subject: seal.Subject{ClusterID: ident.New(), SecretID: ident.New(), VersionID: ident.New(), Kind: seal.KindFile},
		grant:   seal.Grant{ServiceID: ident.New(), TaskID: ident.New()},
	}
	var err error
	if w.master, err = seal.NewMaster(w.subject.ClusterID, 3, bytes.Repeat([]byte{7}, 32)); err != nil {
		t.Fatal(err)
	}
	if w.node, err = seal.NewNodeKey(); err != nil {
		t.Fatal(err)
	}
	if w.raw, err = w.node.Statement(w.subject.ClusterID, ident.New()); err != nil {
		t.Fatal(err)
	}
	if w.statement, err = seal.ParseStatement(w.raw); err != nil {
		t.Fatal(err)
	}
	return w
}

// A secret goes from who made it to the task of a node, by way of the cluster.
func TestSecretReachesItsTask(t *testing.T) {
	w := newWorld(t)
	for _, plain := range [][]byte{{0}, []byte("hunter2\n"), bytes.Repeat([]byte{0xff, 0}, seal.MaxSecret/2)} {
		data, sealed, err := seal.Seal(w.master.Recipient(), 3, w.subject, plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) != len(plain)+seal.DataOverhead || len(sealed) != seal.SealedKeyLen {
			t.Errorf("%d bytes become %d and %d", len(plain), len(data), len(sealed))
		}
		key, err := w.master.OpenKey(w.subject, sealed)
		if err != nil {
			t.Fatal(err)
		}
		given, err := seal.ToNode(w.statement, w.grant, w.subject, key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.node.Open(w.statement.NodeID, w.grant, w.subject, given, data)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes arrive as %d: %v", len(plain), len(got), err)
		}
	}
}

func TestBoundsOfASecret(t *testing.T) {
	w := newWorld(t)
	for want, plain := range map[string][]byte{
		"the secret is empty":                           nil,
		"512001 bytes long: at most 512000 are allowed": make([]byte, seal.MaxSecret+1),
	} {
		if _, _, err := seal.Seal(w.master.Recipient(), 3, w.subject, plain); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %v", len(plain), err)
		}
	}
	if _, _, err := seal.Seal(w.master.Recipient(), 0, w.subject, []byte("x")); err == nil {
		t.Error("epoch 0 is taken")
	}
	if _, _, err := seal.Seal(w.master.Recipient()[1:], 3, w.subject, []byte("x")); err == nil {
		t.Error("half a recipient is taken")
	}
}

// Each thing that an envelope names is bound into it: with another one it does
// not open.
func TestEnvelopesAreOfOneUse(t *testing.T) {
	w := newWorld(t)
	data, sealed, err := seal.Seal(w.master.Recipient(), 3, w.subject, []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := w.master.OpenKey(w.subject, sealed)
	if err != nil {
		t.Fatal(err)
	}
	given, err := seal.ToNode(w.statement, w.grant, w.subject, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*seal.Subject){
		"cluster": func(s *seal.Subject) { s.ClusterID = ident.New() },
		"secret":  func(s *seal.Subject) { s.SecretID = ident.New() },
		"version": func(s *seal.Subject) { s.VersionID = ident.New() },
		"kind":    func(s *seal.Subject) { s.Kind = seal.KindRegistry },
	} {
		other := w.subject
		change(&other)
		if _, err := w.master.OpenKey(other, sealed); err == nil {
			t.Errorf("another %s opens the key", name)
		}
		if _, err := seal.OpenData(key, other, data); err == nil {
			t.Errorf("another %s opens the data", name)
		}
		if _, err := w.node.Open(w.statement.NodeID, w.grant, other, given, data); err == nil {
			t.Errorf("another %s opens on the node", name)
		}
	}
	for _, epoch := range []uint64{2, 4} {
		m, err := seal.NewMaster(w.subject.ClusterID, epoch, bytes.Repeat([]byte{7}, 32))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.OpenKey(w.subject, sealed); err == nil {
			t.Errorf("the master of epoch %d opens it", epoch)
		}
	}
	// The same pair, told another epoch.
	if forged, err := seal.WrapKey(w.master.Recipient(), 4, w.subject, key); err != nil {
		t.Error(err)
	} else if _, err := w.master.OpenKey(w.subject, forged); err == nil {
		t.Error("a key sealed for another epoch opens")
	}
	if _, err := w.node.Open(ident.New(), w.grant, w.subject, given, data); err == nil {
		t.Error("it opens as another node")
	}
	for _, g := range []seal.Grant{{ident.New(), w.grant.TaskID}, {w.grant.ServiceID, ident.New()}} {
		if _, err := w.node.Open(w.statement.NodeID, g, w.subject, given, data); err == nil {
			t.Error("it opens for another service or task")
		}
	}
	if other := newWorld(t); true {
		if _, err := other.node.Open(w.statement.NodeID, w.grant, w.subject, given, data); err == nil {
			t.Error("another rund opens it")
		}
		if _, err := seal.ToNode(other.statement, w.grant, w.subject, key); err == nil {
			t.Error("it is sealed to a node of another cluster")
		}
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	w := newWorld(t)
	data, sealed, err := seal.Seal(w.master.Recipient(), 3, w.subject, []byte("h"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := w.master.OpenKey(w.subject, sealed)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(data) {
		data[i/8] ^= 1 << (i % 8)
		if _, err := seal.OpenData(key, w.subject, data); err == nil {
			t.Errorf("bit %d of the data", i)
		}
		data[i/8] ^= 1 << (i % 8)
	}
	for i := 0; i < len(sealed); i += 5 {
		sealed[i] ^= 1 << (i % 8)
		if _, err := w.master.OpenKey(w.subject, sealed); err == nil {
			t.Errorf("byte %d of the sealed key", i)
		}
		sealed[i] ^= 1 << (i % 8)
	}
}

func TestStatementIsSigned(t *testing.T) {
	w := newWorld(t)
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := seal.StatementDigest(w.raw)
	signature, err := leaf.Sign(rand.Reader, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.CheckStatement(leaf.Public(), w.raw, signature); err != nil {
		t.Error(err)
	}
	other := newWorld(t)
	if seal.CheckStatement(leaf.Public(), other.raw, signature) == nil || seal.CheckStatement(nil, w.raw, signature) == nil {
		t.Error("a signature over something else is taken")
	}
}

// FuzzStatement: what is read as a statement is read in one way only.
func FuzzStatement(f *testing.F) {
	f.Add([]byte("RDTN\x01"))
	f.Add(newWorld(f).raw)
	f.Add(append(newWorld(f).raw, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := seal.ParseStatement(b)
		if err != nil {
			return
		}
		if again := s.Bytes(); !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x", b, again)
		}
	})
}

// FuzzOpen: whatever comes, nothing opens that was not sealed, and nothing panics.
func FuzzOpen(f *testing.F) {
	w := newWorld(f)
	data, sealed, err := seal.Seal(w.master.Recipient(), 3, w.subject, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed[1:], data)
	f.Add(append(sealed, 0), data[1:])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, key, data []byte) {
		if _, err := w.master.OpenKey(w.subject, key); err == nil && !bytes.Equal(key, sealed) {
			t.Fatal("a key opened that nobody sealed")
		}
		if _, err := w.node.Open(w.statement.NodeID, w.grant, w.subject, key, data); err == nil {
			t.Fatal("data opened that nobody sealed")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	w := newWorld(b)
	to := w.master.Recipient()
	plain := make([]byte, 1024)
	for b.Loop() {
		if _, _, err := seal.Seal(to, 3, w.subject, plain); err != nil {
			b.Fatal(err)
		}
	}
}
