package pki

import (
	"bytes"
	"crypto/x509"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Every certificate is given out by a transaction that notes it in its node's
// record, and keyd writes into its journal whatever it signs. One that verifies and
// stands in neither was made by somebody else who has the key of a CA.

// Named reports whether the record n (nil where there is none) says that the peer's
// certificate was given out, whether it is still good or not.
func Named(n *pkipb.Node, p *authz.Peer) bool {
	if len(p.SPKI) == 0 {
		return false
	}
	for _, spki := range [][]byte{n.GetLeafSpki(), n.GetPreviousSpki(), n.GetBootSpki()} {
		if bytes.Equal(spki, p.SPKI) {
			return true
		}
	}
	serial := p.Leaf.SerialNumber.Bytes()
	return slices.ContainsFunc(n.GetCertificates(), func(c *pkipb.IssuedCertificate) bool { return bytes.Equal(c.GetSerial(), serial) })
}

// Forged reports whether a peer that verified shows a certificate that nobody gave
// out, as far as the records say. Records of before certificates were noted do not.
func Forged(r raftstore.Reader, level uint32, p *authz.Peer) bool {
	if level < revocationLevel {
		return false
	}
	n, _ := store.Nodes.Get(r, p.NodeID)
	if Named(n, p) {
		return false
	}
	c, err := store.GetCluster(r)
	// By the CA in force: what is left of former ones is refused for that alone, and
	// a manager that was removed may still sign with it.
	return err == nil && issuedBy(c, p.Leaf) != nil
}

// Told reports whether the alarm about a peer's certificate is on record.
func Told(r raftstore.Reader, p *authz.Peer) bool {
	c, err := store.GetCluster(r)
	return err == nil && told(c, p)
}

func told(c *pkipb.Cluster, p *authz.Peer) bool {
	external := externallyIssued(c, p.Leaf)
	return slices.ContainsFunc(c.GetUnjournalled(), func(u *pkipb.Unjournalled) bool {
		return bytes.Equal(u.GetSpki(), p.SPKI) && u.GetExternal() == external && u.GetNewRoot() == (!external && newRootSigns(c))
	})
}

// newRootSigns reports whether the issuing CA in force is below the root that a
// replacement under way brings.
func newRootSigns(c *pkipb.Cluster) bool {
	return c.GetRotation().GetPhase() == pkipb.Rotation_PHASE_REISSUE
}

// externallyIssued reports whether a leaf is of the external CA in force.
func externallyIssued(c *pkipb.Cluster, leaf *x509.Certificate) bool {
	return c.GetExternal() != nil && bytes.Equal(issuedBy(c, leaf), hashOf(c.GetExternal().GetIssuer()))
}

// Adopted reports whether a peer's certificate is of a manager that its own keyd may
// have certified, and that the leader takes over once it has met it.
func Adopted(r raftstore.Reader, p *authz.Peer) bool {
	n, ok := store.Nodes.Get(r, p.NodeID)
	return ok && Adoptable(n, p.Leaf)
}

// NoteUnjournalled records the alarm that a certificate was shown that nobody gave
// out, once for each key. It changes nothing where that turns out to be wrong.
func NoteUnjournalled(tx *raftstore.Tx, p *authz.Peer, source string) (noted bool, _ error) {
	c, err := store.GetCluster(tx)
	if err != nil || !Forged(tx, tx.Level(), p) || told(c, p) {
		return false, err
	}
	c = proto.CloneOf(c)
	u := &pkipb.Unjournalled{NodeId: p.NodeID, Spki: p.SPKI, Serial: p.Leaf.SerialNumber.Text(16), At: tx.Now().Unix(), Source: source, Role: p.Role,
		External: externallyIssued(c, p.Leaf)}
	u.NewRoot = !u.External && newRootSigns(c)
	same := 0
	c.Unjournalled = slices.DeleteFunc(append([]*pkipb.Unjournalled{u}, c.GetUnjournalled()...), func(o *pkipb.Unjournalled) bool {
		if o.GetExternal() == u.GetExternal() {
			same++
		}
		return o.GetExternal() == u.GetExternal() && same > maxUnjournalled
	})
	return true, store.Cluster.Put(tx, c)
}

// endAlarms forgets the alarms about certificates of an external CA that nobody takes
// any more.
func endAlarms(c *pkipb.Cluster) {
	c.Unjournalled = slices.DeleteFunc(c.GetUnjournalled(), (*pkipb.Unjournalled).GetExternal)
}

// leaveAlarms says what a replacement of the root that just ended, or was given up,
// leaves of the alarms about the cluster's own CAs: who had a key below the new root is
// still there, and where that one goes again had it of a keyset with both.
func leaveAlarms(c *pkipb.Cluster) {
	c.Unjournalled = slices.DeleteFunc(c.GetUnjournalled(), func(u *pkipb.Unjournalled) bool {
		return !u.GetExternal() && !u.GetNewRoot() && !c.GetLastRotation().GetAborted()
	})
	for _, u := range c.GetUnjournalled() {
		u.NewRoot = false
	}
}

// UnjournalledRemedy is what ends an alarm, for people.
func UnjournalledRemedy(u *pkipb.Unjournalled) string {
	if u.GetExternal() {
		return "the external CA certified past the cluster, or its key is in other hands: see its log, and give the cluster another intermediate " +
			"by `redoubt ca external set`, or have the cluster's own CA sign again: `redoubt ca external rm`"
	}
	return "the key of a CA is in other hands: find out whose, and replace the root: `redoubt ca rotate --root`"
}
