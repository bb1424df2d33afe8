package pki

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// FirstManager is what init made before there was a store.
type FirstManager struct {
	Name    string
	Address string // host:port
	Leaf    *profilepb.CertificateChain
	Boot    *profilepb.CertificateChain
}

// InitCluster writes the cluster record and the first manager's node record.
func InitCluster(tx *raftstore.Tx, m FirstManager) (*pkipb.Node, error) {
	leaf, err := profile.ParseChain(m.Leaf)
	if err != nil {
		return nil, err
	}
	id, err := profile.NodeFromCert(leaf[0])
	if err != nil {
		return nil, err
	}
	if id.Role != profilepb.Role_ROLE_MANAGER || len(leaf) < 3 {
		return nil, errors.New("the first manager's chain is not a manager's, up to the root")
	}
	c := &pkipb.Cluster{
		Id: store.ClusterID, ClusterId: id.ClusterID,
		Roots: [][]byte{leaf[len(leaf)-1].Raw}, Issuers: [][]byte{leaf[1].Raw}, KeysetEpoch: firstEpoch,
	}
	if err := store.Cluster.Put(tx, c); err != nil {
		return nil, err
	}
	n := &pkipb.Node{Id: id.NodeID, Name: m.Name, Role: id.Role, Address: m.Address, KeysetEpoch: firstEpoch}
	if err := setLeaves(n, Issued{Leaf: m.Leaf, Boot: m.Boot}, nil); err != nil {
		return nil, err
	}
	return n, putIssued(tx, n)
}

// RecordLeaf writes that a node has new certificates. presented is the SPKI
// hash of the leaf with which it asked: that one stays good as the previous
// one, so that a node whose reply was lost can ask again.
func RecordLeaf(tx *raftstore.Tx, nodeID string, presented []byte, issued Issued) error {
	n, ok := store.Nodes.Get(tx, nodeID)
	if !ok {
		return fmt.Errorf("node %s is not in the cluster", nodeID)
	}
	if err := authz.CheckRecord(n, n.GetRole(), presented); err != nil {
		return err
	}
	if manyLive(n, tx.Now()) {
		return errManyLive
	}
	n = proto.CloneOf(n)
	if err := setLeaves(n, issued, presented); err != nil {
		return err
	}
	return putIssued(tx, n)
}

// setLeaves writes the issued certificates into n, whose id and role they must
// have.
func setLeaves(n *pkipb.Node, issued Issued, previous []byte) error {
	leaf, err := issuedFor(n, issued.Leaf, n.GetRole())
	if err != nil {
		return err
	}
	if bytes.Equal(leaf.SPKI, previous) {
		return errors.New("the new certificate has the old key: make a fresh one")
	}
	n.PreviousSpki, n.LeafSpki, n.LeafNotAfter = previous, leaf.SPKI, leaf.notAfter
	n.LeafIssuer, n.Leaf = issuerHash(issued.Leaf), nil
	if n.GetRole() == profilepb.Role_ROLE_MANAGER {
		n.Leaf = issued.Leaf.GetCertificates()[0]
	}
	if issued.Boot == nil {
		return noteChain(n, issued.Leaf)
	}
	boot, err := issuedFor(n, issued.Boot, profilepb.Role_ROLE_BOOT)
	if err != nil {
		return err
	}
	if bytes.Equal(boot.SPKI, leaf.SPKI) {
		return errors.New("the boot leaf must have a key of its own")
	}
	n.BootSpki, n.BootIssuer = boot.SPKI, issuerHash(issued.Boot)
	if err := noteChain(n, issued.Boot); err != nil {
		return err
	}
	return noteChain(n, issued.Leaf)
}

// issuerHash is the SHA-256 of the certificate of the CA that issued a chain's
// leaf; nil where it is not there.
func issuerHash(chain *profilepb.CertificateChain) []byte {
	if len(chain.GetCertificates()) < 2 {
		return nil
	}
	sum := sha256.Sum256(chain.GetCertificates()[1])
	return sum[:]
}

type issuedLeaf struct {
	profile.Identity
	notAfter int64
}

func issuedFor(n *pkipb.Node, chain *profilepb.CertificateChain, role profilepb.Role) (issuedLeaf, error) {
	certs, err := profile.ParseChain(chain)
	if err != nil {
		return issuedLeaf{}, fmt.Errorf("issued certificate: %w", err)
	}
	id, err := profile.NodeFromCert(certs[0])
	if err != nil {
		return issuedLeaf{}, fmt.Errorf("issued certificate: %w", err)
	}
	if id.NodeID != n.GetId() || id.Role != role {
		return issuedLeaf{}, fmt.Errorf("issued certificate is for %s %s, not for %s %s",
			profile.RoleName(id.Role), id.NodeID, profile.RoleName(role), n.GetId())
	}
	return issuedLeaf{id, certs[0].NotAfter.Unix()}, nil
}

// Deny removes a node for ever. It takes effect when the transaction commits:
// every call, and every connection that hears of it, is refused from then on.
// Denying a denied node changes nothing.
func Deny(tx *raftstore.Tx, nodeID string) error {
	n, ok := store.Nodes.Get(tx, nodeID)
	if !ok {
		return fmt.Errorf("node %s is not in the cluster", nodeID)
	}
	if n.GetDenied() {
		return nil
	}
	n = proto.CloneOf(n)
	n.Denied, n.DeniedAt = true, tx.Now().Unix()
	return store.Nodes.Put(tx, n)
}
