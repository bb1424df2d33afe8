// Package store holds the replicated tables of the mesh: networks, the policies
// of networks, and the address that each node has inside the tunnels.
//
// It owns the rules that must hold however many writers there are: a name and a
// VNI belong to one network, no two networks' subnets overlap, a network that is
// in use is not removed, and no two nodes have one address. What may be stored is
// spec's to say, which addresses a range has and in which order they are tried is
// ipam's.
//
// It keeps no lease of a task's address or of a service's virtual address: those
// stand in the task and in the service, whose tables refuse one that is held. So
// an address is taken by the write that puts it there, and free again by the
// write that ends the task or removes the service: nothing else has to happen,
// thus nothing can be forgotten (decision 53).
//
// Helpers that take a *raftstore.Tx are parts of a transaction that the caller
// runs; those that take a *raftstore.Store run their own. Objects that are read
// are shared: clone before changing.
package store

import (
	"strconv"

	"github.com/redoubt-cluster/redoubt/mesh/ipam"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

var (
	// Networks has the unique indexes "name" and "vni", and the index "service" of
	// those that were made for one.
	Networks = raftstore.NewTable("networks",
		raftstore.Index[*meshpb.Network]{
			Name: "name", Unique: true,
			Keys: func(n *meshpb.Network) []string { return []string{n.GetSpec().GetName()} },
		},
		raftstore.Index[*meshpb.Network]{
			Name: "vni", Unique: true,
			Keys: func(n *meshpb.Network) []string {
				return some(n.GetVni() != 0, strconv.FormatUint(uint64(n.GetVni()), 10))
			},
		},
		raftstore.Index[*meshpb.Network]{
			Name: "service",
			Keys: func(n *meshpb.Network) []string { return some(n.GetServiceId() != "", n.GetServiceId()) },
		},
	)

	// Nodes has the unique index "address"; ids are those of the nodes.
	Nodes = raftstore.NewTable("mesh_nodes", raftstore.Index[*meshpb.MeshNode]{
		Name: "address", Unique: true,
		Keys: func(n *meshpb.MeshNode) []string { return []string{ipam.KeyOf(n.GetAddress())} },
	})

	// Policies has the unique index "name" and the index "network".
	Policies = raftstore.NewTable("policies",
		raftstore.Index[*meshpb.Policy]{
			Name: "name", Unique: true,
			Keys: func(p *meshpb.Policy) []string { return []string{p.GetSpec().GetName()} },
		},
		raftstore.Index[*meshpb.Policy]{
			Name: "network",
			Keys: func(p *meshpb.Policy) []string { return []string{p.GetSpec().GetNetwork()} },
		},
	)

	// Settings holds one record, of which Pools makes what is in force.
	Settings = raftstore.NewTable[*meshpb.Settings]("mesh_settings")
)

// Tables lists what the composition root registers with the store.
func Tables() []raftstore.Registered {
	return []raftstore.Registered{Networks, Nodes, Policies, Settings}
}

func some(is bool, key string) []string {
	if !is {
		return nil
	}
	return []string{key}
}
