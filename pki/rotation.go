package pki

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// firstEpoch is the keyset epoch of a new cluster. Records of before there were
// epochs have 0 and mean it.
const firstEpoch = 1

// KeysetEpoch is the epoch in force.
func KeysetEpoch(c *pkipb.Cluster) uint64 { return max(c.GetKeysetEpoch(), firstEpoch) }

// TokenEpoch is the epoch that made the key in force of join tokens' records.
func TokenEpoch(c *pkipb.Cluster) uint64 {
	return cmp.Or(c.GetTokenEpoch(), KeysetEpoch(c))
}

// WholeEpoch is the epoch of the last keyset of which everything but the root was
// new: who knows one of before knows nothing that is in force.
func WholeEpoch(c *pkipb.Cluster) uint64 { return cmp.Or(c.GetWholeEpoch(), KeysetEpoch(c)) }

// NextKeyset is what a rotation brings that everybody may see.
type NextKeyset struct {
	Epoch  uint64
	Issuer []byte // DER
	// FormerWorkloadIssuer is the CA of workloads that it replaces, DER; nil for none.
	// The cluster's record does not name it, as nodes know it by the root.
	FormerWorkloadIssuer []byte
	// Retired is what KeysToRetire said when it was made.
	Retired [][]byte
}

// KeysToRetire are the keyd keys that may hold a keyset and get none again once
// that node leaves: its own, and what promotions were given, finished or not,
// save the keys of the managers that stay.
func KeysToRetire(r raftstore.Reader, leaving *pkipb.Node) (keys [][]byte) {
	seen := map[string]bool{}
	for m := range store.Nodes.By(r, "role", profile.RoleName(profilepb.Role_ROLE_MANAGER)) {
		if key := CertifiedKeydKey(m); key != nil && !m.GetDenied() && m.GetId() != leaving.GetId() {
			seen[string(key)] = true
		}
	}
	add := func(more ...[]byte) {
		for _, key := range more {
			if len(key) > 0 && !seen[string(key)] && len(keys) < maxRetired {
				seen[string(key)] = true
				keys = append(keys, key)
			}
		}
	}
	add(CertifiedKeydKey(leaving))
	add(leaving.GetGivenKeydKeys()...)
	for n := range store.Nodes.All(r) {
		add(n.GetGivenKeydKeys()...)
	}
	return keys
}

// CertifiedKeydKey is the keyd key in a manager's leaf on record.
func CertifiedKeydKey(n *pkipb.Node) []byte {
	leaf, err := x509.ParseCertificate(n.GetLeaf())
	if err != nil {
		return nil
	}
	id, err := profile.NodeFromCert(leaf)
	if err != nil {
		return nil
	}
	return id.KeydKey
}

// giveTo notes in n that the keyset goes to that keyd key.
func giveTo(n *pkipb.Node, keydKey []byte) error {
	same := func(k []byte) bool { return bytes.Equal(k, keydKey) }
	switch {
	case slices.ContainsFunc(n.GetGivenKeydKeys(), same):
		return nil
	case len(n.GetGivenKeydKeys()) >= maxGiven:
		return errGivenOften
	}
	n.GivenKeydKeys = append(n.GivenKeydKeys, keydKey)
	return nil
}

// forgetGiven takes retired keys off the records. What one rotation had no room
// for is left to the next; a key that is certified is retired from the leaf.
func forgetGiven(tx *raftstore.Tx, retired [][]byte) error {
	var changed []*pkipb.Node
	for n := range store.Nodes.All(tx) {
		given := n.GetGivenKeydKeys()
		left := slices.DeleteFunc(slices.Clone(given), func(k []byte) bool {
			return slices.ContainsFunc(retired, func(r []byte) bool { return bytes.Equal(r, k) })
		})
		if len(left) < len(given) {
			n = proto.CloneOf(n)
			n.GivenKeydKeys = left
			changed = append(changed, n)
		}
	}
	for _, n := range changed {
		if err := store.Nodes.Put(tx, n); err != nil {
			return err
		}
	}
	return nil
}

// ErrRotated says that the keyset was rotated meanwhile: make the next one anew.
var ErrRotated = errors.New("the cluster's keys were rotated meanwhile")

// KnowsKeyset reports whether a node was given the keyset in force: its leaving
// then needs another one.
func KnowsKeyset(c *pkipb.Cluster, n *pkipb.Node) bool {
	return n.GetRole() == profilepb.Role_ROLE_MANAGER || n.GetKeysetEpoch() >= WholeEpoch(c)
}

// given notes that a new manager has the keyset in force. It has where its leaf
// is of the issuer in force, as both came from one keyd, the keyset last, and
// where the epoch is still the one that was noted before it was sealed.
// The cluster record is written so that a rotation under way, which does not know
// this manager, fails.
func given(tx *raftstore.Tx, c *pkipb.Cluster, n *pkipb.Node) error {
	if !bytes.Equal(n.GetLeafIssuer(), ActiveIssuer(c)) || n.GetKeysetEpoch() != KeysetEpoch(c) {
		return ErrRotated
	}
	n.KeysetEpoch = KeysetEpoch(c)
	c = proto.CloneOf(c)
	c.ManagersMade++
	return store.Cluster.Put(tx, c)
}

// Leaving says how a node leaves.
type Leaving struct {
	// Demote keeps it as a worker; otherwise it is denied for ever.
	Demote bool
	// Compromised notes that its keys are in other hands.
	Compromised bool
	// Listed keeps a denied node on the lists, as revoked.
	Listed bool
	// Next is the keyset of those who stay; nil where the node knows none.
	Next *NextKeyset
}

// Leave takes a node out, or its role as a manager, and with it everything that
// it knows the keys of: the issuing CA is a former one from that moment, and
// join tokens signed before are void. All of it takes effect when the
// transaction commits.
func Leave(tx *raftstore.Tx, nodeID string, l Leaving) (*pkipb.Node, error) {
	old, ok := store.Nodes.Get(tx, nodeID)
	if !ok || old.GetDenied() {
		return nil, fmt.Errorf("node %s is not in the cluster", nodeID)
	}
	c, err := store.GetCluster(tx)
	if err != nil {
		return nil, err
	}
	manager := old.GetRole() == profilepb.Role_ROLE_MANAGER
	if KnowsKeyset(c, old) != (l.Next != nil) || l.Demote && !manager {
		return nil, ErrRotated
	}
	if l.Next != nil && (l.Next.Epoch != KeysetEpoch(c)+1 || !slices.EqualFunc(l.Next.Retired, KeysToRetire(tx, old), bytes.Equal)) {
		return nil, ErrRotated
	}
	n := proto.CloneOf(old)
	n.PromoteUntil = 0
	if l.Demote {
		// Its manager leaf stays on record: with that it asks for a worker's.
		n.Role, n.Address, n.Leaf = profilepb.Role_ROLE_WORKER, "", nil
		n.BootSpki, n.BootIssuer, n.KeysetEpoch = nil, nil, 0
	} else {
		n.Denied, n.DeniedAt, n.Compromised = true, tx.Now().Unix(), l.Compromised
		n.Revoked = l.Listed && tx.Level() >= revocationLevel
	}
	if err := store.Nodes.Put(tx, n); err != nil {
		return nil, err
	}
	was := c
	c = proto.CloneOf(c)
	if l.Next == nil {
		if revokeUnlisted(tx, c); proto.Equal(c, was) {
			return old, nil
		}
		return old, store.Cluster.Put(tx, c)
	}
	if err := forgetGiven(tx, l.Next.Retired); err != nil {
		return nil, err
	}
	revokeIssuers(tx, c, slices.Concat(c.GetIssuers(), [][]byte{l.Next.FormerWorkloadIssuer})...)
	putIssuer(tx, c, l.Next.Issuer)
	c.KeysetEpoch, c.TokenEpoch, c.WholeEpoch = l.Next.Epoch, l.Next.Epoch, l.Next.Epoch
	strangeOrders(tx, c)
	if l.Compromised {
		c.Exposures = append(c.Exposures, &pkipb.Exposure{NodeId: n.GetId(), Name: n.GetName(), At: tx.Now().Unix(), BothRoots: c.GetRotation() != nil})
	}
	return old, store.Cluster.Put(tx, c)
}

// TokenVoid reports whether a token was signed by a keyset of before a rotation.
func TokenVoid(c *pkipb.Cluster, t *pkipb.Token) bool {
	return max(t.GetSigned().GetKeysetEpoch(), firstEpoch) < TokenEpoch(c)
}

// NeedsReissue reports whether a node's certificates are not all of the issuer
// in force.
func NeedsReissue(c *pkipb.Cluster, n *pkipb.Node) bool {
	if n.GetDenied() || KeysetEpoch(c) == firstEpoch {
		return false
	}
	want := IssuerFor(c, n.GetRole())
	return !bytes.Equal(n.GetLeafIssuer(), want) ||
		n.GetRole() == profilepb.Role_ROLE_MANAGER && !bytes.Equal(n.GetBootIssuer(), want)
}

// IssuerFor is the SHA-256 of the certificate of the CA that signs leaves of that
// role now.
func IssuerFor(c *pkipb.Cluster, role profilepb.Role) []byte {
	if c.GetExternal() != nil && role == profilepb.Role_ROLE_WORKER {
		return hashOf(c.GetExternal().GetIssuer())
	}
	return ActiveIssuer(c)
}

// ActiveIssuer is the SHA-256 of the certificate of the cluster's own issuing CA in
// force.
func ActiveIssuer(c *pkipb.Cluster) []byte {
	if len(c.GetIssuers()) == 0 {
		return nil
	}
	sum := sha256.Sum256(c.GetIssuers()[0])
	return sum[:]
}

// DropFormer takes former issuers off the list once nobody needs them: every
// node has certificates of the one in force, and had reissueGrace to take them,
// as a node whose reply was lost holds the one before; people have theirs until those
// end. What former roots were exposed to goes as soon as every node has such a
// certificate.
func DropFormer(tx *raftstore.Tx) error {
	c, err := store.GetCluster(tx)
	if err != nil || !FormerUnused(tx, c, tx.Now()) {
		return err
	}
	c = proto.CloneOf(c)
	dropExposures(tx, c)
	if !issuersUnused(tx, c, tx.Now()) {
		return store.Cluster.Put(tx, c)
	}
	revokeIssuers(tx, c, c.GetFormerIssuers()...)
	c.FormerIssuers = nil
	if c.GetRotation() == nil {
		c.FormerRoots, c.Cross = nil, nil
	}
	return store.Cluster.Put(tx, c)
}

// FormerUnused reports whether DropFormer would do something.
func FormerUnused(r raftstore.Reader, c *pkipb.Cluster, now time.Time) bool {
	return issuersUnused(r, c, now) || exposuresOver(r, c)
}

func issuersUnused(r raftstore.Reader, c *pkipb.Cluster, now time.Time) bool {
	if len(c.GetFormerIssuers()) == 0 || c.GetRotation() != nil {
		return false
	}
	for n := range store.Nodes.All(r) {
		if NeedsReissue(c, n) || !n.GetDenied() && now.Sub(time.Unix(0, n.GetMeta().GetUpdatedAt())) < reissueGrace {
			return false
		}
	}
	for p := range store.People.All(r) {
		if personNeeds(c, p, now) {
			return false
		}
	}
	return true
}
