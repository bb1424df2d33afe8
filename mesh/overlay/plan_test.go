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

var (
	nets     = []string{"aaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbba"}
	services = []string{"s1", "s2", "s3"}
	nodes    = []string{"self", "n1", "n2", "gone"}
)

// someView is any view of two networks at most, and tasks of this node on them.
func someView(t *rapid.T) (*View, []Task, map[string]bool) {
	v := &View{Self: Node{ID: "self", Mesh: netip.MustParsePrefix("198.18.0.1/15")}, Networks: map[string]*Network{},
		Peers: map[string]Node{"n1": {ID: "n1", Mesh: netip.MustParsePrefix("198.18.0.2/15")}, "n2": {ID: "n2", Mesh: netip.MustParsePrefix("198.18.0.3/15")}}}
	made := map[string]bool{}
	for i, id := range nets {
		if !rapid.Bool().Draw(t, "there") {
			continue
		}
		made[id] = rapid.IntRange(0, 5).Draw(t, "made") > 0
		n := &Network{ID: id, Name: fmt.Sprint("net", i), Kind: meshpb.Kind_KIND_OVERLAY, VNI: uint32(4096 + i), DefaultDeny: rapid.Bool().Draw(t, "deny"),
			Subnets:   []Subnet{{netip.MustParsePrefix(fmt.Sprintf("10.200.%d.0/24", i)), netip.MustParseAddr(fmt.Sprintf("10.200.%d.1", i))}},
			Endpoints: map[string]Endpoint{}, Services: map[string]Service{}}
		for j := range rapid.IntRange(0, 4).Draw(t, "tasks") {
			n.Endpoints[fmt.Sprint("task", rapid.IntRange(0, 6).Draw(t, "task"))] = Endpoint{Service: rapid.SampledFrom(services).Draw(t, "of"),
				Node: rapid.SampledFrom(nodes).Draw(t, "node"), Addrs: Addrs{netip.MustParseAddr(fmt.Sprintf("10.200.%d.%d", i, 10+j))}, Serving: rapid.Bool().Draw(t, "serving")}
		}
		for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom(services), rapid.ID).Draw(t, "services") {
			s := Service{Name: "name-" + id}
			if rapid.Bool().Draw(t, "vip") {
				s.VIPs = Addrs{netip.MustParseAddr(fmt.Sprintf("10.200.%d.%d", i, 200+rapid.IntRange(0, 3).Draw(t, "vip")))}
			}
			n.Services[id] = s
		}
		for j := range rapid.IntRange(0, 2).Draw(t, "rules") {
			n.Rules = append(n.Rules, Rule{ID: fmt.Sprint("p/", j), From: "name-s1", To: rapid.SampledFrom([]string{"name-s2", "name-s3", "nobody"}).Draw(t, "to"), Protocol: 6, First: 80, Last: 80})
		}
		v.Networks[id] = n
	}
	var tasks []Task
	for k := range rapid.IntRange(0, 2).Draw(t, "own") {
		task := Task{ID: fmt.Sprint("own", k), ServiceID: "s1", Netns: fmt.Sprint("own", k), Serving: rapid.Bool().Draw(t, "serving")}
		for i, id := range nets {
			task.Attachments = append(task.Attachments, Attachment{Network: id, Addrs: Addrs{netip.MustParseAddr(fmt.Sprintf("10.200.%d.%d", i, 100+k))}})
		}
		tasks = append(tasks, task)
	}
	return v, tasks, made
}

// A difference on top of what was declared is the same as all of it at once.
func TestDifferences(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var told *plan
		have := &netdpb.OverlayRequest{}
		for g := uint64(1); g < 6; g++ {
			p := makePlan(someView(t))
			want := p.whole(g)
			if told == nil {
				have = proto.CloneOf(want)
			} else {
				again := map[ref]bool{}
				if rapid.Bool().Draw(t, "again") {
					again[ref{nets[0], "own0"}] = true
				}
				d := p.difference(told, again, g, g-1)
				if d == nil {
					d = &netdpb.OverlayRequest{}
				}
				have = applied(have, d)
			}
			have.Generation = g
			if told = p; !proto.Equal(have, want) {
				t.Fatalf("have %v\nwant %v", have, want)
			}
		}
	})
}

// applied is what netd makes of a difference.
func applied(have, d *netdpb.OverlayRequest) *netdpb.OverlayRequest {
	all := map[string]*netdpb.OverlayNetwork{}
	for _, n := range have.Networks {
		all[n.Id] = n
	}
	for _, id := range d.Removed {
		delete(all, id)
	}
	for _, n := range d.Networks {
		if old := all[n.Id]; n.Changes {
			endpoints, services := map[string]*netdpb.OverlayEndpoint{}, map[string]*netdpb.OverlayService{}
			for _, e := range append(slices.Clone(old.Endpoints), n.Endpoints...) {
				endpoints[e.TaskId] = e
			}
			for _, s := range append(slices.Clone(old.Services), n.Services...) {
				services[s.ServiceId] = s
			}
			for _, id := range n.RemovedEndpoints {
				delete(endpoints, id)
			}
			for _, id := range n.RemovedServices {
				delete(services, id)
			}
			m := proto.CloneOf(old)
			m.Endpoints, m.Services = slices.Collect(maps.Values(endpoints)), slices.Collect(maps.Values(services))
			if n.RulesChanged {
				m.Rules = n.Rules
			}
			n = sorted(m)
		}
		all[n.Id] = n
	}
	out := &netdpb.OverlayRequest{MeshAddress: have.MeshAddress}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out.Networks = append(out.Networks, all[id])
	}
	return out
}

// An address that managers gave away is not declared for a task that is left over.
func TestReusedAddress(t *testing.T) {
	n := &Network{ID: nets[0], Kind: meshpb.Kind_KIND_OVERLAY, VNI: 4096, Endpoints: map[string]Endpoint{
		"new": {Service: "s1", Node: "n1", Addrs: Addrs{netip.MustParseAddr("10.200.0.9")}}}}
	v := &View{Self: Node{ID: "self", Mesh: netip.MustParsePrefix("198.18.0.1/15")}, Networks: map[string]*Network{nets[0]: n},
		Peers: map[string]Node{"n1": {ID: "n1", Mesh: netip.MustParsePrefix("198.18.0.2/15")}}}
	p := makePlan(v, []Task{{ID: "old", Netns: "old", Attachments: []Attachment{{Network: nets[0], Addrs: n.Endpoints["new"].Addrs}}}}, map[string]bool{nets[0]: true})
	if got := p.networks[nets[0]].endpoints; len(got) != 1 || got["new"].node == "" {
		t.Errorf("endpoints %v", got)
	}
}

// named keeps 64 prefixes; more are covered by wider ones.
func TestInternalPrefixes(t *testing.T) {
	v := &View{Networks: map[string]*Network{}}
	for i := range 500 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(i), 0}), 24)
		if i >= 256 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 201, byte(i), 0}), 24)
		}
		v.Networks[fmt.Sprint(i)] = &Network{Subnets: []Subnet{{Prefix: p}, {Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 7: byte(i)}), 64)}}}
	}
	got := internal(v)
	if len(got) > maxInternal {
		t.Fatalf("%d prefixes", len(got))
	}
	for _, n := range v.Networks {
		for _, s := range n.Subnets {
			if !slices.ContainsFunc(got, func(p string) bool { return netip.MustParsePrefix(p).Contains(s.Prefix.Addr()) }) {
				t.Fatalf("%s is not covered by %v", s.Prefix, got)
			}
		}
	}
}
