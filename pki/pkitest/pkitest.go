// Package pkitest is a certificate authority for tests. It signs what keyd
// would sign, with real keys, and verifies the same proofs; it has none of
// keyd's policy and keeps its keys in plain memory.
package pkitest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// CA is a cluster's certificate authority. It is a pki.Signer.
type CA struct {
	ClusterID string
	Root      *x509.Certificate
	Issuer    *x509.Certificate

	rootKey   *ecdsa.PrivateKey
	issuerKey *ecdsa.PrivateKey
	recordKey ed25519.PrivateKey
}

// New makes the authority of a new cluster.
func New(t testing.TB) *CA {
	t.Helper()
	rootKey, issuerKey := key(t), key(t)
	root := caCert(t, "root "+ident.New(), 2, nil, rootKey, rootKey)
	issuer := caCert(t, "issuing", 0, root, issuerKey, rootKey)
	_, recordKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{ClusterID: ident.New(), Root: root, Issuer: issuer, rootKey: rootKey, issuerKey: issuerKey, recordKey: recordKey}
}

func key(t testing.TB) *ecdsa.PrivateKey {
	k, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func caCert(t testing.TB, name string, pathLen int, parent *x509.Certificate, own, by *ecdsa.PrivateKey) *x509.Certificate {
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-100 * 24 * time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, own.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Pin is what the cluster's tokens pin.
func (c *CA) Pin() []byte { return profile.SPKIHash(c.Root) }

// Trust is a manager's.
func (c *CA) Trust() pki.Trust {
	return pki.Trust{ClusterID: c.ClusterID, Roots: []*x509.Certificate{c.Root}, Issuers: []*x509.Certificate{c.Issuer}}
}

// Cluster is the cluster record.
func (c *CA) Cluster() *pkipb.Cluster {
	return &pkipb.Cluster{Id: "cluster", ClusterId: c.ClusterID, Roots: [][]byte{c.Root.Raw}, Issuers: [][]byte{c.Issuer.Raw}}
}

// Issue signs a leaf for pub, issued at that time, with its chain.
func (c *CA) Issue(id profile.Identity, pub any, at time.Time, life time.Duration) (*profilepb.CertificateChain, error) {
	der, err := x509.CreateCertificate(rand.Reader, profile.LeafTemplate(id, at, life), c.Issuer, pub, c.issuerKey)
	if err != nil {
		return nil, err
	}
	return &profilepb.CertificateChain{Certificates: [][]byte{der, c.Issuer.Raw, c.Root.Raw}}, nil
}

// Node is a member with its credentials and the record that the store would
// have of it.
type Node struct {
	*pki.Credentials
	Key    *ecdsa.PrivateKey
	Record *pkipb.Node
	// Boot is nil on workers.
	Boot *pki.Credentials
}

// NewNode makes a member of that role.
func (c *CA) NewNode(t testing.TB, role profilepb.Role) *Node {
	t.Helper()
	return c.NewNodeAt(t, role, time.Now())
}

// NewNodeAt makes a member whose certificate was issued at that time.
func (c *CA) NewNodeAt(t testing.TB, role profilepb.Role, at time.Time) *Node {
	t.Helper()
	id := profile.Identity{ClusterID: c.ClusterID, NodeID: ident.New(), Role: role}
	n := &Node{Record: &pkipb.Node{Id: id.NodeID, Name: "n-" + id.NodeID[:4], Role: role}}
	n.Credentials, n.Key = c.credentials(t, id, at, profile.LeafLife)
	n.Record.LeafSpki, n.Record.LeafNotAfter = n.Identity().SPKI, n.Leaf().NotAfter.Unix()
	if role == profilepb.Role_ROLE_MANAGER {
		id.Role = profilepb.Role_ROLE_BOOT
		n.Boot, _ = c.credentials(t, id, at, profile.BootLeafLife)
		n.Record.BootSpki = n.Boot.Identity().SPKI
	}
	return n
}

func (c *CA) credentials(t testing.TB, id profile.Identity, at time.Time, life time.Duration) (*pki.Credentials, *ecdsa.PrivateKey) {
	k := key(t)
	chain, err := c.Issue(id, k.Public(), at, life)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(chain, k, c.Trust())
	if err != nil {
		t.Fatal(err)
	}
	return creds, k
}

// KeydKey makes the public half of a keyd key.
func KeydKey(context.Context) ([]byte, error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, err
	}
	return k.PublicKey().Bytes(), nil
}

// MintToken implements pki.TokenMinter.
func (c *CA) MintToken(_ context.Context, r *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error) {
	r = proto.CloneOf(r)
	r.ClusterId, r.MintedAt = c.ClusterID, time.Now().Unix()
	return c.SignRecord(r)
}

// SignRecord signs any record at all.
func (c *CA) SignRecord(r *profilepb.TokenRecord) (*profilepb.SignedTokenRecord, error) {
	b, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &profilepb.SignedTokenRecord{Record: b, Signature: ed25519.Sign(c.recordKey, profile.TokenSigningInput(b))}, nil
}

// SignJoin implements pki.JoinSigner.
func (c *CA) SignJoin(_ context.Context, q pki.SignJoin) (pki.Issued, error) {
	r, err := profile.OpenTokenRecord(c.recordKey.Public().(ed25519.PublicKey), q.Token)
	if err != nil {
		return pki.Issued{}, err
	}
	if err := profile.CheckToken(r, c.ClusterID, time.Now()); err != nil {
		return pki.Issued{}, err
	}
	if r.GetMaxUses() != 0 && q.Uses >= r.GetMaxUses() {
		return pki.Issued{}, errors.New("used up")
	}
	if err := profile.CheckJoinProof(r.GetPublicKey(), q.Exporter, q.CSR, q.BootCSR, r.GetId(), q.Proof); err != nil {
		return pki.Issued{}, err
	}
	if (r.GetApprove() || q.Policy.GetApproveManagers()) && r.GetRole() == profilepb.Role_ROLE_MANAGER && !q.Approved {
		return pki.Issued{WantsApproval: true}, nil
	}
	return c.issue(profile.Identity{ClusterID: c.ClusterID, NodeID: q.NodeID, Role: r.GetRole()}, q.CSR, q.BootCSR)
}

// Challenge implements pki.JoinSigner. It trusts no TPM: keyd's tests have real ones.
func (c *CA) Challenge(context.Context, pki.Challenge) (*profilepb.TPMCredential, error) {
	return nil, &pki.UnprovedError{Err: errors.New("this TPM is not trusted")}
}

// SignRenew implements pki.RenewSigner.
func (c *CA) SignRenew(_ context.Context, q pki.SignRenew) (pki.Issued, error) {
	old, err := profile.ParseChain(q.Old)
	if err != nil {
		return pki.Issued{}, err
	}
	id, err := profile.NodeFromCert(old[0])
	if err != nil {
		return pki.Issued{}, err
	}
	if err := old[0].CheckSignatureFrom(c.Issuer); err != nil {
		return pki.Issued{}, err
	}
	if err := profile.CheckRenewProof(old[0], q.CSR, q.BootCSR, q.Proof); err != nil {
		return pki.Issued{}, err
	}
	return c.issue(id, q.CSR, q.BootCSR)
}

// SignPromotion implements pki.RoleSigner.
func (c *CA) SignPromotion(_ context.Context, q pki.SignRenew) (pki.Issued, error) {
	return c.signRole(q, profilepb.Role_ROLE_MANAGER, profile.CheckPromotionProof)
}

// SignDemotion implements pki.RoleSigner.
func (c *CA) SignDemotion(_ context.Context, q pki.SignRenew) (pki.Issued, error) {
	return c.signRole(q, profilepb.Role_ROLE_WORKER, profile.CheckRenewProof)
}

func (c *CA) signRole(q pki.SignRenew, role profilepb.Role, check func(*x509.Certificate, []byte, []byte, []byte) error) (pki.Issued, error) {
	old, err := profile.ParseChain(q.Old)
	if err != nil {
		return pki.Issued{}, err
	}
	id, err := profile.NodeFromCert(old[0])
	if err != nil {
		return pki.Issued{}, err
	}
	if err := check(old[0], q.CSR, q.BootCSR, q.Proof); err != nil {
		return pki.Issued{}, err
	}
	id.Role = role
	return c.issue(id, q.CSR, q.BootCSR)
}

// MintInvitation implements pki.InvitationMinter.
func (c *CA) MintInvitation(_ context.Context, r *profilepb.InvitationRecord) (*profilepb.SignedInvitation, error) {
	r = proto.CloneOf(r)
	r.ClusterId, r.MintedAt = c.ClusterID, time.Now().Unix()
	b, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &profilepb.SignedInvitation{Record: b, Signature: ed25519.Sign(c.recordKey, profile.InvitationSigningInput(b))}, nil
}

// SignPerson implements pki.PersonSigner.
func (c *CA) SignPerson(_ context.Context, q pki.SignPerson) (*profilepb.CertificateChain, error) {
	csr, err := profile.ParsePersonCSR(q.CSR)
	if err != nil {
		return nil, err
	}
	name, life := "", time.Duration(q.LifeSeconds)*time.Second
	if q.Invitation != nil {
		r, err := profile.OpenInvitation(c.recordKey.Public().(ed25519.PublicKey), q.Invitation)
		if err == nil {
			err = profile.CheckEnrolProof(r.GetPublicKey(), q.Exporter, q.CSR, r.GetId(), q.Proof)
		}
		if err != nil {
			return nil, err
		}
		name, life = r.GetPerson(), time.Duration(r.GetLifeSeconds())*time.Second
	} else {
		old, id, err := profile.ParsePersonChain(q.Old)
		if err == nil {
			err = profile.CheckPersonRenew(old[0], q.CSR, q.Proof)
		}
		if err != nil {
			return nil, err
		}
		name = id.Person
	}
	return c.IssuePerson(name, csr.Request.PublicKey, time.Now(), life)
}

// IssuePerson signs a person's certificate for pub, issued at that time, with its chain.
func (c *CA) IssuePerson(name string, pub any, at time.Time, life time.Duration) (*profilepb.CertificateChain, error) {
	der, err := x509.CreateCertificate(rand.Reader, profile.PersonTemplate(c.ClusterID, name, at, life), c.Issuer, pub, c.issuerKey)
	if err != nil {
		return nil, err
	}
	return &profilepb.CertificateChain{Certificates: [][]byte{der, c.Issuer.Raw, c.Root.Raw}}, nil
}

// NextIssuer makes the issuing CA of a rotation, under the same root, and signs
// with it from now on.
func (c *CA) NextIssuer(t testing.TB) *x509.Certificate {
	t.Helper()
	c.issuerKey = key(t)
	c.Issuer = caCert(t, "issuing "+ident.New(), 0, c.Root, c.issuerKey, c.rootKey)
	return c.Issuer
}

// SealKeyset implements pki.JoinSigner; what it seals is no keyset.
func (c *CA) SealKeyset(_ context.Context, manager *profilepb.CertificateChain) ([]byte, error) {
	certs, err := profile.ParseChain(manager)
	if err != nil {
		return nil, err
	}
	id, err := profile.NodeFromCert(certs[0])
	if err != nil {
		return nil, err
	}
	pub, err := hpke.MLKEM768X25519().NewPublicKey(id.KeydKey)
	if err != nil {
		return nil, err
	}
	return hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("test"), []byte("keyset"))
}

func (c *CA) issue(id profile.Identity, csrDER, bootDER []byte) (pki.Issued, error) {
	csr, err := profile.ParseCSR(csrDER)
	if err != nil {
		return pki.Issued{}, err
	}
	id.KeydKey = csr.KeydKey
	var out pki.Issued
	if out.Leaf, err = c.Issue(id, csr.Request.PublicKey, time.Now(), profile.LeafLife); err != nil || bootDER == nil {
		return out, err
	}
	boot, err := profile.ParseCSR(bootDER)
	if err != nil {
		return pki.Issued{}, err
	}
	id.Role, id.KeydKey = profilepb.Role_ROLE_BOOT, nil
	out.Boot, err = c.Issue(id, boot.Request.PublicKey, time.Now(), profile.BootLeafLife)
	return out, err
}
