package netd

import (
	"context"
	"maps"
	"sync"

	"github.com/redoubt-cluster/redoubt/mesh/named/hand"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// handing gives named its sockets in the sandboxes of tasks that are on networks
// (package hand). Which these are it reads from the declarations that were taken;
// before the first one named keeps what an earlier netd gave it.
type handing struct {
	node *Node
	hand *hand.Hand

	mu     sync.Mutex                   // guards the following
	places map[string]map[string]string // by network and task: the sandbox; nil: nothing was declared
	others map[string]string            // by task: of those on no network of netd's
}

func newHanding(n *Node, path string) *handing {
	return &handing{node: n, hand: hand.New(path, n.log)}
}

// declared takes a declaration that is in force.
func (h *handing) declared(req *netdpb.OverlayRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if req.GetBase() == 0 || h.places == nil {
		h.places, h.others = map[string]map[string]string{}, nil
	}
	if req.GetBase() == 0 || req.GetSandboxesChanged() {
		h.others = map[string]string{}
		for _, s := range req.GetSandboxes() {
			h.others[s.GetTaskId()] = s.GetNetns()
		}
	}
	for _, id := range req.GetRemoved() {
		delete(h.places, id)
	}
	for _, n := range req.GetNetworks() {
		at := h.places[n.GetId()]
		if at == nil || !n.GetChanges() {
			at = map[string]string{}
			h.places[n.GetId()] = at
		}
		for _, task := range n.GetRemovedEndpoints() {
			delete(at, task)
		}
		for _, e := range n.GetEndpoints() {
			if e.GetNode() == "" {
				at[e.GetTaskId()] = e.GetNetns()
			}
		}
	}
	sandboxes := h.sandboxes()
	wanted := make(map[string]hand.In, len(sandboxes))
	for task, netns := range sandboxes {
		wanted[task] = func(fn func() error) error {
			f, err := kernel.OpenPinned(h.node.runDir, netns, "sandbox", h.node.ns)
			if err != nil {
				return err
			}
			defer f.Close()
			return kernel.InNetns(f, fn)
		}
	}
	h.hand.Keep(wanted)
}

// sandboxes are those of all tasks, by task. h.mu is held.
func (h *handing) sandboxes() map[string]string {
	all := maps.Clone(h.others)
	if all == nil {
		all = map[string]string{}
	}
	for _, at := range h.places {
		maps.Copy(all, at)
	}
	return all
}

func (h *handing) run(ctx context.Context) error { return h.hand.Run(ctx) }
