package spec_test

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/mesh/ipam"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
)

// oneLine holds of every refusal.
func oneLine(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); text == "" || strings.ContainsAny(text, "\n\r\x00") || len(text) > 1000 { // what was given is quoted, clipped, twice at most
		t.Errorf("a refusal of %d bytes: %q", len(text), text)
	}
}

// FuzzRule: what is read is written back and read as the same, and what is
// accepted is a rule that a policy may have.
func FuzzRule(f *testing.F) {
	for _, s := range []string{"service:a->service:b", "service:a->service:b:tcp/5432", "service:a->service:b:udp/1-65535", "service:a->service:b:any",
		"service:a->service:b:icmp", "service:a->service:b:", "service:a->service:b:tcp/0", "service:ä->service:b", "service:a->service:b:tcp/5-4", "->", "service:a->service:b:tcp/00001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := spec.ParseRule(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		again, err := spec.ParseRule(spec.FormatRule(r))
		if err != nil || !proto.Equal(r, again) {
			t.Errorf("%q is %v, which is written as %q and read as %v, %v", text, r, spec.FormatRule(r), again, err)
		}
		p := &meshpb.PolicySpec{Name: "p", Network: "n", Rules: []*meshpb.PolicyRule{r}}
		if _, err := spec.Policy(p); err != nil {
			t.Errorf("%q is read and refused: %v", text, err)
		}
		if spec.Covers(r, r) != spec.All {
			t.Errorf("%q does not cover itself", text)
		}
	})
}

// FuzzTraffic: what is accepted is one flow.
func FuzzTraffic(f *testing.F) {
	for _, s := range []string{"", "5432", "tcp/5432", "udp/53", "icmp", "any", "tcp", "/80", "tcp/", "tcp/1-2", "icmp/1", "99999", "080"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, port, err := spec.ParseTraffic(text)
		if err != nil {
			oneLine(t, err)
			return
		}
		if port > 65535 || port > 0 && p != meshpb.Protocol_PROTOCOL_TCP && p != meshpb.Protocol_PROTOCOL_UDP {
			t.Errorf("%q is %v/%d", text, p, port)
		}
	})
}

// FuzzNetwork: a network that is accepted has subnets, gateways and ranges in
// their usual form with room for a task and a virtual address, and is accepted
// again as it was returned.
func FuzzNetwork(f *testing.F) {
	f.Add("front", "", "10.1.0.0/24", "", "", "")
	f.Add("front", "overlay", "10.1.0.0/24", "10.1.0.254", "10.1.0.128/25", "fd00:1::/64")
	f.Add("x", "overlay", "10.1.0.0/31", "", "", "")
	f.Add("x", "macvlan", "10.1.0.1/24", "10.2.0.1", "", "")
	f.Add("x", "", "::ffff:10.1.0.0/120", "", "", "10.1.0.0/24")
	f.Add("Ä", "", "fe80::/64", "fe80::1%eth0", "", "")
	f.Fuzz(func(t *testing.T, name, driver, subnet, gateway, ipRange, second string) {
		s := &meshpb.NetworkSpec{Name: name, Driver: driver}
		if subnet != "" {
			s.Subnets = append(s.Subnets, &meshpb.Subnet{Subnet: subnet, Gateway: gateway, IpRange: ipRange})
		}
		if second != "" {
			s.Subnets = append(s.Subnets, &meshpb.Subnet{Subnet: second})
		}
		before := proto.CloneOf(s)
		got, err := spec.Network(s)
		if !proto.Equal(before, s) {
			t.Fatal("the question was changed")
		}
		if err != nil {
			oneLine(t, err)
			return
		}
		if again, err := spec.Network(got); err != nil || !proto.Equal(got, again) {
			t.Errorf("%v is accepted, and then %v, %v", got, again, err)
		}
		for i, sub := range got.Subnets {
			p := netip.MustParsePrefix(sub.Subnet)
			g := netip.MustParseAddr(sub.Gateway)
			if p.Masked() != p || !p.Contains(g) || g == p.Addr() || i > 0 && p.Addr().Is4() {
				t.Errorf("accepted %v", got)
			}
			for _, of := range []func(*meshpb.Subnet) (ipam.Range, error){ipam.Endpoints, ipam.VIPs} {
				if r, err := of(sub); err != nil || r.Room() == 0 || r.Room() > ipam.MaxRoom {
					t.Errorf("%v has room for %d, %v", sub, r.Room(), err)
				}
			}
		}
	})
}

// FuzzPools: what is accepted does not overlap, has subnets to give, and is
// accepted again.
func FuzzPools(f *testing.F) {
	f.Add("10.0.0.0/8", uint32(24), "fd00:1::/48", "198.18.0.0/15", "172.16.0.0/16")
	f.Add("", uint32(0), "", "", "")
	f.Add("10.255.0.0/15", uint32(24), "", "", "")
	f.Add("10.0.0.0/31", uint32(31), "", "", "")
	f.Add("10.0.0.0/28", uint32(28), "", "0.0.0.0/0", "")
	f.Fuzz(func(t *testing.T, networks string, bits uint32, networks6, nodes, ingress string) {
		got, err := spec.Pools(&meshpb.Pools{Networks: networks, SubnetBits: bits, Networks6: networks6, Nodes: nodes, Ingress: ingress}, "c")
		if err != nil {
			oneLine(t, err)
			return
		}
		if again, err := spec.Pools(got, "c"); err != nil || !proto.Equal(got, again) {
			t.Errorf("%v is accepted, and then %v, %v", got, again, err)
		}
		var all []netip.Prefix
		for _, text := range []string{got.Networks, got.Networks6, got.Nodes, got.Ingress} {
			p := netip.MustParsePrefix(text)
			for _, o := range all {
				if o.Overlaps(p) {
					t.Errorf("%v overlaps %v", o, p)
				}
			}
			all = append(all, p)
		}
		if all[0].Bits() > int(got.SubnetBits) || got.SubnetBits > spec.MaxBits4 {
			t.Errorf("of %v no subnet can be made", got)
		}
	})
}
