package netview

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Cursor is how far one node was told. It belongs to one goroutine.
type Cursor struct {
	node     string
	index    *Index // that at is of
	at       uint64
	sequence uint64
	told     map[string]bool // networks
	self     *schedulerpb.PeerView

	// Left is how many of the node's networks are beyond what one node is told.
	Left int
}

// NewCursor is that of a node that was told nothing.
func NewCursor(node string) *Cursor { return &Cursor{node: node} }

// Next returns the messages that bring the node to what is now: none where it is
// there. The first ever are a complete set, even of nothing.
func (c *Cursor) Next(ix *Index) []*schedulerpb.NetworkSet {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if c.index == ix && c.at == ix.at {
		return nil
	}
	n := ix.nodes[c.node]
	if n == nil {
		n = &node{id: c.node}
	}
	want := c.wanted(ix, n)
	set := &schedulerpb.NetworkSet{}
	if c.index != ix || c.behind(ix) {
		c.complete(ix, n, want, set)
	} else {
		c.increment(ix, n, want, set)
	}
	c.index, c.at, c.told = ix, ix.at, want
	if !set.Complete && len(set.Update)+len(set.Remove)+len(set.Peers)+len(set.RemovePeers) == 0 && set.Self == nil {
		return nil
	}
	out := split(set)
	for _, m := range out {
		c.sequence++
		m.Sequence = c.sequence
	}
	return out
}

// wanted are the networks the node is to know.
func (c *Cursor) wanted(ix *Index, n *node) map[string]bool {
	want, endpoints := make(map[string]bool, len(n.networks)), 0
	c.Left = 0
	for _, id := range slices.Sorted(maps.Keys(n.networks)) {
		net := ix.networks[id]
		if net == nil || net.record == nil {
			continue
		}
		if len(want) >= MaxNetworks || endpoints+len(net.endpoints) > MaxEndpoints {
			c.Left++
			continue
		}
		want[id] = true
		endpoints += len(net.endpoints)
	}
	return want
}

// behind reports whether a journal no longer has all that the node missed.
func (c *Cursor) behind(ix *Index) bool {
	for id := range c.told {
		if net := ix.networks[id]; net == nil || net.base > c.at {
			return true
		}
	}
	return false
}

func (c *Cursor) complete(ix *Index, n *node, want map[string]bool, set *schedulerpb.NetworkSet) {
	set.Complete = true
	set.Self, c.self = n.view, n.view
	peers := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		net := ix.networks[id]
		set.Update = append(set.Update, ix.whole(net))
		for peer := range net.members {
			peers[peer] = true
		}
	}
	c.peers(ix, want, peers, set)
	set.RemovePeers = nil
}

func (c *Cursor) increment(ix *Index, n *node, want map[string]bool, set *schedulerpb.NetworkSet) {
	if !proto.Equal(c.self, n.view) {
		// One that is no part of the mesh any more has lost its networks, too, and
		// nothing says so but a complete set: self is never taken back otherwise.
		if n.view == nil {
			c.complete(ix, n, want, set)
			return
		}
		set.Self, c.self = n.view, n.view
	}
	peers := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(c.told)) {
		net := ix.networks[id]
		v := ix.since(net, c.at, peers)
		if want[id] {
			if v != nil {
				set.Update = append(set.Update, v)
			}
			continue
		}
		set.Remove = append(set.Remove, id)
		for peer := range net.members {
			peers[peer] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if c.told[id] {
			continue
		}
		net := ix.networks[id]
		set.Update = append(set.Update, ix.whole(net))
		for peer := range net.members {
			peers[peer] = true
		}
	}
	c.peers(ix, want, peers, set)
}

// peers says what became of nodes that may have begun, changed or ended to be a
// peer.
func (c *Cursor) peers(ix *Index, want, may map[string]bool, set *schedulerpb.NetworkSet) {
	delete(may, c.node)
	for _, id := range slices.Sorted(maps.Keys(may)) {
		if p := ix.nodes[id]; p != nil && p.view != nil && shares(p, want) {
			set.Peers = append(set.Peers, p.view)
		} else {
			set.RemovePeers = append(set.RemovePeers, id)
		}
	}
}

func shares(p *node, networks map[string]bool) bool {
	for id := range p.networks {
		if networks[id] {
			return true
		}
	}
	return false
}
