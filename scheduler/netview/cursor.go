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
	told     map[string]told // networks
	total    int             // endpoints of those
	self     *schedulerpb.PeerView
	// The index's own, as they were.
	pools, nodes, published []string

	// Left is how many of the node's networks are beyond what one node is told.
	Left int
}

// told is what a node was told of a network.
type told struct {
	as        role
	endpoints int // how many, about
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
	set := &schedulerpb.NetworkSet{}
	switch changed, ok := c.look(ix, n); {
	case ok:
		c.increment(ix, n, c.told, changed, set)
	default:
		want := c.wanted(ix, n)
		all := maps.Clone(want)
		maps.Copy(all, c.told)
		if c.index != ix || c.behind(ix, all) {
			c.complete(ix, n, want, set)
		} else {
			c.increment(ix, n, want, all, set)
		}
		c.told = want
	}
	c.index, c.at = ix, ix.at
	if proto.Size(set) == 0 {
		return nil
	}
	out := split(set)
	for _, m := range out {
		c.sequence++
		m.Sequence = c.sequence
	}
	return out
}

// look finds the networks, among those that the node was told of, of which there
// is news; not ok: which ones it is to know may be others, too.
func (c *Cursor) look(ix *Index, n *node) (changed map[string]told, ok bool) {
	if c.index != ix || c.at < ix.since0 || n.shape > c.at || c.Left > 0 || n.view == nil {
		return nil, false
	}
	for _, g := range n.groups {
		if g.shape > c.at {
			return nil, false
		}
	}
	changed = map[string]told{}
	for i, net := range slices.Backward(ix.recent) {
		if ix.ats[i] <= c.at {
			break
		}
		t, known := c.told[net.id]
		if _, again := changed[net.id]; !known || again {
			continue
		}
		changed[net.id] = t
		c.total -= t.endpoints
		t.endpoints = net.tells(n, t.as)
		c.total += t.endpoints
		c.told[net.id] = t
	}
	for id := range n.networks {
		t, known := c.told[id]
		if net := ix.networks[id]; known && net.group != nil && net.group.changed > c.at {
			changed[id] = t
		}
	}
	return changed, c.total <= MaxEndpoints && !c.behind(ix, changed)
}

// tells is how many endpoints a node is told of, about.
func (n *network) tells(to *node, as role) int {
	if n.alone(as) {
		return to.networks[n.id]
	}
	return len(n.endpoints)
}

// wanted are the networks the node is to know: first those that it has tasks on.
func (c *Cursor) wanted(ix *Index, n *node) map[string]told {
	want := make(map[string]told, len(n.networks))
	c.Left, c.total = 0, 0
	take := func(net *network, most int) {
		as := net.role(n)
		endpoints := net.tells(n, as)
		if len(want) >= most || c.total+endpoints > MaxEndpoints {
			c.Left++
			return
		}
		want[net.id] = told{as, endpoints}
		c.total += endpoints
	}
	for _, id := range slices.Sorted(maps.Keys(n.networks)) {
		if net := ix.networks[id]; net != nil && net.record != nil {
			take(net, MaxNetworks)
		}
	}
	most := len(want) + MaxPublished
	for _, key := range slices.Sorted(maps.Keys(n.groups)) {
		networks := n.groups[key].networks
		for _, id := range slices.Sorted(maps.Keys(networks)) {
			if n.networks[id] == 0 {
				take(networks[id], most)
			}
		}
	}
	return want
}

// find is a network that is there, or of which it is still known what it was.
func (ix *Index) find(id string) *network {
	if n := ix.networks[id]; n != nil {
		return n
	}
	return ix.gone[id]
}

// behind reports whether a journal no longer has all that the node missed.
func (c *Cursor) behind(ix *Index, of map[string]told) bool {
	for id := range of {
		was, known := c.told[id]
		if !known {
			continue
		}
		net := ix.find(id)
		if net == nil || net.base > c.at || net.group != nil && was.as&isMember != 0 && net.group.base > c.at {
			return true
		}
	}
	return false
}

func (c *Cursor) complete(ix *Index, n *node, want map[string]told, set *schedulerpb.NetworkSet) {
	set.Complete = true
	set.Self, c.self = n.view, n.view
	c.pools, c.nodes, c.published = nil, nil, nil
	c.tellPools(ix, n, set)
	c.tellReach(ix, n, set)
	peers := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		net := ix.networks[id]
		set.Update = append(set.Update, ix.whole(net, c.node, want[id].as))
		net.peers(want[id].as, peers)
	}
	c.peers(ix, n, want, peers, set)
	set.RemovePeers = nil
}

// increment says what became of some networks: of others nothing did.
func (c *Cursor) increment(ix *Index, n *node, want, of map[string]told, set *schedulerpb.NetworkSet) {
	if !proto.Equal(c.self, n.view) {
		// One that is no part of the mesh any more has lost its networks, too, and
		// nothing says so but a complete set: self is never taken back otherwise.
		if n.view == nil {
			c.complete(ix, n, want, set)
			return
		}
		set.Self, c.self = n.view, n.view
	}
	c.tellPools(ix, n, set)
	c.tellReach(ix, n, set)
	peers := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(of)) {
		was, known := c.told[id]
		is, wanted := want[id]
		net := ix.find(id)
		var news *schedulerpb.NetworkView
		if known {
			news = ix.since(net, c.node, was.as, c.at, peers)
		}
		switch {
		case !wanted:
			set.Remove = append(set.Remove, id)
			net.peers(was.as, peers)
		case !known || was.as != is.as || net.regrouped > c.at:
			set.Update = append(set.Update, ix.whole(net, c.node, is.as))
			net.peers(was.as|is.as, peers)
		case news != nil:
			set.Update = append(set.Update, news)
		}
	}
	c.peers(ix, n, want, peers, set)
}

// peers says what became of nodes that may have begun, changed or ended to be a
// peer.
func (c *Cursor) peers(ix *Index, n *node, want map[string]told, may map[string]bool, set *schedulerpb.NetworkSet) {
	delete(may, c.node)
	for _, id := range slices.Sorted(maps.Keys(may)) {
		if p := ix.nodes[id]; p != nil && p.view != nil && ix.shares(n, p, want) {
			set.Peers = append(set.Peers, p.view)
		} else {
			set.RemovePeers = append(set.RemovePeers, id)
		}
	}
}

// peers adds the nodes that are peers of one with that role.
func (n *network) peers(as role, to map[string]bool) {
	if n.confined {
		return
	}
	if !n.ingress() || as&isEntry != 0 {
		for id := range n.members {
			to[id] = true
		}
	}
	if n.group != nil && as&isMember != 0 {
		for id := range n.group.nodes {
			to[id] = true
		}
	}
}

// shares reports whether p is a peer of n: on an overlay network both have tasks,
// on an ingress network one has and the other answers.
func (ix *Index) shares(n, p *node, want map[string]told) bool {
	for id := range p.networks {
		t, ok := want[id]
		if net := ix.networks[id]; ok && !net.confined && (!net.ingress() || t.as&isEntry != 0) {
			return true
		}
	}
	for id := range n.networks {
		net := ix.networks[id]
		if _, ok := want[id]; ok && net.group != nil && net.group.nodes[p.id] {
			return true
		}
	}
	return false
}
