package overlay

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

var ids = func() (out [40]string) {
	for i := range out {
		out[i] = ident.New()
	}
	return out
}()

// sample is a declaration with something of everything.
func sample() *netdpb.OverlayRequest {
	return &netdpb.OverlayRequest{Generation: 1, MeshAddress: "198.18.0.1", Networks: []*netdpb.OverlayNetwork{
		{Id: ids[0], Vni: 1, Netns: "net-" + ids[0], Subnets: []*netdpb.OverlaySubnet{{Subnet: "10.200.0.0/24", Gateway: "10.200.0.1"}, {Subnet: "fd52::/64", Gateway: "fd52::1"}},
			Endpoints: []*netdpb.OverlayEndpoint{
				{TaskId: ids[1], ServiceId: ids[2], Addresses: []string{"10.200.0.2", "fd52::2"}, Netns: ids[3], Serving: true},
				{TaskId: ids[4], ServiceId: ids[2], Addresses: []string{"10.200.0.3", "fd52::3"}, Node: "198.18.0.2"},
			},
			Services: []*netdpb.OverlayService{{ServiceId: ids[2], Vips: []string{"10.200.0.200", "fd52::200"}}, {ServiceId: ids[5]}},
			Rules:    []*netdpb.OverlayRule{{Id: "6ljisa6nc7as/0", From: []string{ids[2]}, To: []string{ids[5]}, Protocol: 6, FirstPort: 80, LastPort: 90}}},
		{Id: ids[6], Vni: 1<<24 - 1, Netns: "net-" + ids[6], Subnets: []*netdpb.OverlaySubnet{{Subnet: "fd53::/64", Gateway: "fd53::1"}}},
	}}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	net := func(fn func(n *netdpb.OverlayNetwork)) func(r *netdpb.OverlayRequest) {
		return func(r *netdpb.OverlayRequest) { fn(r.Networks[0]) }
	}
	end := func(fn func(e *netdpb.OverlayEndpoint)) func(r *netdpb.OverlayRequest) {
		return net(func(n *netdpb.OverlayNetwork) { fn(n.Endpoints[0]) })
	}
	far := func(fn func(e *netdpb.OverlayEndpoint)) func(r *netdpb.OverlayRequest) {
		return net(func(n *netdpb.OverlayNetwork) { fn(n.Endpoints[1]) })
	}
	rule := func(fn func(r *netdpb.OverlayRule)) func(r *netdpb.OverlayRequest) {
		return net(func(n *netdpb.OverlayNetwork) { fn(n.Rules[0]) })
	}
	for _, c := range []struct {
		want string
		harm func(r *netdpb.OverlayRequest)
	}{
		{"generation is missing", func(r *netdpb.OverlayRequest) { r.Generation = 0 }},
		{"not older than generation", func(r *netdpb.OverlayRequest) { r.Base = 1 }},
		{"removed names networks, but base", func(r *netdpb.OverlayRequest) { r.Removed = []string{ids[9]} }},
		{"mesh_address is missing", func(r *netdpb.OverlayRequest) { r.MeshAddress = "" }},
		{"no IPv4 address of a node", func(r *netdpb.OverlayRequest) { r.MeshAddress = "fd00::1" }},
		{"no IPv4 address of a node", func(r *netdpb.OverlayRequest) { r.MeshAddress = "127.0.0.1" }},
		{"is no id", net(func(n *netdpb.OverlayNetwork) { n.Id = "../x" })},
		{"stands twice", func(r *netdpb.OverlayRequest) { r.Networks[1].Id = r.Networks[0].Id }},
		{"base is missing", net(func(n *netdpb.OverlayNetwork) { n.Changes = true })},
		{"vni 0 is out of range", net(func(n *netdpb.OverlayNetwork) { n.Vni = 0 })},
		{"is out of range", net(func(n *netdpb.OverlayNetwork) { n.Vni = 1 << 24 })},
		{"vni 1 belongs to", func(r *netdpb.OverlayRequest) { r.Networks[1].Vni = 1 }},
		{"no name of a network's namespace", net(func(n *netdpb.OverlayNetwork) { n.Netns = "net-../x" })},
		{"no name of a network's namespace", net(func(n *netdpb.OverlayNetwork) { n.Netns = ids[3] })},
		{"no name of a network's namespace", net(func(n *netdpb.OverlayNetwork) { n.Netns = "net-" })},
		{"belongs to network", func(r *netdpb.OverlayRequest) { r.Networks[1].Netns = r.Networks[0].Netns }},
		{"0 subnets", net(func(n *netdpb.OverlayNetwork) { n.Subnets = nil })},
		{"IPv4 first", net(func(n *netdpb.OverlayNetwork) { n.Subnets[0], n.Subnets[1] = n.Subnets[1], n.Subnets[0] })},
		{"no address with prefix length", net(func(n *netdpb.OverlayNetwork) { n.Subnets[0].Subnet = "10.200.0.0" })},
		{"bits beyond its prefix", net(func(n *netdpb.OverlayNetwork) { n.Subnets[0].Subnet = "10.200.0.5/24" })},
		{"prefix length must be", net(func(n *netdpb.OverlayNetwork) { n.Subnets[0].Subnet = "10.200.0.0/31" })},
		{"private unicast", net(func(n *netdpb.OverlayNetwork) { n.Subnets[0].Subnet = "224.0.0.0/24" })},
		{"private unicast", net(func(n *netdpb.OverlayNetwork) { n.Subnets[1].Subnet = "fe80::/64" })},
		{"is no host of", net(func(n *netdpb.OverlayNetwork) { n.Subnets[0].Gateway = "10.201.0.1" })},
		{"is no host of", net(func(n *netdpb.OverlayNetwork) { n.Subnets[0].Gateway = "10.200.0.255" })},
		{"overlaps", func(r *netdpb.OverlayRequest) {
			r.Networks[1].Subnets[0] = &netdpb.OverlaySubnet{Subnet: "fd52::/48", Gateway: "fd52::1"}
		}},
		{"that is no id", end(func(e *netdpb.OverlayEndpoint) { e.TaskId = "x" })},
		{"is no id", end(func(e *netdpb.OverlayEndpoint) { e.ServiceId = "" })},
		{"stands twice", far(func(e *netdpb.OverlayEndpoint) { e.TaskId = ids[1] })},
		{"has no addresses", end(func(e *netdpb.OverlayEndpoint) { e.Addresses = nil })},
		{"no address of fd52::/64", end(func(e *netdpb.OverlayEndpoint) { e.Addresses = e.Addresses[:1] })},
		{"is no host of", end(func(e *netdpb.OverlayEndpoint) { e.Addresses[0] = "10.200.1.2" })},
		{"is no host of", end(func(e *netdpb.OverlayEndpoint) { e.Addresses[0], e.Addresses[1] = e.Addresses[1], e.Addresses[0] })},
		{"is no host of", end(func(e *netdpb.OverlayEndpoint) { e.Addresses[0] = "10.200.0.0" })},
		{"is no host of", end(func(e *netdpb.OverlayEndpoint) { e.Addresses[1] = "fd52::" })},
		{"is no IP address", end(func(e *netdpb.OverlayEndpoint) { e.Addresses[1] = "fd52::2%eth0" })},
		{"is no IP address", end(func(e *netdpb.OverlayEndpoint) { e.Addresses[0] = "::ffff:10.200.0.2" })},
		{"is the gateway's", end(func(e *netdpb.OverlayEndpoint) { e.Addresses[0] = "10.200.0.1" })},
		{"belongs to task", far(func(e *netdpb.OverlayEndpoint) { e.Addresses[0] = "10.200.0.2" })},
		{"belongs to task", net(func(n *netdpb.OverlayNetwork) { n.Services[0].Vips[0] = "10.200.0.2" })},
		{"no IPv4 address of a node", far(func(e *netdpb.OverlayEndpoint) { e.Node = "node" })},
		{"this node's mesh address", far(func(e *netdpb.OverlayEndpoint) { e.Node = "198.18.0.1" })},
		{"are for tasks of this node", far(func(e *netdpb.OverlayEndpoint) { e.Netns = ids[3] })},
		{"no file name of a sandbox", end(func(e *netdpb.OverlayEndpoint) { e.Netns = "net-" + ids[0] })},
		{"no file name of a sandbox", end(func(e *netdpb.OverlayEndpoint) { e.Netns = "" })},
		{"index 64 is out of range", end(func(e *netdpb.OverlayEndpoint) { e.Index = 64 })},
		{"say sandboxes_changed", func(r *netdpb.OverlayRequest) {
			r.Generation, r.Base, r.Networks = 9, 8, nil
			r.Sandboxes = []*netdpb.OverlaySandbox{{TaskId: ids[1], Netns: ids[1]}}
		}},
		{"is no file name of one", func(r *netdpb.OverlayRequest) {
			r.Sandboxes = []*netdpb.OverlaySandbox{{TaskId: ids[1], Netns: "../" + ids[1]}}
		}},
		{"or given twice", func(r *netdpb.OverlayRequest) {
			r.Sandboxes = []*netdpb.OverlaySandbox{{TaskId: ids[1], Netns: ids[1]}, {TaskId: ids[1], Netns: ids[2]}}
		}},
		{"interface ov0 of sandbox", func(r *netdpb.OverlayRequest) {
			r.Networks[1].Endpoints = []*netdpb.OverlayEndpoint{{TaskId: ids[1], ServiceId: ids[2], Addresses: []string{"fd53::2"}, Netns: ids[3]}}
		}},
		{"for changes", net(func(n *netdpb.OverlayNetwork) { n.RemovedEndpoints = []string{ids[1]} })},
		{"no address of fd52::/64", net(func(n *netdpb.OverlayNetwork) { n.Services[0].Vips = n.Services[0].Vips[:1] })},
		{"its id has other", rule(func(r *netdpb.OverlayRule) { r.Id = "a b" })},
		{"stands there twice", net(func(n *netdpb.OverlayNetwork) { n.Rules = append(n.Rules, n.Rules[0]) })},
		{"no service id", rule(func(r *netdpb.OverlayRule) { r.To = []string{"*"} })},
		{"protocol 256", rule(func(r *netdpb.OverlayRule) { r.Protocol = 256 })},
		{"no range", rule(func(r *netdpb.OverlayRule) { r.LastPort = 70 })},
		{"no range", rule(func(r *netdpb.OverlayRule) { r.LastPort = 65536 })},
		{"has none", rule(func(r *netdpb.OverlayRule) { r.Protocol = 1 })},
	} {
		r := sample()
		c.harm(r)
		d, err := parse(r)
		if err == nil {
			_, _, err = emptyPlan().merge(d)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	d, err := parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := emptyPlan().merge(d); err != nil {
		t.Fatal(err)
	}
}

// What is refused of a difference leaves the plan as it was.
func TestRefusedDifferences(t *testing.T) {
	t.Parallel()
	d, err := parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := emptyPlan().merge(d)
	if err != nil {
		t.Fatal(err)
	}
	for want, n := range map[string]*netdpb.OverlayNetwork{
		"is not declared: declare it whole": {Id: ids[9], Changes: true},
		"has no endpoint":                   {Id: ids[0], Changes: true, RemovedEndpoints: []string{ids[9]}},
		"is to be removed and is not":       {Id: ids[0], Changes: true, RemovedServices: []string{ids[9]}},
		"does not say rules_changed":        {Id: ids[0], Changes: true, Rules: sample().Networks[0].Rules},
		"declare it whole to change them":   {Id: ids[0], Changes: true, Vni: 9},
		"belongs to task":                   {Id: ids[0], Changes: true, Endpoints: []*netdpb.OverlayEndpoint{{TaskId: ids[9], ServiceId: ids[2], Addresses: []string{"10.200.0.2", "fd52::9"}, Node: "198.18.0.2"}}},
		"belongs to service":                {Id: ids[0], Changes: true, Endpoints: []*netdpb.OverlayEndpoint{{TaskId: ids[9], ServiceId: ids[2], Addresses: []string{"10.200.0.200", "fd52::9"}, Node: "198.18.0.2"}}},
		"stands twice":                      {Id: ids[0], Changes: true, Endpoints: []*netdpb.OverlayEndpoint{sample().Networks[0].Endpoints[0]}, RemovedEndpoints: []string{ids[1]}},
	} {
		before := fmt.Sprint(p.describe())
		d, err := parse(&netdpb.OverlayRequest{Generation: 2, Base: 1, Networks: []*netdpb.OverlayNetwork{n}})
		if err == nil {
			_, _, err = p.merge(d)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		if after := fmt.Sprint(p.describe()); after != before {
			t.Errorf("%q changed the plan\n%s\n%s", want, before, after)
		}
	}
}

// describe is all of the plan, in an order of its own.
func (p *plan) describe() map[string]string {
	out := map[string]string{"": fmt.Sprint(p.mesh, p.vnis, p.netnss, p.seats)}
	for id, n := range p.networks {
		ends, services, owners := map[string]endpoint{}, map[string]service{}, map[string]string{}
		for task, e := range n.endpoints {
			ends[task] = *e
		}
		for id, s := range n.services {
			services[id] = *s
		}
		for a, o := range n.owners {
			owners[a.String()] = o.String()
		}
		nodes := map[string]int{}
		for a, k := range n.nodes {
			nodes[a.String()] = k
		}
		out[id] = fmt.Sprint(n.settings, ends, services, owners, nodes, n.rules)
	}
	return out
}

// FuzzDeclare: whatever comes over the wire is refused or makes a plan in which
// nothing is had twice, and the same comes out of the same.
func FuzzDeclare(f *testing.F) {
	b, err := proto.Marshal(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	first, err := parse(sample())
	if err != nil {
		f.Fatal(err)
	}
	b, err = proto.Marshal(&netdpb.OverlayRequest{Generation: 2, Base: 1, Removed: []string{ids[6]}, Networks: []*netdpb.OverlayNetwork{{Id: ids[0], Changes: true,
		RemovedEndpoints: []string{ids[4]}, RemovedServices: []string{ids[5]}, RulesChanged: true, Services: []*netdpb.OverlayService{{ServiceId: ids[2]}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var req netdpb.OverlayRequest
		if proto.Unmarshal(b, &req) != nil {
			return
		}
		d, err := parse(&req)
		if err != nil {
			return
		}
		base, _, err := emptyPlan().merge(first)
		if err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprint(base.describe())
		next, _, err := base.merge(d)
		if err == nil {
			next.check(t)
		} else if fmt.Sprint(base.describe()) != before {
			t.Fatal("a plan was changed by one that was refused")
		}
	})
}

// check fails unless everything in the plan is had by one.
func (p *plan) check(t rapid.TB) {
	vnis, netnss, seats := map[uint32]string{}, map[string]string{}, map[seat]string{}
	var prefixes []netip.Prefix
	for id, n := range p.networks {
		if vnis[n.vni] != "" || netnss[n.netns] != "" || n.vni == 0 || strings.Contains(n.netns, "/") {
			t.Fatalf("network %s: vni %d or netns %q", id, n.vni, n.netns)
		}
		vnis[n.vni], netnss[n.netns] = id, id
		for _, s := range n.subnets {
			if !s.prefix.IsValid() {
				continue
			}
			for _, o := range prefixes {
				if o.Overlaps(s.prefix) {
					t.Fatalf("%s overlaps %s", o, s.prefix)
				}
			}
			prefixes = append(prefixes, s.prefix)
		}
		owners, nodes := map[netip.Addr]string{}, map[netip.Addr]int{}
		own := func(who string, addrs [2]netip.Addr) {
			for i, a := range addrs {
				if !a.IsValid() {
					continue
				}
				if owners[a] != "" || !n.subnets[i].prefix.Contains(a) || a == n.subnets[i].gateway {
					t.Fatalf("%s has %s, as has %q", who, a, owners[a])
				}
				if n.owners[a].String() != who {
					t.Fatalf("%s has %s, and %s is said to", who, a, n.owners[a])
				}
				owners[a] = who
			}
		}
		for task, e := range n.endpoints {
			own("task "+task, e.addrs)
			if !e.local() {
				nodes[e.node]++
				continue
			}
			if seats[seat{e.netns, e.index}] != "" {
				t.Fatalf("two tasks on interface %d of %s", e.index, e.netns)
			}
			seats[seat{e.netns, e.index}] = id
		}
		for sid, s := range n.services {
			own("service "+sid, s.vips)
		}
		if len(owners) != len(n.owners) || !maps.Equal(nodes, n.nodes) {
			t.Fatalf("network %s: %v owned, %v kept; nodes %v, kept %v", id, owners, n.owners, nodes, n.nodes)
		}
	}
	if !maps.Equal(vnis, p.vnis) || !maps.Equal(netnss, p.netnss) || !maps.Equal(seats, p.seats) {
		t.Fatalf("kept are %v %v %v", p.vnis, p.netnss, p.seats)
	}
}
