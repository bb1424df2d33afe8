package fabric

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A node whose LAN is in the mesh's range is not cut off from it: there is no mesh
// on it, until that has changed.
func TestAMeshOverTheLAN(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	l.connect()
	change := func(n *node, how func(*netlink.Handle, netlink.Link, *netlink.Addr) error, addr string) {
		routes(t, n.ns, func(h *netlink.Handle) error {
			u, err := h.LinkByName("u0")
			if err != nil {
				return err
			}
			return how(h, u, &netlink.Addr{IPNet: kernel.IPNet(netip.MustParsePrefix(addr))})
		})
	}
	neighbour := func() error {
		var lis net.Listener
		within(t, b.ns, func() (err error) { lis, err = net.Listen("tcp", "198.19.3.2:9000"); return err })
		defer lis.Close()
		return kernel.InNetns(a.ns, func() error {
			c, err := net.DialTimeout("tcp", "198.19.3.2:9000", deadline)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	add, remove := (*netlink.Handle).AddrAdd, (*netlink.Handle).AddrDel
	change(a, add, "198.19.3.1/24")
	change(b, add, "198.19.3.2/24")
	for _, n := range l.nodes {
		n.waitFor("degraded", func() bool {
			return strings.Contains(n.state().GetDegraded(), "the mesh's addresses 198.18.0.0/15 overlap this node's network 198.19.3.0/24 of u0")
		})
	}
	if err := neighbour(); err != nil {
		t.Errorf("the LAN is cut off: %v", err)
	}
	_, err := a.f.Declare(t.Context(), a.request(b))
	wantError(t, err, "overlap this node's network")
	change(a, remove, "198.19.3.1/24")
	change(b, remove, "198.19.3.2/24")
	for _, n := range l.nodes {
		n.waitFor("there again", func() bool { return n.state().GetDegraded() == "" && n.state().GetMtu() != 0 })
	}
}
