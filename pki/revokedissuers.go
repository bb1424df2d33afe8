package pki

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Once an issuing CA was replaced its key is gone, and its last list names what was
// denied until then, for the three days that it is good. So it goes onto its root's list itself:
//
//   - where a manager leaves that knew its key, with that;
//   - where a denied node has a certificate of it, when it is replaced or the node denied;
//   - when it is forgotten, as every node has a certificate of another, or too many came after it.

// revokeIssuers has the lists of the roots in force name these CAs, given in DER; nil
// is none.
func revokeIssuers(tx *raftstore.Tx, c *pkipb.Cluster, ders ...[]byte) {
	if tx.Level() < revocationLevel {
		return
	}
	roots, err := parseAll(c.GetRoots())
	issuers, ierr := parseAll(slices.DeleteFunc(slices.Clone(ders), func(der []byte) bool { return der == nil }))
	if err != nil || ierr != nil {
		return // nothing of this cluster could be verified at all
	}
	var more []*pkipb.RevokedIssuer
	for _, ca := range issuers {
		for _, root := range roots {
			sum, serial := sha256.Sum256(root.Raw), ca.SerialNumber.Bytes()
			listed := slices.ContainsFunc(c.GetRevokedIssuers(), func(r *pkipb.RevokedIssuer) bool {
				return bytes.Equal(r.GetRoot(), sum[:]) && bytes.Equal(r.GetSerial(), serial)
			})
			if !listed && ca.CheckSignatureFrom(root) == nil {
				more = append(more, &pkipb.RevokedIssuer{Serial: serial, Root: sum[:], At: tx.Now().Unix(), NotAfter: ca.NotAfter.Unix()})
			}
		}
	}
	if len(more) == 0 {
		return
	}
	more = append(more, c.GetRevokedIssuers()...)
	c.RevokedIssuers = more[:min(len(more), maxRevokedIssuers)]
}

// revokeUnlisted is revokeIssuers for the former CAs of which a denied node has a
// certificate that has not ended.
func revokeUnlisted(tx *raftstore.Tx, c *pkipb.Cluster) {
	if len(c.GetFormerIssuers()) == 0 {
		return
	}
	of := map[string]bool{}
	for n := range store.Nodes.All(tx) {
		if !n.GetDenied() {
			continue
		}
		for _, cert := range n.GetCertificates() {
			if live(cert, tx.Now()) {
				of[string(cert.GetIssuer())] = true
			}
		}
	}
	revokeIssuers(tx, c, slices.DeleteFunc(slices.Clone(c.GetFormerIssuers()), func(der []byte) bool { return !of[string(hashOf(der))] })...)
}

func live(cert *pkipb.IssuedCertificate, now time.Time) bool { return cert.GetNotAfter() > now.Unix() }
