package fabric

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/pools"
)

// apart refuses a mesh in whose range the node has another network: the table
// drops what bears such an address outside the tunnel, which would cut the node
// off from its own LAN.
func apart(h *netlink.Handle, mesh netip.Prefix) error {
	lans, err := pools.LANs(h, ofNetd)
	if err != nil {
		return err
	}
	for _, l := range lans {
		if l.Prefix.Overlaps(mesh) {
			return fmt.Errorf("the mesh's addresses %s overlap this node's network %s: give the node another network, or the cluster another node pool when it is made", mesh.Masked(), l)
		}
	}
	return nil
}
