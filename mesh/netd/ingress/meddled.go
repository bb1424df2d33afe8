package ingress

import (
	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Meddled is what somebody did to the tables.
func (i *Ingress) Meddled() kernel.Meddling {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.meddled
}

// lookForLoss notes that an earlier process left a way in and somebody took the table
// that guards it away since. h is of the node's namespace.
func (i *Ingress) lookForLoss(h *netlink.Handle) {
	if link, err := kernel.FindLink(h, NodeLink); err != nil || link == nil {
		return
	}
	if there, err := i.nf.Has(outsideTables[0]); err == nil && !there {
		i.meddled.Note("table " + tableName + " was gone when netd started")
		i.log.Warn("the way in to published ports has lost its table: it is made again")
	}
}
