package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Adoptable reports whether a manager's record should be brought to that leaf,
// which its holder showed on a verified connection: a manager that slept past
// its certificate's end had its own keyd certify its key again, or a new one, and
// nobody could record that then. Only a leaf that ends later than the recorded one counts, so
// that an old, stolen one is never taken back into use, and only one that names the
// TPM with which the node joined, or none where it joined with none.
func Adoptable(n *pkipb.Node, leaf *x509.Certificate) bool {
	id, err := profile.NodeFromCert(leaf)
	return err == nil && n != nil && n.GetId() == id.NodeID && !n.GetDenied() &&
		n.GetRole() == profilepb.Role_ROLE_MANAGER && id.Role == profilepb.Role_ROLE_MANAGER &&
		!bytes.Equal(n.GetPreviousSpki(), id.SPKI) &&
		bytes.Equal(n.GetTpmAk(), id.TPM) && leaf.NotAfter.Unix() > n.GetLeafNotAfter()
}

// issuedBy is the hash of the active issuer that signed leaf; nil for none.
func issuedBy(c *pkipb.Cluster, leaf *x509.Certificate) []byte {
	for _, der := range inForce(c) {
		ca, err := x509.ParseCertificate(der)
		if err == nil && leaf.CheckSignatureFrom(ca) == nil {
			sum := sha256.Sum256(der)
			return sum[:]
		}
	}
	return nil
}

// AdoptLeaf records a leaf that is Adoptable; others change nothing.
func AdoptLeaf(tx *raftstore.Tx, leaf *x509.Certificate) error {
	id, err := profile.NodeFromCert(leaf)
	if err != nil {
		return err
	}
	n, _ := store.Nodes.Get(tx, id.NodeID)
	if !Adoptable(n, leaf) {
		return nil
	}
	n = proto.CloneOf(n)
	c, _ := store.Cluster.Get(tx, store.ClusterID)
	issuer := issuedBy(c, leaf)
	if issuer == nil && bytes.Equal(n.GetLeafSpki(), id.SPKI) {
		issuer = n.GetLeafIssuer() // a former one, whose key for this manager it still has
	}
	n.PreviousSpki, n.LeafSpki, n.LeafNotAfter, n.Leaf, n.LeafIssuer = nil, id.SPKI, leaf.NotAfter.Unix(), leaf.Raw, issuer
	noteIssued(n, leaf, n.LeafIssuer, tx.Now())
	return putIssued(tx, n)
}
