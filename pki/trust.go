package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// Trust is what a node holds certificates against.
type Trust struct {
	ClusterID string
	Roots     []*x509.Certificate
	// Issuers are the active issuing CAs; a certificate of any other is refused.
	Issuers []*x509.Certificate
	// Former are issuing CAs of before a rotation, whose keys a manager that left
	// may still have: a leaf of theirs is refused unless Known.
	Former []*x509.Certificate
	// FormerRoots are roots that were replaced, whose keys may be in other hands:
	// below them a leaf of a Former issuer is good where it is Known, and nothing
	// else.
	FormerRoots []*x509.Certificate
	// Cross are certificates of one root by another, newest first. They are
	// presented along, for those who trust only the other.
	Cross []*x509.Certificate
	// AnyIssuer accepts every issuer below the roots. It is for workers and
	// joiners, who have no copy of the cluster record.
	AnyIssuer bool
	// Known reports whether the record of the node or person names that leaf's key.
	// Nil: it does not.
	Known func(profile.Identity) bool
	// Behind says for how long this manager has heard no leader, so that it may
	// have missed a rotation. Nil: it hears one.
	Behind func() time.Duration
}

// TrustFromCluster is a manager's trust.
func TrustFromCluster(c *pkipb.Cluster) (Trust, error) {
	t := Trust{ClusterID: c.GetClusterId()}
	var err error
	if t.Roots, err = parseAll(c.GetRoots()); err != nil {
		return Trust{}, fmt.Errorf("cluster record: root: %w", err)
	}
	if t.Issuers, err = parseAll(inForce(c)); err != nil {
		return Trust{}, fmt.Errorf("cluster record: issuer: %w", err)
	}
	if t.Former, err = parseAll(c.GetFormerIssuers()); err != nil {
		return Trust{}, fmt.Errorf("cluster record: former issuer: %w", err)
	}
	if t.FormerRoots, err = parseAll(c.GetFormerRoots()); err != nil {
		return Trust{}, fmt.Errorf("cluster record: former root: %w", err)
	}
	if t.Cross, err = parseAll(c.GetCross()); err != nil {
		return Trust{}, fmt.Errorf("cluster record: cross certificate: %w", err)
	}
	return t, t.check()
}

// TrustFromChain is the trust that a node takes from its own chain, whose root
// it pinned when it joined or took later, and from the roots that it kept beside
// it (nil: none).
func TrustFromChain(chain *profilepb.CertificateChain, kept *pkipb.Roots) (Trust, error) {
	certs, err := profile.ParseChain(chain)
	if err != nil {
		return Trust{}, err
	}
	id, err := profile.NodeFromCert(certs[0])
	if err != nil {
		return Trust{}, err
	}
	if len(certs) < 3 {
		return Trust{}, errors.New("certificate chain: the root is missing")
	}
	t := Trust{ClusterID: id.ClusterID, Roots: certs[len(certs)-1:], AnyIssuer: true}
	if err := t.keep(kept); err != nil {
		return t, err
	}
	return t, t.check()
}

// trustFromPin is a joiner's trust: whatever root among the presented
// certificates has the pinned key.
func trustFromPin(clusterID string, pin []byte, presented []*x509.Certificate) (Trust, error) {
	for _, c := range presented {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		if c.IsCA && subtle.ConstantTimeCompare(sum[:], pin) == 1 {
			return Trust{ClusterID: clusterID, Roots: []*x509.Certificate{c}, AnyIssuer: true}, nil
		}
	}
	return Trust{}, fmt.Errorf("%w (its chain lacks the root that the token pins: where that was replaced since, make a new token)", ErrUntrusted)
}

func (t Trust) check() error {
	switch {
	case !ident.Valid(t.ClusterID):
		return errors.New("trust: malformed cluster id")
	case len(t.Roots) == 0:
		return errors.New("trust: there is no root")
	case len(t.Issuers) == 0 && !t.AnyIssuer:
		return errors.New("trust: there is no active issuer")
	}
	for _, c := range slices.Concat(t.Roots, t.Issuers, t.Former, t.FormerRoots, t.Cross) {
		if !c.IsCA {
			return errors.New("trust: a root or issuer is no CA")
		}
	}
	return nil
}

// Expect says which peers are welcome.
type Expect struct {
	Roles []profilepb.Role
	// People are welcome, and nobody else.
	People bool
	// NodeID, when set, is the only node.
	NodeID string
	// Grace is for how long after its expiry a worker's certificate is still
	// accepted.
	Grace time.Duration
	// Patience is for how long a manager must have heard no leader to take an
	// issuer below the roots that it does not know; zero: it never does.
	Patience time.Duration
}

// Verify checks the certificates that a peer presented, leaf first, and
// returns who it is.
func (t Trust) Verify(presented []*x509.Certificate, want Expect) (*authz.Peer, error) {
	if len(presented) == 0 {
		return nil, ErrNoCertificate
	}
	if len(presented) > profile.MaxChain {
		return nil, fmt.Errorf("%w (its chain is longer than %d)", ErrUntrusted, profile.MaxChain)
	}
	leaf, now := presented[0], time.Now()
	v, err := t.verifyChain(presented, now)
	id := v.id
	switch {
	case err != nil:
		return nil, err
	case v.rank == issuerFormer && (t.Known == nil || !t.Known(id)):
		return nil, fmt.Errorf("%s: %w", named(id), ErrFormerIssuer)
	case v.rank == issuerUnknown && !t.AnyIssuer && (want.Patience == 0 || t.Behind == nil || t.Behind() < want.Patience):
		return nil, ErrUntrusted
	}
	p := &authz.Peer{Identity: id, Leaf: leaf, External: v.external}
	for _, c := range presented {
		p.Chain = append(p.Chain, c.Raw)
	}
	return p, fit(id, leaf, now, want)
}

// named says in an error whose certificate it is.
func named(id profile.Identity) string {
	if id.Person != "" {
		return "person " + id.Person
	}
	return "node " + id.NodeID
}

// issuerRank says what is known of the CA that issued a leaf.
type issuerRank int

const (
	issuerUnknown issuerRank = iota // below a root, and no more
	issuerFormer
	issuerActive
)

// verifyChain returns who the leaf is of and the best rank among the chains
// from it to a root.
func (t Trust) verifyChain(presented []*x509.Certificate, now time.Time) (v verifiedChain, _ error) {
	key := t.chainKey(presented)
	if v, ok := verified.get(key, now); ok && v.id.ClusterID == t.ClusterID {
		return v, nil
	}
	leaf := presented[0]
	id, err := profile.FromCert(leaf)
	switch {
	case err != nil:
		return v, fmt.Errorf("%w (%w)", ErrUntrusted, err)
	case id.ClusterID != t.ClusterID:
		return v, ErrOtherCluster
	case now.Before(leaf.NotBefore):
		return v, ErrPeerNotYet
	}
	// Expiry is the leaf's own question, answered below: its chain must have
	// been good while the leaf was.
	at := now
	if at.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range slices.Concat(t.Roots, t.FormerRoots) {
		roots.AddCert(c)
	}
	for _, c := range slices.Concat(t.Issuers, t.Former, presented[1:]) {
		issuers.AddCert(profile.Understood(c))
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: issuers, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return v, ErrUntrusted
	}
	rank, found, external := issuerUnknown, false, false
	for _, chain := range chains {
		// Leaf, issuing CA, root: a root signs no node.
		if len(chain) < 3 || !profile.MayStand(chain, id.Role) {
			continue
		}
		gone := !slices.ContainsFunc(t.Roots, chain[len(chain)-1].Equal)
		former := slices.ContainsFunc(t.Former, chain[1].Equal)
		switch {
		case gone && !(former && len(chain) == 3):
			continue // whoever has a former root's key could have made it
		case !gone && slices.ContainsFunc(t.Issuers, chain[1].Equal):
			rank = issuerActive
		case former:
			rank = max(rank, issuerFormer)
		}
		found, external = true, external || profile.IsExternal(chain[1])
	}
	if !found {
		return v, ErrUntrusted
	}
	v = verifiedChain{id: id, rank: rank, external: external, at: now}
	v.from, v.until = window(chains)
	if v.goodAt(now) { // not where the leaf has expired
		verified.put(key, v)
	}
	return v, nil
}

// Again is Verify for a peer that was verified before, under this trust and for
// that protocol: the issuers may have changed since.
func (t Trust) Again(p *authz.Peer, alpn string) error {
	certs, err := parseAll(p.Chain)
	if err != nil {
		return err
	}
	_, err = t.Verify(certs, ExpectClient(alpn))
	return err
}

func fit(id profile.Identity, leaf *x509.Certificate, now time.Time, want Expect) error {
	switch {
	case want.People && id.Person == "":
		return fmt.Errorf("node %s: %w", id.NodeID, ErrNotPerson)
	case !want.People && id.Person != "":
		return fmt.Errorf("person %s: %w", id.Person, ErrIsPerson)
	case want.People && now.After(leaf.NotAfter):
		return fmt.Errorf("person %s: %w", id.Person, ErrPersonExpired)
	case want.People:
		return nil
	case now.After(leaf.NotAfter) && (id.Role != profilepb.Role_ROLE_WORKER || now.Sub(leaf.NotAfter) > want.Grace):
		return fmt.Errorf("node %s: %w", id.NodeID, ErrPeerExpired)
	case want.NodeID != "" && id.NodeID != want.NodeID:
		return fmt.Errorf("node %s instead of %s: %w", id.NodeID, want.NodeID, ErrWrongNode)
	case slices.Contains(want.Roles, id.Role):
		return nil
	case id.Role == profilepb.Role_ROLE_BOOT:
		return fmt.Errorf("node %s: %w", id.NodeID, ErrPeerLocked)
	case slices.Contains(want.Roles, profilepb.Role_ROLE_MANAGER):
		return fmt.Errorf("node %s: %w", id.NodeID, ErrNotManager)
	}
	return fmt.Errorf("node %s: %w", id.NodeID, ErrWrongRole)
}

// same reports whether two trusts accept the same certificates.
func (t Trust) same(o Trust) bool {
	eq := func(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) }
	return t.ClusterID == o.ClusterID && t.AnyIssuer == o.AnyIssuer &&
		slices.EqualFunc(t.Roots, o.Roots, eq) && slices.EqualFunc(t.FormerRoots, o.FormerRoots, eq) && slices.EqualFunc(t.Cross, o.Cross, eq) &&
		slices.EqualFunc(t.Issuers, o.Issuers, eq) && slices.EqualFunc(t.Former, o.Former, eq)
}

func parseAll(ders [][]byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("malformed certificate")
		}
		out = append(out, c)
	}
	return out, nil
}

// verifyState is Verify for a finished handshake.
func (t Trust) verifyState(cs tls.ConnectionState, want Expect) (*authz.Peer, error) {
	return t.Verify(cs.PeerCertificates, want)
}
