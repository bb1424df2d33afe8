package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
)

// Credentials are a node's certificate, its key and what it trusts. All of it
// can be replaced while connections go on: each handshake takes what is there
// when it starts. Safe for concurrent use.
type Credentials struct {
	mu    sync.Mutex // serializes writers; readers load state
	state atomic.Pointer[credState]
}

type credState struct {
	cert  tls.Certificate // what is presented: chain, and cross certificates of its root
	chain [][]byte
	id    profile.Identity
	trust Trust
}

// NewKey makes the key of a new leaf.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// NewCredentials checks that the chain is a node's, verifies under trust and
// belongs to key. The chain may have expired: what can still be done with it
// is for the other side to say.
func NewCredentials(chain *profilepb.CertificateChain, key crypto.Signer, trust Trust) (*Credentials, error) {
	if err := trust.check(); err != nil {
		return nil, err
	}
	s, err := newState(chain, key, trust)
	if err != nil {
		return nil, err
	}
	c := new(Credentials)
	c.state.Store(s)
	return c, nil
}

func newState(chain *profilepb.CertificateChain, key crypto.Signer, trust Trust) (*credState, error) {
	certs, err := profile.ParseChain(chain)
	if err != nil {
		return nil, err
	}
	id, err := profile.NodeFromCert(certs[0])
	if err != nil {
		return nil, err
	}
	if id.ClusterID != trust.ClusterID {
		return nil, errors.New("own certificate: it is of another cluster")
	}
	// Its own leaf of before a rotation is one the records name, or it is refused
	// by the others.
	if v, err := trust.verifyChain(certs, certs[0].NotAfter); err != nil || v.rank == issuerUnknown && !trust.AnyIssuer {
		return nil, errors.New("own certificate: it is not signed by a trusted issuer")
	}
	// Whoever keeps this chain takes its last certificate as a root later on, so
	// it must be one that is trusted now.
	if !slices.ContainsFunc(trust.Roots, certs[len(certs)-1].Equal) {
		return nil, errors.New("own certificate: its chain does not end in a trusted root")
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(certs[0].PublicKey) {
		return nil, errors.New("own certificate: the key is not its key")
	}
	s := &credState{
		cert:  tls.Certificate{PrivateKey: key, Leaf: certs[0]},
		chain: chain.GetCertificates(),
		id:    id,
		trust: trust,
	}
	s.present()
	return s, nil
}

// present puts together what others are shown: those who trust only a root from
// before ours need the certificates that lead from there to here.
func (s *credState) present() {
	own := s.chain[:min(len(s.chain), profile.MaxChain-profile.MaxCross)]
	out := slices.Clone(own)
	for _, c := range s.trust.Cross[:min(len(s.trust.Cross), profile.MaxCross)] {
		out = append(out, c.Raw)
	}
	s.cert.Certificate = out
}

// SetLeaf replaces the certificate and key; the node and its role stay.
func (c *Credentials) SetLeaf(chain *profilepb.CertificateChain, key crypto.Signer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.state.Load()
	s, err := newState(chain, key, old.trust)
	if err != nil {
		return err
	}
	if s.id.NodeID != old.id.NodeID || s.id.Role != old.id.Role {
		return fmt.Errorf("new certificate is of %s %s, not of %s %s",
			profile.RoleName(s.id.Role), s.id.NodeID, profile.RoleName(old.id.Role), old.id.NodeID)
	}
	c.state.Store(s)
	return nil
}

// SetTrust replaces what peers are held against.
func (c *Credentials) SetTrust(t Trust) error {
	if err := t.check(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := *c.state.Load()
	if t.ClusterID != s.trust.ClusterID {
		return errors.New("trust: a node never changes its cluster")
	}
	s.trust = t
	s.present()
	c.state.Store(&s)
	return nil
}

// Heed sets the two questions that a manager's trust asks its store.
func (c *Credentials) Heed(known func(profile.Identity) bool, behind func() time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := *c.state.Load()
	s.trust.Known, s.trust.Behind = known, behind
	c.state.Store(&s)
}

// outdated reports whether the present leaf is of an issuer that is known to be
// a former one.
func (c *Credentials) outdated() bool {
	s := c.state.Load()
	return slices.ContainsFunc(s.trust.Former, func(f *x509.Certificate) bool { return s.cert.Leaf.CheckSignatureFrom(f) == nil })
}

// IssuerHash is the SHA-256 of the certificate of the CA that issued the present
// leaf.
func (c *Credentials) IssuerHash() []byte { return issuerHash(c.Chain()) }

// Peer is this node as others see it that verified its certificate.
func (c *Credentials) Peer() *authz.Peer {
	s := c.state.Load()
	return &authz.Peer{Identity: s.id, Leaf: s.cert.Leaf, Chain: s.chain}
}

// Identity is what the present certificate says.
func (c *Credentials) Identity() profile.Identity { return c.state.Load().id }

// Leaf is the present certificate.
func (c *Credentials) Leaf() *x509.Certificate { return c.state.Load().cert.Leaf }

// Chain is the present chain, leaf first. Do not modify it.
func (c *Credentials) Chain() *profilepb.CertificateChain {
	return &profilepb.CertificateChain{Certificates: c.state.Load().chain}
}

// Trust is what peers are held against at present.
func (c *Credentials) Trust() Trust { return c.state.Load().trust }

// Key is the leaf's.
func (c *Credentials) Key() crypto.Signer { return c.state.Load().cert.PrivateKey.(crypto.Signer) }

// current returns the chain together with its key.
func (c *Credentials) current() (leaf *x509.Certificate, key crypto.Signer) {
	cert := c.state.Load().cert
	return cert.Leaf, cert.PrivateKey.(crypto.Signer)
}

// GetCertificate serves tls.Config on the listening side.
func (c *Credentials) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &c.state.Load().cert, nil
}

// GetClientCertificate serves tls.Config on the dialling side.
func (c *Credentials) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return &c.state.Load().cert, nil
}

// VerifyPeer returns who is at the other end of a finished handshake, or nil
// and no error for a peer without a certificate where the protocol allows it.
func (c *Credentials) VerifyPeer(cs tls.ConnectionState, want Expect) (*authz.Peer, error) {
	return c.state.Load().trust.verifyState(cs, want)
}

// FollowCluster keeps the trust in step with the cluster record until ctx ends
// or the store does. A record that cannot be used is reported and the old
// trust kept; a root in it counts where a trusted one certified it. keep, where
// it is not nil, writes the roots down before they are used, and changed is
// called after each change.
func (c *Credentials) FollowCluster(ctx context.Context, s store.Store, log *slog.Logger, keep func(*pkipb.Roots) error, changed func()) error {
	return store.FollowCluster(ctx, s, func(rec *pkipb.Cluster) {
		t, err := TrustFromCluster(rec)
		old := c.Trust()
		if err == nil {
			err = t.succeed(old)
		}
		if err == nil && t.same(old) {
			return
		}
		t.Known, t.Behind = old.Known, old.Behind
		if err == nil && keep != nil {
			err = keep(t.Kept())
		}
		if err == nil {
			err = c.SetTrust(t)
		}
		if err != nil {
			log.Error("kept the old trusted roots and issuers", "error", err)
			return
		}
		log.Info("took over trusted roots and issuers", "roots", len(t.Roots), "issuers", len(t.Issuers), "former", len(t.Former))
		if changed != nil {
			changed()
		}
	})
}
