package keyd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// outside is a CA that is not the cluster's.
type outside struct {
	t            *testing.T
	root, signer *x509.Certificate
	key          *ecdsa.PrivateKey
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	rootKey, key := newKey(t), newKey(t)
	ca := func(name string, life time.Duration) *x509.Certificate {
		return &x509.Certificate{SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name + " " + ident.New()}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageCertSign}
	}
	o := &outside{t: t, key: key}
	t1 := ca("Outside Root", 1000*24*time.Hour)
	o.root = o.sign(t1, t1, rootKey.Public(), rootKey)
	o.signer = o.sign(ca("Outside Intermediate", 500*24*time.Hour), o.root, key.Public(), rootKey)
	return o
}

func (o *outside) sign(c, parent *x509.Certificate, public any, by *ecdsa.PrivateKey) *x509.Certificate {
	o.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, by)
	if err != nil {
		o.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		o.t.Fatal(err)
	}
	return cert
}

func (o *outside) message() *keydpb.External {
	return &keydpb.External{Url: "https://ca.example:9000", Provisioner: "redoubt", Chain: [][]byte{o.signer.Raw, o.root.Raw}}
}

// leaf is what an honest CA makes of an order, and after edit a dishonest one.
func (o *outside) leaf(id profile.Identity, public any, until int64, edit func(*x509.Certificate)) *x509.Certificate {
	t := profile.LeafTemplate(id, time.Now(), time.Until(time.Unix(until, 0)))
	t.NotAfter, t.SerialNumber = time.Unix(until, 0), newSerial()
	t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: profile.OIDProvisioner, Value: []byte{0x30, 0}})
	if edit != nil {
		edit(t)
	}
	return o.sign(t, o.signer, public, o.key)
}

// ordering is a cluster of one manager whose workers an outside CA signs.
type ordering struct {
	*cluster
	*outside
	nodeID string // of a worker
	key    *ecdsa.PrivateKey
	chain  *profilepb.CertificateChain
}

func (c *cluster) rotate(t *testing.T, what keydpb.CAChange, external *keydpb.External) (*keydpb.RotateCAResponse, error) {
	t.Helper()
	r, err := c.RotateCA(t.Context(), &keydpb.RotateCARequest{Change: what, External: external, Managers: []*profilepb.CertificateChain{c.init.Manager}})
	if err != nil {
		return nil, err
	}
	_, err = c.AdoptKeyset(t.Context(), &keydpb.AdoptKeysetRequest{Epoch: r.GetEpoch(), SealedKeyset: r.GetSealed()[0].GetSealed()})
	return r, err
}

// newOrdering has a worker that joined before.
func newOrdering(t *testing.T) *ordering {
	t.Helper()
	o := &ordering{cluster: newCluster(t), outside: newOutside(t), key: newKey(t)}
	req := o.mint(t, worker, nil).join(t, newCSR(t, o.key, nil), nil)
	o.nodeID = req.NodeId
	joined, err := o.SignJoin(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	o.chain = joined.Leaf
	if _, err := o.rotate(t, setExternal, o.message()); err != nil {
		t.Fatal(err)
	}
	return o
}

// order asks for a renewal under a new key.
func (o *ordering) order(t *testing.T) (*keydpb.Order, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key := newKey(t)
	csr := newCSR(t, key, nil)
	old, err := x509.ParseCertificate(o.chain.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	proof, err := profile.SignRenewProof(o.key, csr, nil, old.Raw)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := o.SignRenew(t.Context(), &keydpb.SignRenewRequest{Old: o.chain, Csr: csr, Proof: proof})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Leaf != nil || resp.Order == nil {
		t.Fatal("keyd signed a worker's leaf by itself")
	}
	return resp.Order, key, csr
}

func (o *ordering) identity() profile.Identity {
	return profile.Identity{ClusterID: o.init.ClusterId, NodeID: o.nodeID, Role: worker}
}

func (o *ordering) take(t *testing.T, order *keydpb.Order, chain ...*x509.Certificate) (*profilepb.CertificateChain, error) {
	t.Helper()
	req := &keydpb.TakeExternalRequest{Order: order.GetId()}
	for _, c := range chain {
		req.Chain = append(req.Chain, c.Raw)
	}
	resp, err := o.TakeExternal(t.Context(), req)
	return resp.GetLeaf(), err
}
