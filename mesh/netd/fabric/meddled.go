package fabric

import (
	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// Meddled is what somebody did to the table.
func (f *Fabric) Meddled() kernel.Meddling {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.meddled
}

// lookForLoss notes that an earlier process left an interface and somebody took the
// table away since. Should it not be readable, it is made anew all the same.
func (f *Fabric) lookForLoss(h *netlink.Handle) {
	if link, err := kernel.FindLink(h, f.link); err != nil || link == nil {
		return
	}
	if there, err := f.table.nf.Has(meshTable()); err == nil && !there {
		f.meddled.Note("table " + tableName + " was gone when netd started")
		f.log.Warn("the mesh has lost its table: it is made again, and nothing arrives until peers are declared")
	}
}
