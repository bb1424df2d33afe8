package ipam

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// TestPickGivesAllAndEachOnce draws subnets, fills both parts of each, and
// counts: every address is within its part, none is given twice or reserved, and
// the last one is found.
func TestPickGivesAllAndEachOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bits := rapid.IntRange(19, 29).Draw(rt, "bits")
		base := netip.MustParseAddr("10.37.64.0")
		if six := rapid.Bool().Draw(rt, "six"); six {
			base, bits = netip.MustParseAddr("fd00::10:0"), bits+96
		}
		p := netip.PrefixFrom(base, bits).Masked()
		s := &meshpb.Subnet{Subnet: p.String(), Gateway: p.Addr().Next().String()}
		if rapid.Bool().Draw(rt, "last gateway") {
			s.Gateway = Last(p).Prev().String()
		}
		if r := rapid.IntRange(0, 2).Draw(rt, "range"); r > 0 && bits+r <= base.BitLen()-3 {
			s.IpRange = netip.PrefixFrom(p.Addr(), bits+r).String()
		}
		held := map[string]bool{}
		taken := func(prefix string, mark func(string)) {
			// As an index would, but from both sides: also what is elsewhere.
			for k := range held {
				if strings.HasPrefix(k, prefix) {
					mark(k)
				}
			}
		}
		if len(held) == 0 && 1<<(base.BitLen()-bits) > 1024 {
			return // the quadratic fake is for small ones; the store's test has large ones
		}
		total := uint64(0)
		for _, of := range []func(*meshpb.Subnet) (Range, error){Endpoints, VIPs} {
			r, err := of(s)
			if err != nil {
				rt.Fatal(err)
			}
			total += r.Room()
			for range r.Room() {
				a, ok := r.Pick(rapid.StringN(8, 8, -1).Draw(rt, "seed"), taken)
				if !ok || !p.Contains(a) || held[Key(a)] || a == p.Addr() || a == Last(p) || a.String() == s.Gateway {
					rt.Fatalf("%v of %v: %v, %v", a, s, ok, held[Key(a)])
				}
				held[Key(a)] = true
			}
			if a, ok := r.Pick("more", taken); ok {
				rt.Fatalf("%v has room for one more than it says: %v", s, a)
			}
		}
		if uint64(len(held)) != total {
			rt.Fatalf("%d addresses of %d", len(held), total)
		}
	})
}

// TestPrefixes: they cover a subnet and nothing of its neighbours, but for the
// digit that a subnet shares.
func TestPrefixes(t *testing.T) {
	for subnet, want := range map[string]string{
		"10.1.0.0/16": "0a01", "10.1.2.0/24": "0a0102", "10.1.4.0/22": "0a0104 0a0105 0a0106 0a0107",
		"10.1.2.8/29": "0a010208 0a010209 0a01020a 0a01020b 0a01020c 0a01020d 0a01020e 0a01020f",
		"fd00::/64":   "fd00000000000000",
	} {
		if got := strings.Join(Prefixes(netip.MustParsePrefix(subnet)), " "); got != want {
			t.Errorf("%s: %s, want %s", subnet, got, want)
		}
	}
}
