package pki

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// A manager that was removed as compromised knew the root's key, which is an exposure.
// The root's replacement does not end it by itself: a node that was away meanwhile
// trusts the old root until it has a certificate below the new one.

// Expose notes of a node that was removed before that its keys are in other hands. It
// had the keys of the roots that were there when it was removed; one that may be as old
// counts among them.
func Expose(tx *raftstore.Tx, nodeID string) error {
	n, ok := store.Nodes.Get(tx, nodeID)
	if !ok || !n.GetDenied() || n.GetCompromised() {
		return nil
	}
	n = proto.CloneOf(n)
	n.Compromised = true
	knewKeyset := n.GetRole() == profilepb.Role_ROLE_MANAGER || n.GetKeysetEpoch() != 0 // a promotion cut short gave it
	if err := store.Nodes.Put(tx, n); err != nil || !knewKeyset {
		return err
	}
	c, err := store.GetCluster(tx)
	if err != nil {
		return err
	}
	roots, err := parseAll(c.GetRoots())
	if err != nil {
		return err
	}
	knew := 0
	for _, root := range roots {
		if root.NotBefore.Unix() <= n.GetDeniedAt() {
			knew++
		}
	}
	c = proto.CloneOf(c)
	c.Exposures = append(c.Exposures, &pkipb.Exposure{NodeId: n.GetId(), Name: n.GetName(), At: tx.Now().Unix(), BothRoots: knew > 1, FormerRoot: knew == 0})
	dropExposures(tx, c)
	return store.Cluster.Put(tx, c)
}

// leaveExposures says what a replacement of the root that just ended, or was given up,
// leaves of the exposures.
func leaveExposures(tx *raftstore.Tx, c *pkipb.Cluster) {
	for _, e := range c.GetExposures() {
		if !c.GetLastRotation().GetAborted() && !e.GetBothRoots() {
			e.FormerRoot = true
		}
		e.BothRoots = false // it knew the root that stays
	}
	dropExposures(tx, c)
}

// dropExposures forgets what former roots were exposed to where no node trusts them.
func dropExposures(r raftstore.Reader, c *pkipb.Cluster) {
	if exposuresOver(r, c) {
		c.Exposures = slices.DeleteFunc(c.GetExposures(), (*pkipb.Exposure).GetFormerRoot)
	}
}

// exposuresOver reports whether dropExposures would do something.
func exposuresOver(r raftstore.Reader, c *pkipb.Cluster) bool {
	if c.GetRotation() != nil || !slices.ContainsFunc(c.GetExposures(), (*pkipb.Exposure).GetFormerRoot) {
		return false
	}
	for n := range store.Nodes.All(r) {
		if NeedsReissue(c, n) {
			return false
		}
	}
	return true
}
