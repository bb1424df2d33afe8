package overlay

import (
	"cmp"
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Networks that are each node's own come in two kinds. One of driver bridge netd
// makes as it makes an overlay: managers tell no node of another's part of it, so
// there is nobody else on it. The others rund's drivers make (CNI's plugins), or
// nobody does: netd is not told of them, addresses are what the driver gave, and
// names lead to this node's own tasks on them.

// noNames is the driver of networks that have nothing in them.
const noNames = "none"

// Driven reports whether a driver of rund's makes the network.
func (n *Network) Driven() bool { return n.Kind == meshpb.Kind_KIND_LOCAL && n.VNI == 0 }

// named reports whether names are told of the network.
func (n *Network) named() bool { return !n.isIngress() && !(n.Driven() && n.Driver == noNames) }

// sandboxes are the tasks, with their sandboxes, that are told names and that netd
// learns of in no other way. Of one with a network that is not known nothing is
// said.
func sandboxes(v *View, tasks []Task) map[string]string {
	out := map[string]string{}
	for _, t := range tasks {
		named := false
		for _, a := range t.Attachments {
			n := v.Networks[a.Network]
			if n == nil || n.makes() {
				named = false
				break
			}
			named = named || n.named()
		}
		if named {
			out[t.ID] = t.Netns
		}
	}
	return out
}

func sandboxMessages(of map[string]string) (out []*netdpb.OverlaySandbox) {
	for task, netns := range of {
		out = append(out, &netdpb.OverlaySandbox{TaskId: task, Netns: netns})
	}
	slices.SortFunc(out, func(a, b *netdpb.OverlaySandbox) int { return cmp.Compare(a.TaskId, b.TaskId) })
	return out
}

// sandboxesInto has a difference say which sandboxes there are, where that is
// another answer than before.
func (p *plan) sandboxesInto(req *netdpb.OverlayRequest, old *plan) {
	if !maps.Equal(p.sandboxes, old.sandboxes) {
		req.Sandboxes, req.SandboxesChanged = sandboxMessages(p.sandboxes), true
	}
}
