package overlay

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// somePorts is any view of two ingress networks at most, and tasks of this node.
func somePorts(t *rapid.T) (*View, []Task, bool) {
	v := &View{Self: Node{ID: "self", Mesh: netip.MustParsePrefix("198.18.0.1/15")}, Networks: map[string]*Network{},
		Peers: map[string]Node{"n1": {ID: "n1", Mesh: netip.MustParsePrefix("198.18.0.2/15")}, "n2": {ID: "n2", Mesh: netip.MustParsePrefix("198.18.0.3/15")}}}
	v.Pools = rapid.SampledFrom([][]netip.Prefix{nil, {netip.MustParsePrefix("10.200.0.0/13")}, {netip.MustParsePrefix("10.128.0.0/13"), netip.MustParsePrefix("fd00:8::/48")}}[min(1, rapid.IntRange(0, 9).Draw(t, "told")):]).Draw(t, "pools")
	subnet := rapid.SampledFrom([]string{"10.255.0.0/16", "10.255.0.0/16", "10.254.0.0/16"}).Draw(t, "subnet")
	for i, id := range nets {
		if !rapid.Bool().Draw(t, "there") {
			continue
		}
		n := &Network{ID: id, Kind: meshpb.Kind_KIND_INGRESS, VNI: uint32(5000 + i), ServiceID: services[i], Entries: map[string]bool{}, Endpoints: map[string]Endpoint{},
			Subnets: []Subnet{{netip.MustParsePrefix(subnet), netip.Addr{}}, {netip.MustParsePrefix("fd00:9::/64"), netip.Addr{}}}}
		for _, node := range rapid.SliceOfDistinct(rapid.SampledFrom(nodes), rapid.ID).Draw(t, "entries") {
			n.Entries[node] = true
		}
		for j := range rapid.IntRange(1, 2).Draw(t, "ports") {
			n.Ports = append(n.Ports, Port{Published: uint16(8000 + 10*i + j), Target: 80, UDP: rapid.Bool().Draw(t, "udp")})
		}
		for j := range rapid.IntRange(0, 4).Draw(t, "tasks") {
			n.Endpoints[fmt.Sprint("task", 10*i+rapid.IntRange(0, 6).Draw(t, "task"))] = Endpoint{Service: services[i], Node: rapid.SampledFrom(nodes).Draw(t, "node"),
				Addrs: Addrs{netip.MustParseAddr(fmt.Sprintf("10.255.%d.%d", i, 10+j))}, Serving: rapid.Bool().Draw(t, "serving")}
		}
		v.Networks[id] = n
	}
	var tasks []Task
	for k := range rapid.IntRange(0, 2).Draw(t, "own") {
		tasks = append(tasks, Task{ID: fmt.Sprint("own", k), Netns: fmt.Sprint("own", k), Bridged: rapid.Bool().Draw(t, "bridged"), Serving: rapid.Bool().Draw(t, "serving"),
			Attachments: []Attachment{{Network: nets[k], Addrs: Addrs{netip.MustParseAddr(fmt.Sprintf("10.255.%d.100", k)), netip.MustParseAddr(fmt.Sprintf("fd00:9::%d", 100+k))}}}})
	}
	return v, tasks, rapid.IntRange(0, 5).Draw(t, "made") > 0
}

// A difference on top of what was declared is the same as all of it at once.
func TestDifferencesOfPorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var told *ingressPlan
		have := &netdpb.IngressRequest{}
		for g := uint64(1); g < 6; g++ {
			p := makeIngress(somePorts(t))
			want := p.whole(g)
			if told == nil {
				have = proto.CloneOf(want)
			} else if d := p.difference(told, map[string]bool{"own0": true}, g, g-1); d != nil {
				have = appliedPorts(have, d)
			}
			told, have.Generation = p, g
			if len(p.services) == 0 { // what is left of the form does not matter
				have.Subnet, have.Subnet6, have.Netns, have.Pools = want.Subnet, want.Subnet6, want.Netns, want.Pools
			}
			if want.Pools == nil { // then they are as before
				want.Pools = have.Pools
			}
			if !proto.Equal(have, want) {
				t.Fatalf("have %v\nwant %v", have, want)
			}
		}
	})
}

// appliedPorts is what netd makes of a difference.
func appliedPorts(have, d *netdpb.IngressRequest) *netdpb.IngressRequest {
	if d.Base == 0 {
		out := proto.CloneOf(d)
		if out.Pools == nil {
			out.Pools = have.Pools
		}
		return out
	}
	out := proto.CloneOf(have)
	if d.Pools != nil {
		out.Pools = d.Pools
	}
	all := map[string]*netdpb.IngressService{}
	for _, s := range have.Services {
		all[s.ServiceId] = s
	}
	for _, id := range d.Removed {
		delete(all, id)
	}
	for _, s := range d.Services {
		if old := all[s.ServiceId]; s.Changes {
			m := proto.CloneOf(old)
			if s.Entry != nil {
				m.Entry = s.Entry
			}
			entries, endpoints := map[string]bool{}, map[string]*netdpb.IngressEndpoint{}
			for _, a := range append(m.Entries, s.Entries...) {
				entries[a] = true
			}
			for _, a := range s.RemovedEntries {
				delete(entries, a)
			}
			for _, e := range append(m.Endpoints, s.Endpoints...) {
				endpoints[e.TaskId] = e
			}
			for _, id := range s.RemovedEndpoints {
				delete(endpoints, id)
			}
			m.Entries, m.Endpoints = slices.Sorted(maps.Keys(entries)), nil
			for _, id := range slices.Sorted(maps.Keys(endpoints)) {
				m.Endpoints = append(m.Endpoints, endpoints[id])
			}
			s = m
		}
		all[s.ServiceId] = s
	}
	out.Services = nil
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out.Services = append(out.Services, all[id])
	}
	return out
}

// A task on networks and with published ports has interfaces and names of the
// former alone.
func TestPortsAreNoNetwork(t *testing.T) {
	web := &Network{ID: "web", Kind: meshpb.Kind_KIND_INGRESS, VNI: 5000, ServiceID: "s1", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.255.0.0/16")}}}
	back := &Network{ID: nets[0], Kind: meshpb.Kind_KIND_OVERLAY, VNI: 4096, Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.200.0.0/24")}}}
	v := &View{Self: Node{ID: "self", Mesh: netip.MustParsePrefix("198.18.0.1/15")}, Networks: map[string]*Network{"web": web, nets[0]: back}}
	ing, own := Attachment{Network: "web", Addrs: Addrs{netip.MustParseAddr("10.255.0.9")}}, Attachment{Network: nets[0], Addrs: Addrs{netip.MustParseAddr("10.200.0.9")}}
	tasks := []Task{{ID: "both", Netns: "both", Attachments: []Attachment{ing, own}}, {ID: "plain", Netns: "plain", Bridged: true, Attachments: []Attachment{ing}}}
	if p := makePlan(v, tasks, map[string]bool{nets[0]: true, "web": true}); len(p.networks) != 1 || len(p.networks[nets[0]].endpoints) != 1 || p.networks[nets[0]].endpoints["both"].index != 0 {
		t.Errorf("%+v", p.networks)
	}
	if n := makeNames(v, tasks, nil); len(n.sandboxes) != 1 || len(n.sandboxes["both"].Addresses) != 1 || len(n.networks) != 1 {
		t.Errorf("%+v", n)
	}
	web.Entries, web.Ports = map[string]bool{"self": true}, []Port{{Published: 80, Target: 80}, {Published: 81, Target: 80, UDP: true, Proxy: true}, {Published: 82, Target: 80, Proxy: true}}
	if p := makeIngress(v, tasks, true).whole(1); len(p.Services[0].Ports) != 2 || p.Services[0].Ports[1].Target != 61082 {
		t.Errorf("ports with a header are declared without one: %v", p)
	}
	m := &Manager{view: v, tasks: tasks, known: true}
	if u := m.Unpublished(); len(u) != 1 || u[0] != "port 81/udp: the PROXY protocol is for TCP" {
		t.Errorf("%q", u)
	}
	m.ingress.found("", nil, []string{"clients in a LAN are seen as the node itself"}) // it hinders no task
	if u := m.Unpublished(); len(u) != 2 || u[0] != "clients in a LAN are seen as the node itself" || m.ingress.degraded != "" {
		t.Errorf("%q", u)
	}
	states, _ := m.States()
	if s := states["plain"]; s.Internal || !s.Known || s.Waiting != "published ports: waiting for rund to make their namespace" {
		t.Errorf("%+v", s)
	}
}
