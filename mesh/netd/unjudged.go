package netd

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// dropUnjudged keeps containers from reaching anything, and from being reached by
// others than processes of the node, where the tables are not in force. It comes
// after them, as they set the mark.
func (n *Node) dropUnjudged(bridge netip.Prefix, changed func(string)) error {
	putBack, err := n.policies.Set(kernel.JudgedByBridge, append(kernel.From(bridge, netlink.XFRM_DIR_IN, netlink.XFRM_DIR_FWD), kernel.To(bridge, netlink.XFRM_DIR_FWD)...))
	if putBack {
		changed("put the policies of table " + tableName + " back")
		n.meddled.Note("the policies of table " + tableName)
	}
	return err
}
