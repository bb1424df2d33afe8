package store

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/redoubt-cluster/redoubt/mesh/ipam"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// ExhaustedError: a network has no address left of the kind that was wanted.
type ExhaustedError struct {
	Network, Subnet string
	// Room is how many there are in all.
	Room uint64
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("network %s has no free address: all %d of %s are taken", e.Network, e.Room, e.Subnet)
}

// Level is the store level that these tables need: below it nothing is there.
const Level = 3

// RegisterNode gives a node its address inside the tunnels, in the transaction
// that admits it. A node that has one keeps it. While older managers would not
// understand it, it does nothing: Unaddressed then finds the node later.
func RegisterNode(tx *raftstore.Tx, id string) error {
	if tx.Level() < Level {
		return nil
	}
	if _, ok := Nodes.Get(tx, id); ok {
		return nil
	}
	record, _ := Settings.Get(tx, settingsID)
	pools, err := spec.Pools(record.GetPools(), "") // the id makes a difference to IPv6 only
	if err != nil {
		return err
	}
	p, err := netip.ParsePrefix(pools.GetNodes())
	if err != nil {
		return err
	}
	a, ok := ipam.All(p).Pick(id, func(prefix string, mark func(string)) {
		for n := range Nodes.ByPrefix(tx, "address", prefix) {
			mark(ipam.KeyOf(n.GetAddress()))
		}
	})
	if !ok {
		return refuse("the nodes' pool %s has no address left: remove nodes that are gone for good", p)
	}
	return Nodes.Put(tx, &meshpb.MeshNode{Id: id, Address: a.String(), Bits: uint32(p.Bits())})
}

// RemoveNode forgets a node's address, in the transaction that removes the node.
// One that is not known is no error.
func RemoveNode(tx *raftstore.Tx, id string) error {
	if tx.Level() < Level {
		return nil
	}
	if err := Nodes.Delete(tx, id); err != nil && !errors.Is(err, raftstore.ErrNotFound) {
		return err
	}
	return nil
}
