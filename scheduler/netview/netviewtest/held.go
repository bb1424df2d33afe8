// Package netviewtest has what a node knows of networks after the messages that it
// was sent, said as simply as can be: tests hold managers (package netview) and
// sessions against it. Nodes themselves have package agent for it, which checks
// every field as well; a fuzz test there holds the two against each other.
package netviewtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Held is what a node knows of networks. Nothing of a set in parts takes effect
// before its last part. The zero value holds nothing; it belongs to one goroutine.
type Held struct {
	// Self is the node itself; nil: it is no part of the mesh.
	Self     *schedulerpb.PeerView
	Networks map[string]*Network
	Peers    map[string]*schedulerpb.PeerView
	// Pools are what no client's address is in.
	Pools map[string]bool
	// Nodes and Published are what containers reach of nodes.
	Nodes, Published map[string]bool

	sequence uint64
	heard    bool
	parts    []*schedulerpb.NetworkSet
	size     int
}

// Network is one of them. Its parts are shared with the messages: they are not to
// be changed.
type Network struct {
	// Head has what a view says but for its lists.
	Head      *schedulerpb.NetworkView
	Endpoints map[string]*schedulerpb.EndpointView
	Services  map[string]*schedulerpb.NetworkServiceView
	Policy    []*schedulerpb.PolicyRuleView
	// Entries of ingress: ids of the nodes that answer on the ports, as far as the
	// node is told of them.
	Entries map[string]bool
}

// News is what a set that took effect has changed.
type News struct {
	// Networks are the ids of those that are new, changed or gone.
	Networks []string
	// Peers: nodes came, went or changed, or the node itself did.
	Peers bool
}

// maxHeld bounds the elements of a set in parts. It is more than a manager sends.
const maxHeld = 4 * (netview.MaxEndpoints + netview.MaxNetworks)

// Restart is called when a session begins: the next set is complete and has
// sequence 1. What is held stays until then.
func (h *Held) Restart() { h.sequence, h.heard, h.parts, h.size = 0, false, nil, 0 }

// Apply takes the next message; nil: nothing has taken effect yet. After an error
// the session is of no use any more, and what was held is as it was.
func (h *Held) Apply(m *schedulerpb.NetworkSet) (*News, error) {
	first := len(h.parts) == 0
	switch {
	case m.GetSequence() != h.sequence+1:
		return nil, fmt.Errorf("networks %d arrived after %d: some are missing", m.GetSequence(), h.sequence)
	case !first && m.GetComplete():
		return nil, errors.New("a set of networks begins before another is complete")
	case first && !h.heard && !m.GetComplete():
		return nil, errors.New("the first networks are not complete")
	}
	h.sequence++
	if h.size += count(m); h.size > maxHeld {
		return nil, fmt.Errorf("a set of networks has more than %d parts", maxHeld)
	}
	h.parts = append(h.parts, m)
	if m.GetMore() {
		return nil, nil
	}
	parts := h.parts
	h.parts, h.size = nil, 0
	next := &Held{Networks: map[string]*Network{}, Peers: map[string]*schedulerpb.PeerView{}, Pools: map[string]bool{}, Nodes: map[string]bool{}, Published: map[string]bool{}}
	if !parts[0].GetComplete() {
		next.Self = h.Self
		maps.Copy(next.Networks, h.Networks)
		maps.Copy(next.Peers, h.Peers)
		maps.Copy(next.Pools, h.Pools)
		maps.Copy(next.Nodes, h.Nodes)
		maps.Copy(next.Published, h.Published)
	}
	news := &News{Peers: parts[0].GetComplete()}
	changed := map[string]bool{}
	for _, m := range parts {
		if err := next.take(m, changed, news); err != nil {
			return nil, err
		}
	}
	if parts[0].GetComplete() {
		for id := range h.Networks {
			changed[id] = true
		}
	}
	news.Networks = slices.Sorted(maps.Keys(changed))
	next.sequence, next.heard = h.sequence, true
	*h = *next
	return news, nil
}

func count(m *schedulerpb.NetworkSet) int {
	n := 1 + len(m.GetUpdate()) + len(m.GetRemove()) + len(m.GetPeers()) + len(m.GetRemovePeers()) + len(m.GetPools()) + len(m.GetRemovePools()) +
		len(m.GetNodes()) + len(m.GetRemoveNodes()) + len(m.GetPublished()) + len(m.GetRemovePublished())
	for _, v := range m.GetUpdate() {
		n += len(v.GetEndpoints()) + len(v.GetRemoveEndpoints()) + len(v.GetServices()) + len(v.GetRemoveServices()) + len(v.GetPolicy()) +
			len(v.GetEntries()) + len(v.GetRemoveEntries())
	}
	return n
}

// take applies one message. Networks that were there before are replaced and not
// changed: they may be in use.
func (h *Held) take(m *schedulerpb.NetworkSet, changed map[string]bool, news *News) error {
	if m.GetSelf() != nil {
		h.Self, news.Peers = m.GetSelf(), true
	}
	for _, id := range m.GetRemove() {
		if h.Networks[id] == nil {
			return fmt.Errorf("network %.64q is taken back and was never given", id)
		}
		delete(h.Networks, id)
		changed[id] = true
	}
	for _, v := range m.GetUpdate() {
		old := h.Networks[v.GetId()]
		switch {
		case v.GetId() == "":
			return errors.New("a network without an id")
		case v.GetChanges() && old == nil:
			return fmt.Errorf("network %.64q is changed and was never given", v.GetId())
		case !v.GetChanges() && len(v.GetRemoveEndpoints())+len(v.GetRemoveServices())+len(v.GetRemoveEntries()) > 0:
			return fmt.Errorf("network %.64q is new and has something taken back", v.GetId())
		}
		h.Networks[v.GetId()] = merge(old, v)
		changed[v.GetId()] = true
	}
	for _, l := range []struct {
		of           map[string]bool
		remove, give []string
	}{{h.Pools, m.GetRemovePools(), m.GetPools()}, {h.Nodes, m.GetRemoveNodes(), m.GetNodes()}, {h.Published, m.GetRemovePublished(), m.GetPublished()}} {
		for _, p := range l.remove {
			if !l.of[p] {
				return fmt.Errorf("%.64q is taken back and was never given", p)
			}
			delete(l.of, p)
		}
		for _, p := range l.give {
			l.of[p] = true
		}
	}
	for _, id := range m.GetRemovePeers() { // also of nodes that were none
		delete(h.Peers, id)
		news.Peers = true
	}
	for _, p := range m.GetPeers() {
		if p.GetNodeId() == "" || p.GetMeshAddress() == "" {
			return errors.New("a peer without an id or an address")
		}
		h.Peers[p.GetNodeId()] = p
		news.Peers = true
	}
	return nil
}

func merge(old *Network, v *schedulerpb.NetworkView) *Network {
	n := &Network{Head: netview.Bare(v), Endpoints: map[string]*schedulerpb.EndpointView{}, Services: map[string]*schedulerpb.NetworkServiceView{}, Entries: map[string]bool{}}
	n.Head.Changes = false
	if v.GetChanges() {
		maps.Copy(n.Endpoints, old.Endpoints)
		maps.Copy(n.Services, old.Services)
		maps.Copy(n.Entries, old.Entries)
		n.Policy = old.Policy
	}
	for _, id := range v.GetRemoveEndpoints() {
		delete(n.Endpoints, id)
	}
	for _, id := range v.GetRemoveServices() {
		delete(n.Services, id)
	}
	for _, id := range v.GetRemoveEntries() {
		delete(n.Entries, id)
	}
	for _, id := range v.GetEntries() {
		n.Entries[id] = true
	}
	for _, e := range v.GetEndpoints() {
		n.Endpoints[e.GetTaskId()] = e
	}
	for _, s := range v.GetServices() {
		n.Services[s.GetServiceId()] = s
	}
	if !v.GetChanges() || v.GetPolicyChanged() {
		n.Policy = v.GetPolicy()
	}
	return n
}
