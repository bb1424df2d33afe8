package ingress

import (
	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// dropUnjudged has the entry node forward nothing from or to tasks where its table is
// not in force: neither does an address of the subnet lead to a task, nor does one
// leave the node as it is. It comes after the table, which sets the mark, and before
// the way in.
func (i *Ingress) dropUnjudged() (putBack bool, err error) {
	var want []kernel.Unjudged
	for _, f := range i.plan.families() {
		want = append(append(want, kernel.From(i.plan.subnet(f), netlink.XFRM_DIR_FWD)...), kernel.To(i.plan.subnet(f), netlink.XFRM_DIR_FWD)...)
	}
	if putBack, err = i.policies.Set(kernel.JudgedByIngress, want); putBack {
		i.meddled.Note("the policies of table " + tableName)
	}
	return putBack, err
}

// allowUnjudged is for a node that is no entry any more, and has no way in.
func allowUnjudged() error {
	_, err := kernel.DropUnjudged(kernel.JudgedByIngress, nil)
	return err
}
