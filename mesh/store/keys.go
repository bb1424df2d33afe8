package store

import (
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"google.golang.org/protobuf/proto"
)

// AskKey notes that a node is to have another WireGuard key. The record is what is
// left of it: who was asked for, and when. The node itself is told by its session.
func AskKey(tx *raftstore.Tx, id string) error {
	old, ok := Nodes.Get(tx, id)
	if !ok {
		return refuse("node %s has no address in the mesh yet", id)
	}
	n := proto.Clone(old).(*meshpb.MeshNode)
	n.KeyAsked++
	return Nodes.Put(tx, n)
}
