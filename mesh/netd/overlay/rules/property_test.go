package rules

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// aNetwork draws a small network; what there is often is the same as in another
// one, or the same with something else to it.
func aNetwork(t *rapid.T) *Network {
	n := &Network{Subnets: []netip.Prefix{subnet4, subnet6}, Gateways: []netip.Addr{gateway4, gateway6},
		Uplink: rapid.SampledFrom([]string{"vx0", "vx0", "vx0", "vx1"}).Draw(t, "uplink"), DefaultDeny: rapid.Bool().Draw(t, "deny")}
	if rapid.IntRange(0, 9).Draw(t, "one family") == 0 {
		n.Subnets, n.Gateways = n.Subnets[:1], n.Gateways[:1]
	}
	services := []string{"a", "b", "c", "d"}
	for i, id := range services {
		if rapid.IntRange(0, 3).Draw(t, "no vip") == 0 {
			continue
		}
		k := i
		if rapid.IntRange(0, 5).Draw(t, "vip of another") == 0 {
			k += len(services)
		}
		s := Service{ID: id, VIPs: []netip.Addr{vip4(k)}}
		if len(n.Subnets) > 1 {
			s.VIPs = append(s.VIPs, vip6(k))
		}
		n.Services = append(n.Services, s)
	}
	used := map[int]bool{}
	for i := range 8 {
		if rapid.IntRange(0, 2).Draw(t, "no task") == 0 {
			continue
		}
		k := i
		if rapid.IntRange(0, 5).Draw(t, "another address") == 0 {
			k = rapid.IntRange(0, 15).Draw(t, "address")
		}
		if used[k] {
			continue
		}
		used[k] = true
		e := Endpoint{Task: fmt.Sprintf("task%d", i), Service: rapid.SampledFrom(append(services, "")).Draw(t, "service"),
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 200, 0, byte(10 + k)})}, Serving: rapid.Bool().Draw(t, "serving"),
			MAC: net.HardwareAddr{2, 0x52, 198, 18, 0, rapid.Byte().Draw(t, "node") % 3}}
		if len(n.Subnets) > 1 && rapid.IntRange(0, 5).Draw(t, "IPv4 alone") > 0 {
			e.Addrs = append(e.Addrs, netip.MustParseAddr(fmt.Sprintf("fd00:1::1:%x", k)))
		}
		if rapid.Bool().Draw(t, "local") {
			e.Port, e.MAC = fmt.Sprintf("p%d", i), net.HardwareAddr{2, 1, 0, 0, 0, byte(i)}
		}
		n.Endpoints = append(n.Endpoints, e)
	}
	if rapid.Bool().Draw(t, "other order") {
		n.Endpoints = rapid.Permutation(n.Endpoints).Draw(t, "order")
	}
	for i := range 4 {
		if rapid.Bool().Draw(t, "no rule") {
			continue
		}
		r := Rule{ID: fmt.Sprintf("p%d/0", i), Proto: rapid.SampledFrom([]uint8{0, 1, 6, 17}).Draw(t, "protocol"),
			From: rapid.SliceOfN(rapid.SampledFrom(services), 0, 2).Draw(t, "from"), To: rapid.SliceOfN(rapid.SampledFrom(services), 0, 2).Draw(t, "to")}
		if r.Proto > 1 && rapid.Bool().Draw(t, "ports") {
			r.First = rapid.Uint16Range(1, 3).Draw(t, "first")
			r.Last = r.First + rapid.Uint16Range(0, 2).Draw(t, "more")
		}
		n.Rules = append(n.Rules, r)
	}
	return n
}

// Whatever was before, the ruleset is that of the last Set, element for element
// and rule for rule, and Ensure has nothing to repair.
func TestOnlyTheLastSetMatters(t *testing.T) {
	one, many := newNetns(t), newNetns(t)
	in := func(t *rapid.T, ns *os.File, fn func() error) {
		t.Helper()
		if err := kernel.InNetns(ns, fn); err != nil {
			t.Fatal(err)
		}
	}
	// A Set of the whole waits for the kernel; `-rapid.checks` asks for more.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		flag.Set("rapid.checks", "10")
		defer flag.Set("rapid.checks", f.DefValue)
	}
	table, once := newTable(t, many), newTable(t, one)
	rapid.Check(t, func(t *rapid.T) {
		var last *Network
		for range rapid.IntRange(1, 8).Draw(t, "sets") {
			last = aNetwork(t)
			in(t, many, func() error { _, err := table.Set(t.Context(), last); return err })
		}
		var got, want string
		in(t, many, func() (err error) { got, err = dump(); return err })
		in(t, one, func() (err error) {
			if _, err = New(once.nf).Set(t.Context(), last); err == nil {
				want, err = dump()
			}
			return err
		})
		if got != want {
			t.Fatalf("differs:\n%s\nwant:\n%s", got, want)
		}
		in(t, many, func() error {
			if repaired, err := table.Ensure(); repaired || err != nil {
				t.Fatalf("repaired: %v (%v)", repaired, err)
			}
			table.gen-- // as if somebody had changed something
			if repaired, err := table.Ensure(); repaired || err != nil {
				t.Fatalf("repaired: %v (%v)", repaired, err)
			}
			if changed, err := table.Set(t.Context(), last); changed || err != nil {
				t.Fatalf("the same again changed: %v (%v)", changed, err)
			}
			return nil
		})
	})
}

// What is no network is refused, and nothing is changed.
func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	ns := newNetns(t)
	table := newTable(t, ns)
	good := func() *Network {
		n := bigNetwork(2, 2, true)
		n.Endpoints[0].Port = "p0"
		n.Rules = []Rule{{ID: "p/0", From: []string{"service0000"}, To: []string{"service0001"}, Proto: 6, First: 1, Last: 2}}
		return n
	}
	within(t, ns, func() error { _, err := table.Set(t.Context(), good()); return err })
	for name, spoil := range map[string]func(n *Network){
		"no uplink":               func(n *Network) { n.Uplink = "" },
		"long uplink":             func(n *Network) { n.Uplink = "0123456789abcdef" },
		"subnet with host bits":   func(n *Network) { n.Subnets[0] = netip.MustParsePrefix("10.0.0.1/16") },
		"gateway outside":         func(n *Network) { n.Gateways[0] = netip.MustParseAddr("10.1.0.1") },
		"gateway twice":           func(n *Network) { n.Gateways[1] = n.Gateways[0] },
		"no gateway":              func(n *Network) { n.Gateways = n.Gateways[1:] },
		"address outside":         func(n *Network) { n.Endpoints[1].Addrs[0] = netip.MustParseAddr("10.1.0.9") },
		"mapped address":          func(n *Network) { n.Endpoints[1].Addrs[0] = netip.MustParseAddr("::ffff:10.0.0.9") },
		"address with a zone":     func(n *Network) { n.Endpoints[1].Addrs[1] = netip.MustParseAddr("fd00:1::9%vx0") },
		"address twice":           func(n *Network) { n.Endpoints[1].Addrs = n.Endpoints[0].Addrs },
		"the gateway's address":   func(n *Network) { n.Endpoints[1].Addrs[0] = n.Gateways[0] },
		"a virtual address":       func(n *Network) { n.Endpoints[1].Addrs[0] = n.Services[0].VIPs[0] },
		"no address":              func(n *Network) { n.Endpoints[1].Addrs = nil },
		"no MAC":                  func(n *Network) { n.Endpoints[1].MAC = nil },
		"a MAC of many":           func(n *Network) { n.Endpoints[1].MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} },
		"task twice":              func(n *Network) { n.Endpoints[1].Task = n.Endpoints[0].Task },
		"port twice":              func(n *Network) { n.Endpoints[1].Port = n.Endpoints[0].Port },
		"the uplink as a port":    func(n *Network) { n.Endpoints[1].Port = n.Uplink },
		"no task":                 func(n *Network) { n.Endpoints[1].Task = "" },
		"service twice":           func(n *Network) { n.Services[1].ID = n.Services[0].ID },
		"virtual address twice":   func(n *Network) { n.Services[1].VIPs = n.Services[0].VIPs },
		"virtual address outside": func(n *Network) { n.Services[1].VIPs[0] = netip.MustParseAddr("192.0.2.1") },
		"rule without id":         func(n *Network) { n.Rules[0].ID = "" },
		"rule with a strange id":  func(n *Network) { n.Rules[0].ID = "a;b" },
		"rule twice":              func(n *Network) { n.Rules = append(n.Rules, n.Rules[0]) },
		"ports backwards":         func(n *Network) { n.Rules[0].First = 3 },
		"port 0":                  func(n *Network) { n.Rules[0].First = 0 },
		"ports of ICMP":           func(n *Network) { n.Rules[0].Proto = 1 },
		"too many endpoints":      func(n *Network) { n.Endpoints = make([]Endpoint, maxEndpoints+1) },
		"too many rules":          func(n *Network) { n.Rules = make([]Rule, maxRules+1) },
	} {
		t.Run(name, func(t *testing.T) {
			n := good()
			spoil(n)
			within(t, ns, func() error {
				was, _ := table.nf.Generation()
				changed, err := table.Set(t.Context(), n)
				if now, _ := table.nf.Generation(); err == nil || changed || now != was {
					t.Errorf("changed: %v, %v", changed, err)
				}
				if again, err := table.Set(t.Context(), good()); again || err != nil {
					t.Errorf("the one in force again: changed %v, %v", again, err)
				}
				return nil
			})
		})
	}
}
