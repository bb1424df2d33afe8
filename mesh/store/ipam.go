package store

import (
	"github.com/redoubt-cluster/redoubt/mesh/ipam"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
)

// IPAM is who gives networks their subnets, and those who are on them their
// addresses.
type IPAM interface {
	// Complete gives a new network what its spec leaves open.
	Complete(g *Giver, n *meshpb.Network) error
	// Pick finds an address of each of a network's subnets; of says which part of
	// one it is to come from, taken what is not to be had. It keeps no account: an
	// address is taken by the record that it is written to.
	Pick(n *meshpb.Network, seed string, of func(*meshpb.Subnet) (ipam.Range, error), taken ipam.Taken) ([]string, error)
}

// IPAMOf is that of a network's driver.
func IPAMOf(n *meshpb.Network) IPAM {
	if spec.Given(n.GetSpec().GetDriver()) {
		return builtIn{}
	}
	return byNode{}
}

// Pick is that of the network's IPAM.
func Pick(n *meshpb.Network, seed string, of func(*meshpb.Subnet) (ipam.Range, error), taken ipam.Taken) ([]string, error) {
	return IPAMOf(n).Pick(n, seed, of, taken)
}

// byNode leaves it to each node, whose drivers have an IPAM of their own: plugins
// of CNI, which are asked when a task is attached there. The store learns of the
// addresses by the task's status.
type byNode struct{}

func (byNode) Complete(*Giver, *meshpb.Network) error { return nil }

func (byNode) Pick(*meshpb.Network, string, func(*meshpb.Subnet) (ipam.Range, error), ipam.Taken) ([]string, error) {
	return nil, nil
}

// builtIn takes from the cluster's pools.
type builtIn struct{}

func (builtIn) Complete(g *Giver, n *meshpb.Network) (err error) {
	if n.Subnets, err = g.subnets(n.GetSpec()); err != nil {
		return err
	}
	n.Vni, err = g.vni()
	return err
}

func (builtIn) Pick(n *meshpb.Network, seed string, of func(*meshpb.Subnet) (ipam.Range, error), taken ipam.Taken) ([]string, error) {
	out := make([]string, 0, len(n.GetSubnets()))
	for _, s := range n.GetSubnets() {
		r, err := of(s)
		if err != nil {
			return nil, err
		}
		a, ok := r.Pick(seed+n.GetId(), taken)
		if !ok {
			return nil, &ExhaustedError{Network: n.GetSpec().GetName(), Subnet: s.GetSubnet(), Room: r.Room()}
		}
		out = append(out, a.String())
	}
	return out, nil
}
