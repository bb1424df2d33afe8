package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
)

// How a node comes to trust another root.
//
// Nobody's word is enough for that: a root is taken where a certificate of it by
// one that is trusted already is shown (a cross certificate), and such a thing is
// made by keyds alone. To trust less than before anybody may ask who speaks for
// the managers; what a node's own certificate ends in it goes on trusting.

// RootsOf is what nodes without a store are told.
func RootsOf(c *pkipb.Cluster) *pkipb.Roots {
	return &pkipb.Roots{Roots: c.GetRoots(), Cross: c.GetCross()}
}

// HashesOf are the SHA-256 of certificates in DER, sorted.
func HashesOf(ders [][]byte) (out [][]byte) {
	for _, der := range ders {
		sum := sha256.Sum256(der)
		out = append(out, sum[:])
	}
	slices.SortFunc(out, bytes.Compare)
	return slices.CompactFunc(out, bytes.Equal)
}

// RootHashes are the SHA-256 of the roots trusted at present, sorted.
func (c *Credentials) RootHashes() [][]byte { return HashesOf(raws(c.Trust().Roots)) }

// Kept is what a node writes down of its trust.
func (t Trust) Kept() *pkipb.Roots { return &pkipb.Roots{Roots: raws(t.Roots), Cross: raws(t.Cross)} }

func raws(certs []*x509.Certificate) (out [][]byte) {
	for _, c := range certs {
		out = append(out, c.Raw)
	}
	return out
}

// keep adds what was kept to the root of the node's own chain. It lies beside the
// chain and is believed as that is.
func (t *Trust) keep(kept *pkipb.Roots) error {
	roots, err := parseRoots(kept)
	if err != nil {
		return err
	}
	for _, c := range roots.Roots {
		if !slices.ContainsFunc(t.Roots, c.Equal) {
			t.Roots = append(slices.Clip(t.Roots), c)
		}
	}
	t.Cross = roots.Cross
	return nil
}

// parseRoots reads roots and cross certificates within bounds, as a Trust of no
// cluster.
func parseRoots(r *pkipb.Roots) (t Trust, err error) {
	if len(r.GetRoots()) > maxRoots || len(r.GetCross()) > maxCross {
		return t, fmt.Errorf("roots: more than %d, or more than %d cross certificates", maxRoots, maxCross)
	}
	if t.Roots, err = parseAll(r.GetRoots()); err != nil {
		return t, fmt.Errorf("roots: %w", err)
	}
	if t.Cross, err = parseAll(r.GetCross()); err != nil {
		return t, fmt.Errorf("roots: cross certificate: %w", err)
	}
	for _, c := range slices.Concat(t.Roots, t.Cross) {
		if !c.IsCA {
			return t, errors.New("roots: a certificate is no CA's")
		}
	}
	return t, nil
}

// succeed takes out of t the roots that old gives no reason to trust. It fails
// where none is left.
func (t *Trust) succeed(old Trust) error {
	trusted := slices.Clone(old.Roots)
	for range t.Roots { // each round finds one more, or nothing
		for _, c := range t.Roots {
			if !slices.ContainsFunc(trusted, c.Equal) && vouched(c, t.Cross, trusted) {
				trusted = append(trusted, c)
			}
		}
		// A root between, of which only its own certificate is left, leads on.
		for _, x := range t.Cross {
			if !slices.ContainsFunc(trusted, x.Equal) && isCross(x) && signedBy(x, trusted) {
				trusted = append(trusted, x)
			}
		}
	}
	t.Roots = slices.DeleteFunc(slices.Clone(t.Roots), func(c *x509.Certificate) bool { return !slices.ContainsFunc(trusted, c.Equal) })
	if len(t.Roots) == 0 {
		return errors.New("no root is one that this node trusts, or that such a one certified")
	}
	return nil
}

// vouched reports whether one of the cross certificates is of root's subject and
// key, by one that is trusted.
func vouched(root *x509.Certificate, cross, trusted []*x509.Certificate) bool {
	return slices.ContainsFunc(cross, func(x *x509.Certificate) bool {
		return isCross(x) && bytes.Equal(x.RawSubject, root.RawSubject) && bytes.Equal(x.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) && signedBy(x, trusted)
	})
}

// isCross tells a certificate of a root from one of an issuing CA, which roots
// sign as well: that one must never lead to another root.
func isCross(x *x509.Certificate) bool { return x.IsCA && x.MaxPathLen > 0 }

func signedBy(c *x509.Certificate, by []*x509.Certificate) bool {
	return slices.ContainsFunc(by, func(p *x509.Certificate) bool { return c.CheckSignatureFrom(p) == nil })
}

// TakeRoots takes what a manager says of the cluster's roots, as far as there is
// reason to. keep writes it down before it is used. It reports whether something
// changed.
func (c *Credentials) TakeRoots(said *pkipb.Roots, keep func(*pkipb.Roots) error) (changed bool, err error) {
	if len(said.GetRoots()) == 0 {
		return false, nil // it says nothing
	}
	next, err := parseRoots(said)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := *c.state.Load()
	if err := next.succeed(s.trust); err != nil {
		return false, err
	}
	// What the own certificate ends in is trusted as long as that is in use.
	own, err := x509.ParseCertificate(s.chain[len(s.chain)-1])
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(next.Roots, own.Equal) {
		next.Roots = append(next.Roots, own)
	}
	next.Cross = slices.DeleteFunc(next.Cross, func(x *x509.Certificate) bool { return !leadsHere(x, next) })
	t := s.trust
	t.Roots, t.Cross = next.Roots, next.Cross
	if t.same(s.trust) {
		return false, nil
	}
	if err := keep(t.Kept()); err != nil {
		return false, err
	}
	s.trust = t
	s.present()
	c.state.Store(&s)
	return true, nil
}

// leadsHere reports whether a cross certificate is of a root in t, or of one that
// certified such a one.
func leadsHere(x *x509.Certificate, t Trust) bool {
	same := func(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, x.RawSubject) }
	return slices.ContainsFunc(t.Roots, same) || slices.ContainsFunc(t.Cross, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, x.RawSubject)
	})
}
