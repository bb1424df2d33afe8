package pki

import (
	"bytes"
	"crypto/x509"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// revocationLevel is the store level that knows of revocation lists, and of all that
// says who is on them.
var revocationLevel = max(store.RevocationLists.Since(), raftstore.FieldSince(&pkipb.Node{}, "certificates"), raftstore.FieldSince(&pkipb.Node{}, "workload_certificates"),
	raftstore.FieldSince(&pkipb.Node{}, "revoked"), raftstore.FieldSince(&pkipb.Cluster{}, "revoked_issuers"), raftstore.FieldSince(&pkipb.Cluster{}, "unjournalled"))

// noteIssued keeps in the record what a revocation list needs to name the
// certificate: there is no table of them. Those that have ended go, and beyond
// maxNoted the oldest, which the record's own keys do not name either. No worker comes
// that far (errManyLive), and a manager that does may raise a false alarm (decision 85).
func noteIssued(n *pkipb.Node, leaf *x509.Certificate, issuer []byte, now time.Time) {
	certs := []*pkipb.IssuedCertificate{{Serial: leaf.SerialNumber.Bytes(), Issuer: issuer, NotAfter: leaf.NotAfter.Unix()}}
	for _, c := range n.GetCertificates() {
		if c.GetNotAfter() > now.Unix() && len(certs) < maxNoted && !bytes.Equal(c.GetSerial(), certs[0].GetSerial()) {
			certs = append(certs, c)
		}
	}
	n.Certificates = certs
}

// errManyLive keeps a worker from renewing until what it was given before is on no list
// and, shown again, looks like a certificate that nobody gave out.
var errManyLive = status.Errorf(codes.ResourceExhausted, "this node has %d certificates that have not ended: try again later, when the first have", maxNoted)

// manyLive reports whether a worker has as many certificates as its record can note.
func manyLive(n *pkipb.Node, now time.Time) bool {
	count := 0
	for _, c := range n.GetCertificates() {
		if live(c, now.Add(-profile.Backdate)) { // noteIssued goes by NotBefore
			count++
		}
	}
	return n.GetRole() == profilepb.Role_ROLE_WORKER && count >= maxNoted
}

// noteChain is noteIssued for a chain as it was issued.
func noteChain(n *pkipb.Node, chain *profilepb.CertificateChain) error {
	certs, err := parseAll(chain.GetCertificates())
	if err != nil {
		return err
	}
	noteIssued(n, certs[0], issuerHash(chain), certs[0].NotBefore)
	return nil
}

// putIssued writes a record whose certificates were noted, as far as the others
// understand them.
func putIssued(tx *raftstore.Tx, n *pkipb.Node) error {
	if tx.Level() < revocationLevel {
		n.Certificates = nil
	}
	return store.Nodes.Put(tx, n)
}
