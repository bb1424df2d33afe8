package pools

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// An address is in a range exactly if it is in one of the prefixes.
func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var texts []string
		var all []netip.Prefix
		for range rapid.IntRange(0, 12).Draw(t, "n") {
			// Few high bits, so that they meet each other.
			a := netip.AddrFrom4([4]byte{byte(rapid.IntRange(9, 11).Draw(t, "a")), byte(rapid.IntRange(0, 3).Draw(t, "b")), byte(rapid.IntRange(0, 3).Draw(t, "c"))})
			if rapid.IntRange(0, 9).Draw(t, "six") == 0 {
				a = netip.MustParseAddr("fd00::1")
			}
			p := netip.PrefixFrom(a, rapid.IntRange(map[bool]int{true: 8, false: 16}[a.Is4()], 32).Draw(t, "bits")).Masked()
			all, texts = append(all, p), append(texts, p.String())
		}
		pools, err := Parse(texts)
		if err != nil {
			t.Fatal(err)
		}
		elements := pools.elements(true)
		for range 50 {
			x := netip.AddrFrom4([4]byte{byte(rapid.IntRange(8, 12).Draw(t, "a")), byte(rapid.IntRange(0, 4).Draw(t, "b")), byte(rapid.IntRange(0, 4).Draw(t, "c")), byte(rapid.IntRange(0, 255).Draw(t, "d"))})
			want := slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(x) })
			got := false
			for _, e := range elements {
				at, _ := netip.AddrFromSlice(e.Key)
				if at.Compare(x) <= 0 {
					got = !e.IntervalEnd
				}
			}
			if got != want {
				t.Fatalf("%s in %v: %v, by ranges %v", x, all, want, elements)
			}
		}
	})
}

func TestParse(t *testing.T) {
	for _, bad := range []string{"", "10.200.0.1/13", "10.0.0.0/7", "::ffff:10.0.0.0/104", "127.0.0.0/8", "224.0.0.0/8", "fe80::/64", "fe00::/8", "x"} {
		if p, err := Parse([]string{bad}); err == nil {
			t.Errorf("%q was read as %v", bad, p)
		}
	}
	p, err := Parse([]string{"10.200.1.0/24", "fd00::/48", "10.200.0.0/13"})
	if err != nil || len(p) != 2 || p.Overlaps(netip.MustParsePrefix("10.207.0.0/16")).String() != "10.200.0.0/13" || p.Overlaps(netip.MustParsePrefix("10.208.0.0/16")).IsValid() {
		t.Errorf("%v %v", p, err)
	}
}

// What stands in a set that a rule looks at, nobody changes.
func TestSetStaysAsItIs(t *testing.T) {
	p, err := Parse([]string{"10.200.0.0/13", "10.208.0.0/16", "fd00::/48"})
	if err != nil {
		t.Fatal(err)
	}
	ns := netlab.Netns(t, "")
	table := &nftables.Table{Name: "t", Family: nftables.TableFamilyINet}
	netlab.Within(t, ns, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error {
			c.AddTable(table)
			chain := c.AddChain(&nftables.Chain{Table: table, Name: "c"})
			for i, four := range []bool{true, false} {
				s := &nftables.Set{Table: table, Name: []string{"four", "six"}[i], KeyType: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr}[i], ID: uint32(i + 1)}
				if err := p.Add(c, s, four); err != nil {
					return err
				}
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: lookup(s, four)})
			}
			return c.Flush()
		})
	})
	for name, change := range map[string]func(*nftables.Conn, *nftables.Set) error{
		"added": func(c *nftables.Conn, s *nftables.Set) error {
			return c.SetAddElements(s, []nftables.SetElement{{Key: []byte{11, 0, 0, 0}}, {Key: []byte{11, 0, 0, 1}, IntervalEnd: true}})
		},
		"deleted": func(c *nftables.Conn, s *nftables.Set) error { return c.SetDeleteElements(s, p.elements(true)) },
		"flushed": func(c *nftables.Conn, s *nftables.Set) error { c.FlushSet(s); return nil },
	} {
		netlab.Within(t, ns, func() error {
			return kernel.WithNFT(func(c *nftables.Conn) error {
				s, err := c.GetSetByName(table, "four")
				if err == nil {
					err = change(c, s)
				}
				if err != nil {
					return err
				}
				if c.Flush() == nil {
					t.Errorf("elements were %s", name)
				}
				return nil
			})
		})
	}
}

func TestLANs(t *testing.T) {
	ns := netlab.NewWire(t).Plug(7)
	netlab.Links(t, ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		for _, a := range []netlink.Addr{
			{IPNet: kernel.IPNet(netip.MustParsePrefix("10.201.3.4/16"))},
			{IPNet: kernel.IPNet(netip.MustParsePrefix("fd00::4/64")), Flags: unix.IFA_F_NODAD},
			// As a router's announcement makes it.
			{IPNet: kernel.IPNet(netip.MustParsePrefix("fd00:0:0:1::4/64")), Flags: unix.IFA_F_NODAD, ValidLft: 600, PreferedLft: 600},
		} {
			if err := h.AddrAdd(u, &a); err != nil {
				return err
			}
		}
		all, err := LANs(h, func(link string) bool { return link == "lo" })
		if err != nil {
			return err
		}
		p, err := Parse([]string{"10.200.0.0/13", "fd00::/48"})
		if got := p.Within(all); err != nil || len(all) != 3 || len(got) != 2 || got[0].String() != "10.201.0.0/16 of u0" || got[1].String() != "fd00::/64 of u0" {
			t.Errorf("%v, of which %v (%v)", all, got, err)
		}
		return nil
	})
}

func lookup(s *nftables.Set, four bool) []expr.Any {
	offset, size := uint32(12), uint32(4)
	if !four {
		offset, size = 8, 16
	}
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}, &expr.Verdict{Kind: expr.VerdictDrop}}
}
