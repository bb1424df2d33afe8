package netview

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// setTask takes a task as it is now; nil: it is gone.
func (ix *Index) setTask(id string, now *schedulerpb.Task) {
	if now != nil && (!store.Live(now) || len(now.GetAttachments()) == 0 || now.GetNodeId() == "") {
		now = nil
	}
	old := ix.tasks[id]
	switch {
	case old == now:
		return
	case old != nil && now != nil && samePlace(old, now):
		n := ix.node(now.GetNodeId())
		n.tasks[id], ix.tasks[id] = now, now
		if n.view != nil && Serving(old) != Serving(now) {
			for _, a := range now.GetAttachments() {
				net := ix.network(a.GetNetworkId())
				net.endpoints[id] = endpoint(now, a)
				ix.noteEndpoint(net, n, id)
			}
		}
		return
	}
	if old != nil {
		n := ix.node(old.GetNodeId())
		if n.view != nil {
			ix.hide(n, old)
		}
		delete(n.tasks, id)
		delete(ix.tasks, id)
		ix.drop(n)
	}
	if now != nil {
		n := ix.node(now.GetNodeId())
		n.tasks[id], ix.tasks[id] = now, now
		if n.view != nil {
			ix.show(n, now)
		}
	}
}

// samePlace: what a task is on does not change as long as it has a node.
func samePlace(a, b *schedulerpb.Task) bool {
	return a.GetNodeId() == b.GetNodeId() &&
		slices.EqualFunc(a.GetAttachments(), b.GetAttachments(), func(x, y *taskpb.Attachment) bool { return proto.Equal(x, y) })
}

// Serving reports whether names and virtual addresses lead to a task: it runs,
// passes its healthcheck, and is not asked to stop.
func Serving(t *schedulerpb.Task) bool {
	return store.State(t) == store.Running && t.GetDesired() <= store.Running && !t.GetStatus().GetUnhealthy()
}

// show puts a task on its networks.
func (ix *Index) show(on *node, t *schedulerpb.Task) {
	for _, a := range t.GetAttachments() {
		id, service := a.GetNetworkId(), t.GetServiceId()
		n := ix.network(id)
		n.endpoints[t.GetId()] = endpoint(t, a)
		ix.noteEndpoint(n, on, t.GetId())
		if n.members[on.id]++; n.members[on.id] == 1 {
			on.shape = ix.at
			ix.notePeer(n, on)
		}
		on.networks[id]++
		if ix.spread[service] == nil {
			ix.spread[service] = map[string]int{}
		}
		if ix.spread[service][id]++; ix.spread[service][id] == 1 {
			ix.note(n, ofService, service)
		}
	}
}

// hide takes a task off its networks.
func (ix *Index) hide(on *node, t *schedulerpb.Task) {
	ix.woken[on.id] = true // it may have been its last there
	for _, a := range t.GetAttachments() {
		id, service := a.GetNetworkId(), t.GetServiceId()
		n := ix.network(id)
		delete(n.endpoints, t.GetId())
		ix.noteEndpoint(n, on, t.GetId())
		if less(n.members, on.id) {
			on.shape = ix.at
			ix.notePeer(n, on)
		}
		less(on.networks, id)
		if less(ix.spread[service], id) {
			ix.note(n, ofService, service)
		}
		if len(ix.spread[service]) == 0 {
			delete(ix.spread, service)
		}
	}
}

// less counts down, and reports whether nothing is left.
func less(m map[string]int, id string) bool {
	if m[id]--; m[id] > 0 {
		return false
	}
	delete(m, id)
	return true
}

// settle sees what a changed record of a node means.
func (ix *Index) settle(n *node) {
	ix.settleAddresses(n)
	was, is := n.view, n.peerView()
	n.view = is
	switch {
	case was == nil && is == nil:
	case was == nil:
		for _, t := range n.tasks {
			ix.show(n, t)
		}
		ix.woken[n.id] = true
	case is == nil:
		for _, t := range n.tasks {
			ix.hide(n, t)
		}
		ix.woken[n.id] = true
	case !proto.Equal(was, is):
		for id := range n.networks {
			ix.notePeer(ix.network(id), n)
		}
		for _, g := range n.groups {
			ix.noteEntry(g, ofPeer, n.id)
		}
		ix.woken[n.id] = true
	}
	for _, g := range ix.groups {
		ix.admit(g, n)
	}
	ix.drop(n)
}

// drop forgets a node of which nothing is left.
func (ix *Index) drop(n *node) {
	if n.sched == nil && n.mesh == nil && n.identity == nil && len(n.tasks) == 0 {
		delete(ix.nodes, n.id)
	}
}
