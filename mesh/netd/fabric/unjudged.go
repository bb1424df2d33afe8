package fabric

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// unjudged is what does not pass where the table is not in force: VXLAN, whoever it
// comes from, what comes to the node by its mesh address, and what is on its way
// through the node from or to the mesh. That VXLAN leaves by the tunnel and no other
// way is said by its devices.
func (c content) unjudged() []kernel.Unjudged {
	all := []kernel.Unjudged{kernel.ToUDP(vxlanPort)}
	if c.own.IsValid() && c.mesh.IsValid() {
		all = append(all, kernel.To(netip.PrefixFrom(c.own, c.own.BitLen()), netlink.XFRM_DIR_IN)...)
		all = append(all, kernel.To(c.mesh, netlink.XFRM_DIR_FWD)...)
		all = append(all, kernel.From(c.mesh, netlink.XFRM_DIR_FWD)...)
	}
	return all
}

// dropUnjudged comes after the table, which sets the mark, and before whatever
// carries packets. It is told of policies that somebody took away.
func (f *Fabric) dropUnjudged(changed func(string)) error {
	putBack, err := f.policies.Set(kernel.JudgedByMesh, f.table.content.unjudged())
	if putBack {
		changed("put the policies of table " + tableName + " back")
		f.meddled.Note("the policies of table " + tableName)
	}
	return err
}
