package store

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// subnets resolves those of a new network: what was asked for, unless it overlaps
// what is in use, and the rest from the pools.
func (g *Giver) subnets(sp *meshpb.NetworkSpec) (out []*meshpb.Subnet, err error) {
	used := g.used()
	four, six := false, false
	for _, s := range sp.GetSubnets() {
		p, err := netip.ParsePrefix(s.GetSubnet())
		if err != nil {
			return nil, err
		}
		for other, whose := range used {
			if other.Overlaps(p) {
				return nil, refuse("subnet %s overlaps %s of %s: choose another, or leave it to the pool", p, other, whose)
			}
		}
		four, six = four || p.Addr().Is4(), six || !p.Addr().Is4()
		out = append(out, proto.CloneOf(s))
	}
	if !four {
		p, err := g.free("IPv4", g.pools.GetNetworks(), int(g.pools.GetSubnetBits()), used)
		if err != nil {
			return nil, err
		}
		out = append([]*meshpb.Subnet{whole(p)}, out...)
	}
	if sp.GetIpv6() && !six {
		p, err := g.free("IPv6", g.pools.GetNetworks6(), 64, used)
		if err != nil {
			return nil, err
		}
		out = append(out, whole(p))
	}
	return out, nil
}

func whole(p netip.Prefix) *meshpb.Subnet {
	return &meshpb.Subnet{Subnet: p.String(), Gateway: p.Addr().Next().String()}
}

// used is what no new network may overlap, and whose it is.
func (g *Giver) used() map[netip.Prefix]string {
	out := map[netip.Prefix]string{}
	for n := range Networks.All(g.tx) {
		if n.GetKind() == meshpb.Kind_KIND_INGRESS {
			continue // all have the pool below
		}
		for _, s := range n.GetSubnets() {
			if p, err := netip.ParsePrefix(s.GetSubnet()); err == nil {
				out[p] = "network " + n.GetSpec().GetName()
			}
		}
	}
	for text, whose := range map[string]string{g.pools.GetNodes(): "the nodes' addresses", g.pools.GetIngress(): "published ports", g.pools.GetIngress6(): "published ports"} {
		if p, err := netip.ParsePrefix(text); err == nil {
			out[p] = whose
		}
	}
	return out
}

// free is a subnet of a pool that overlaps none in use. The search goes on where
// it last ended, so that what was freed a moment ago is not given at once.
func (g *Giver) free(family, pool string, bits int, used map[netip.Prefix]string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(pool)
	if err != nil {
		return p, err
	}
	slots := uint64(1) << (bits - p.Bits())
	for i := range min(slots, maxSubnetTries) {
		s := nth(p, bits, (g.record.GetGiven()+i)%slots)
		if !overlapsAny(s, bits, used) {
			return s, nil
		}
	}
	return p, refuse("the %s pool %s has no subnet of /%d left: remove networks, or give a --subnet elsewhere", family, p, bits)
}

// overlapsAny looks for exactly s first, which is what is nearly always there.
func overlapsAny(s netip.Prefix, bits int, used map[netip.Prefix]string) bool {
	if _, ok := used[s]; ok {
		return true
	}
	for other := range used {
		if other.Bits() != bits && other.Overlaps(s) {
			return true
		}
	}
	return false
}

// nth is the i-th subnet of a pool.
func nth(pool netip.Prefix, bits int, i uint64) netip.Prefix {
	b := pool.Addr().AsSlice()
	for bit := bits - 1; bit >= pool.Bits() && i > 0; bit-- {
		b[bit/8] |= byte(i&1) << (7 - bit%8)
		i >>= 1
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}
