package netview

import (
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// pools are the addresses that are the cluster's alone: nobody outside has one, so
// a client of a published port who claims one lies. They are the cluster's pools,
// and subnets of overlay networks that an operator chose elsewhere. Every node of
// the mesh is told of them, also of subnets of networks that it has nothing to do
// with: a program that knows its callers by their addresses may be anywhere.
// Nothing says which network has which.
//
// Networks that nodes make of their own are not among them: they may well be a
// part of the LAN.
type pools struct {
	cluster string
	chosen  *meshpb.Pools
	subnets map[string][]string // of overlay networks, by their ids
	stale   bool
	told    []string // in order; not changed once it was made
}

func loadPools(r raftstore.Reader) pools {
	p := pools{subnets: map[string][]string{}, stale: true}
	for s := range meshstore.Settings.All(r) {
		p.chosen = s.GetPools()
	}
	if c, ok := pkistore.Cluster.Get(r, pkistore.ClusterID); ok {
		p.cluster = c.GetClusterId()
	}
	return p
}

// observe takes a change of what is the cluster's own.
func (p *pools) observe(e raftstore.Event) bool {
	if _, now, ok := meshstore.Settings.Event(e); ok {
		// Written whenever a number is given out.
		if !proto.Equal(p.chosen, now.GetPools()) {
			p.chosen, p.stale = now.GetPools(), true
		}
		return true
	}
	_, now, ok := pkistore.Cluster.Event(e)
	if ok && now != nil && now.GetClusterId() != p.cluster {
		p.cluster, p.stale = now.GetClusterId(), true
	}
	return ok
}

// network takes what became of one.
func (p *pools) network(id string, now *meshpb.Network) {
	var subnets []string
	if now.GetKind() == meshpb.Kind_KIND_OVERLAY {
		for _, s := range now.GetSubnets() {
			subnets = append(subnets, s.GetSubnet())
		}
	}
	if slices.Equal(p.subnets[id], subnets) {
		return
	}
	p.stale = true
	if subnets == nil {
		delete(p.subnets, id)
	} else {
		p.subnets[id] = subnets
	}
}

// settlePools works out what nodes are to be told, and wakes them where that is
// another thing than it was.
func (ix *Index) settlePools() {
	p := &ix.pools
	if !p.stale {
		return
	}
	p.stale = false
	var now []string
	var all []netip.Prefix
	if chosen, err := spec.Pools(p.chosen, p.cluster); err == nil { // it was accepted when the cluster began
		for _, text := range []string{chosen.GetNetworks(), chosen.GetNetworks6(), chosen.GetNodes(), chosen.GetIngress(), chosen.GetIngress6()} {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				all, now = append(all, prefix), append(now, text)
			}
		}
	}
	for _, subnets := range p.subnets {
		for _, text := range subnets {
			prefix, err := netip.ParsePrefix(text)
			if err != nil || slices.ContainsFunc(all, func(pool netip.Prefix) bool { return pool.Bits() <= prefix.Bits() && pool.Contains(prefix.Addr()) }) {
				continue
			}
			now = append(now, text)
		}
	}
	slices.Sort(now)
	if now = slices.Compact(now); slices.Equal(now, p.told) {
		return
	}
	p.told = now
	ix.wakeAll()
}

// tellPools says what changed of them for a node of the mesh.
func (c *Cursor) tellPools(ix *Index, n *node, set *schedulerpb.NetworkSet) {
	var now []string
	if n.view != nil {
		now = ix.pools.told
	}
	set.Pools, set.RemovePools = difference(c.pools, now)
	c.pools = now
}
