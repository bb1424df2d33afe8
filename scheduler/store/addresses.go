package store

import (
	"net"
	"net/netip"

	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// HostOf is where a node is as managers know it: a manager says so itself, and of a
// worker its session shows it.
func HostOf(r raftstore.Reader, n *schedulerpb.Node) string {
	if id, ok := pkistore.Nodes.Get(r, n.GetId()); ok && n.GetManager() {
		if h, _, err := net.SplitHostPort(id.GetAddress()); err == nil {
			return h
		}
	}
	return n.GetAddress()
}

// Shared are the addresses at which more than one member is, and who is there. Loopback
// and the like are not counted: there all nodes are on one machine, and that is meant.
func Shared(r raftstore.Reader) map[netip.Addr][]string {
	at := map[netip.Addr][]string{}
	for n := range Nodes.All(r) {
		if id, ok := pkistore.Nodes.Get(r, n.GetId()); !ok || id.GetDenied() {
			continue
		}
		if a, err := netip.ParseAddr(HostOf(r, n)); err == nil && a.Unmap().IsGlobalUnicast() {
			at[a.Unmap()] = append(at[a.Unmap()], n.GetId())
		}
	}
	for a, nodes := range at {
		if len(nodes) == 1 {
			delete(at, a)
		}
	}
	return at
}

// NodesAt are the members at an address, but for one.
func NodesAt(r raftstore.Reader, address, but string) (out []string) {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return nil
	}
	for _, id := range Shared(r)[a.Unmap()] {
		if id != but {
			out = append(out, id)
		}
	}
	return out
}
