package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/spec"
)

// TestRefusedNetworks: each for its reason, with what to do.
func TestRefusedNetworks(t *testing.T) {
	sub := func(s, g, r string) *meshpb.NetworkSpec {
		return &meshpb.NetworkSpec{Name: "n", Subnets: []*meshpb.Subnet{{Subnet: s, Gateway: g, IpRange: r}}}
	}
	many := map[string]string{}
	for i := range spec.MaxOptions + 1 {
		many[fmt.Sprint(i)] = "x"
	}
	lan := map[string]string{"conflist": "lan"}
	for driver, o := range map[string]map[string]string{"overlay": nil, "bridge": nil, "none": nil, "cni": lan} {
		if _, err := spec.Network(&meshpb.NetworkSpec{Name: "n", Driver: driver, Options: o}); err != nil {
			t.Errorf("driver %s: %v", driver, err)
		}
	}
	for want, s := range map[string]*meshpb.NetworkSpec{
		"there is no network":                          nil,
		"too small: use /29":                           sub("10.0.0.0/31", "", ""),
		"too large: use /8":                            sub("10.0.0.0/7", "", ""),
		"host bits set: write 10.0.0.0/24":             sub("10.0.0.1/24", "", ""),
		"not in its usual form: write fd00::/64":       sub("FD00::/64", "", ""),
		"not in CIDR notation":                         sub("::ffff:10.0.0.0/120", "", ""),
		"too small: use /120":                          sub("fd00::/127", "", ""),
		"not ordinary unicast":                         sub("169.254.0.0/16", "", ""),
		"subnet 224.0.0.0/8 is not ordinary unicast":   sub("224.0.0.0/8", "", ""),
		"gateway 10.1.0.1 is outside of subnet":        sub("10.0.0.0/24", "10.1.0.1", ""),
		"gateway 10.0.0.255 is the first or last":      sub("10.0.0.0/24", "10.0.0.255", ""),
		"range 10.1.0.0/25 is outside of subnet":       sub("10.0.0.0/24", "", "10.1.0.0/25"),
		"range 10.0.0.0/30 is too small":               sub("10.0.0.0/24", "", "10.0.0.0/30"),
		"range 10.0.0.0/16 is outside of subnet":       sub("10.0.0.0/24", "", "10.0.0.0/16"),
		"driver \"vlan\" is unknown":                   {Name: "n", Driver: "vlan"},
		"cni need --opt conflist=NAME":                 {Name: "n", Driver: "cni"},
		"of at most 64 letters, digits":                {Name: "n", Driver: "cni", Options: map[string]string{"conflist": "../lan"}},
		"driver cni have no subnet here":               {Name: "n", Driver: "cni", Options: lan, Subnets: []*meshpb.Subnet{{Subnet: "10.0.0.0/24"}}},
		"out of a network of driver cni its nodes'":    {Name: "n", Driver: "cni", Options: lan, Internal: true},
		"policies have no effect on networks of dri":   {Name: "n", Driver: "cni", Options: lan, DefaultDeny: true},
		"none have no subnet here, there is no interf": {Name: "n", Driver: "none", Ipv6: true},
		"driver macvlan are not made: a segment":       {Name: "n", Driver: "macvlan", Options: map[string]string{"parent": "eth0"}},
		"driver host are not made: a container":        {Name: "n", Driver: "host"},
		"overlay networks are always encrypted":        {Name: "n", Options: map[string]string{"encrypted": "false"}},
		"option \"mtu\" is unknown: driver overlay ta": {Name: "n", Options: map[string]string{"mtu": "1500"}},
		"there are 33 network options":                 {Name: "n", Options: many},
		"only lowercase letters":                       {Name: "Front"},
		"are of one family":                            {Name: "n", Subnets: []*meshpb.Subnet{{Subnet: "10.0.0.0/24"}, {Subnet: "10.1.0.0/24"}}},
		"there are 3 subnets":                          {Name: "n", Subnets: []*meshpb.Subnet{{}, {}, {}}},
	} {
		if _, err := spec.Network(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestRefusedPools: also those that overlap a default.
func TestRefusedPools(t *testing.T) {
	for want, p := range map[string]*meshpb.Pools{
		"overlaps the pool 10.200.0.0/13":      {Ingress: "10.201.0.0/16"},
		"ingress pool 10.255.0.0/16 overlaps":  {Networks: "10.0.0.0/8"},
		"network pool 10.0.0.0/31: use /8":     {Networks: "10.0.0.0/31"},
		"node pool 198.18.0.0/30: use /8":      {Nodes: "198.18.0.0/30"},
		"node pool fd00::/64 is of the wrong":  {Nodes: "fd00::/64"},
		"IPv6 network pool 10.0.0.0/8 is of":   {Networks6: "10.0.0.0/8"},
		"node pool \"x\" is not in CIDR":       {Nodes: "x"},
		"host bits set: write 10.200.0.0/13":   {Networks: "10.200.0.1/13"},
		"subnets of /30 are too small":         {SubnetBits: 30},
		"IPv6 network pool fd00::/65: use /32": {Networks6: "fd00::/65"},
	} {
		if _, err := spec.Pools(p, "c"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if spec.DefaultPools("a").Networks6 == spec.DefaultPools("b").Networks6 {
		t.Error("two clusters have the same IPv6 pool")
	}
}

// TestCovers: how much of a flow a rule allows.
func TestCovers(t *testing.T) {
	rule := func(text string) *meshpb.PolicyRule {
		r, err := spec.ParseRule("service:a->service:b" + text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tc := range []struct {
		rule, flow string
		want       spec.Extent
	}{
		{"", "", spec.All}, {"", ":tcp/1", spec.All}, {":tcp", "", spec.Part}, {":tcp", ":tcp/80", spec.All}, {":tcp/80", ":tcp", spec.Part},
		{":tcp/80", ":udp/80", spec.None}, {":tcp/80-90", ":tcp/85", spec.All}, {":tcp/80-90", ":tcp/91", spec.None}, {":tcp/80-90", ":tcp/70-79", spec.None},
		{":tcp/80-90", ":tcp/85-95", spec.Part}, {":tcp/80-90", ":tcp/70-100", spec.Part}, {":icmp", ":icmp", spec.All}, {":icmp", ":tcp", spec.None},
	} {
		if got := spec.Covers(rule(tc.rule), rule(tc.flow)); got != tc.want {
			t.Errorf("%q of %q: %d, want %d", tc.rule, tc.flow, got, tc.want)
		}
	}
	other := rule("")
	other.ToService = "c"
	if spec.Covers(other, rule("")) != spec.None {
		t.Error("a rule for another service covers")
	}
}
