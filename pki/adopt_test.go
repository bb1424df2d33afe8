package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestAdoptLeaf(t *testing.T) {
	ca := pkitest.New(t)
	now := time.Now()
	id := profile.Identity{ClusterID: ca.ClusterID, NodeID: ident.New(), Role: profilepb.Role_ROLE_MANAGER}
	keydKey, err := pkitest.KeydKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id.KeydKey = keydKey
	tpm := func(b byte) []byte { return append([]byte{0x00, 0x0B}, bytes.Repeat([]byte{b}, 32)...) }
	newKey := func() *ecdsa.PrivateKey {
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	issueKey := func(key *ecdsa.PrivateKey, at time.Time, role profilepb.Role, tpm []byte) *x509.Certificate {
		who := id
		if who.Role = role; role != profilepb.Role_ROLE_MANAGER {
			who.KeydKey = nil
		}
		who.TPM = tpm
		chain, err := ca.Issue(who, key.Public(), at, profile.LeafLife)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := profile.ParseChain(chain)
		if err != nil {
			t.Fatal(err)
		}
		return certs[0]
	}
	issueFor := func(at time.Time, role profilepb.Role, tpm []byte) *x509.Certificate {
		return issueKey(newKey(), at, role, tpm)
	}
	issue := func(at time.Time, role profilepb.Role) *x509.Certificate { return issueFor(at, role, nil) }
	key := newKey()
	recorded := issueKey(key, now.Add(-48*time.Hour), id.Role, nil)
	base := &pkipb.Node{Id: id.NodeID, Role: id.Role, LeafSpki: profile.SPKIHash(recorded), LeafNotAfter: recorded.NotAfter.Unix()}
	fresh := issue(now, id.Role)
	for _, tc := range []struct {
		name   string
		leaf   *x509.Certificate
		change func(*pkipb.Node)
		want   bool
	}{
		{"re-issued after a long sleep", fresh, func(*pkipb.Node) {}, true},
		{"re-issued for the key on record", issueKey(key, now, id.Role, nil), func(*pkipb.Node) {}, true},
		{"older than the recorded one, for its key", issueKey(key, now.Add(-72*time.Hour), id.Role, nil), func(*pkipb.Node) {}, false},
		{"older than the recorded one", issue(now.Add(-72*time.Hour), id.Role), func(*pkipb.Node) {}, false},
		{"recorded already", recorded, func(*pkipb.Node) {}, false},
		{"of a removed node", fresh, func(n *pkipb.Node) { n.Denied = true }, false},
		{"of a node that is a worker by now", fresh, func(n *pkipb.Node) { n.Role = profilepb.Role_ROLE_WORKER }, false},
		{"of the TPM on record", issueFor(now, id.Role, tpm(1)), func(n *pkipb.Node) { n.TpmAk = tpm(1) }, true},
		{"of another TPM", issueFor(now, id.Role, tpm(2)), func(n *pkipb.Node) { n.TpmAk = tpm(1) }, false},
		{"that names the record's TPM no more", fresh, func(n *pkipb.Node) { n.TpmAk = tpm(1) }, false},
		{"of a TPM where the record has none", issueFor(now, id.Role, tpm(1)), func(*pkipb.Node) {}, false},
		{"a boot leaf", issue(now, profilepb.Role_ROLE_BOOT), func(*pkipb.Node) {}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := raftstoretest.New(t, store.Tables()...)
			rec := proto.CloneOf(base)
			tc.change(rec)
			put := func(tx *raftstore.Tx) error { return store.Nodes.Put(tx, rec) }
			adopt := func(tx *raftstore.Tx) error { return pki.AdoptLeaf(tx, tc.leaf) }
			for _, f := range []func(*raftstore.Tx) error{put, adopt} {
				if err := s.Update(t.Context(), f); err != nil {
					t.Fatal(err)
				}
			}
			n, err := store.Directory{Store: s}.Node(id.NodeID)
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Equal(n.GetLeaf(), tc.leaf.Raw); got != tc.want {
				t.Errorf("adopted: %v, want %v", got, tc.want)
			}
			if rec.Meta = n.GetMeta(); !tc.want && !proto.Equal(n, rec) {
				t.Errorf("the record was changed: %v", n)
			}
		})
	}
}
