package spec

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// DefaultPools are where numbers come from unless the cluster was told otherwise.
// The IPv6 pools are of unique local /48s made from the cluster's id.
func DefaultPools(clusterID string) *meshpb.Pools {
	return &meshpb.Pools{
		Networks: "10.200.0.0/13", SubnetBits: 24, Networks6: local("networks", clusterID, 48),
		Nodes:   "198.18.0.0/15",
		Ingress: "10.255.0.0/16", Ingress6: local("ingress", clusterID, 64),
	}
}

// local is a unique local prefix of a cluster for one purpose.
func local(what, clusterID string, bits int) string {
	sum := sha256.Sum256([]byte("redoubt " + what + " " + clusterID))
	a := [16]byte{0: 0xfd}
	copy(a[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), bits).String()
}

// Pools returns a copy of p with defaults for what it leaves out, or says what is
// wrong with it.
func Pools(p *meshpb.Pools, clusterID string) (*meshpb.Pools, error) {
	if err := known(p); err != nil {
		return nil, err
	}
	out := DefaultPools(clusterID)
	proto.Merge(out, p)
	var all []netip.Prefix
	for _, one := range []struct {
		what, text  string
		four        bool
		least, most int
	}{
		{"network pool", out.Networks, true, 8, int(out.SubnetBits)},
		{"IPv6 network pool", out.Networks6, false, 32, 64},
		{"node pool", out.Nodes, true, 8, 24},
		{"ingress pool", out.Ingress, true, 8, 24},
		{"IPv6 ingress pool", out.Ingress6, false, 48, 64},
	} {
		prefix, err := Prefix(one.what, one.text)
		switch {
		case err != nil:
			return nil, err
		case prefix.Addr().Is4() != one.four:
			return nil, fmt.Errorf("%s %s is of the wrong family: use the other one", one.what, prefix)
		case prefix.Bits() < one.least || prefix.Bits() > one.most:
			return nil, fmt.Errorf("%s %s: use /%d to /%d", one.what, prefix, one.least, one.most)
		}
		for _, other := range all {
			if other.Overlaps(prefix) {
				return nil, fmt.Errorf("%s %s overlaps the pool %s: give pools apart from each other", one.what, prefix, other)
			}
		}
		all = append(all, prefix)
	}
	if n := out.GetSubnetBits(); n > MaxBits4 {
		return nil, fmt.Errorf("subnets of /%d are too small: use /%d or larger", n, MaxBits4)
	}
	return out, nil
}
