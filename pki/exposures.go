package pki

import (
	"slices"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// A manager that was removed as compromised knew the root's key, which is an exposure.
// The root's replacement does not end it by itself: a node that was away meanwhile
// trusts the old root until it has a certificate below the new one.

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
