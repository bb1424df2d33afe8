package agent

import (
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/netview/netviewtest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func networkSeed(more bool) *schedulerpb.NetworkSet {
	network, service, node := ident.New(), ident.New(), ident.New()
	return &schedulerpb.NetworkSet{More: more,
		Self:  &schedulerpb.PeerView{NodeId: ident.New(), MeshAddress: "198.18.0.1", MeshBits: 15},
		Pools: []string{"10.200.0.0/13", "fd12:3456:789a::/48"}, Nodes: []string{"192.0.2.2", "2001:db8::2"}, Published: []string{"tcp/80", "udp/53"},
		Peers: []*schedulerpb.PeerView{{NodeId: node, MeshAddress: "198.18.0.2", MeshBits: 15, Underlay: "192.0.2.2:7946"}},
		Update: []*schedulerpb.NetworkView{{Id: network, Name: "back", Driver: "overlay", Kind: meshpb.Kind_KIND_OVERLAY, Vni: 257,
			Subnets:   []*meshpb.Subnet{{Subnet: "10.200.1.0/24", Gateway: "10.200.1.1"}},
			Services:  []*schedulerpb.NetworkServiceView{{ServiceId: service, Name: "web", Vips: []string{"10.200.1.200"}, Aliases: []string{"www"}}},
			Endpoints: []*schedulerpb.EndpointView{{TaskId: ident.New(), ServiceId: service, NodeId: node, Slot: 1, Addresses: []string{"10.200.1.2"}, Serving: true}},
			Policy: []*schedulerpb.PolicyRuleView{{PolicyId: ident.New(), Rule: &meshpb.PolicyRule{FromService: "web", ToService: "web",
				Protocol: meshpb.Protocol_PROTOCOL_TCP, FirstPort: 80, LastPort: 81}}}}}}
}

// FuzzNetworks: whatever a manager says, the node either has a view of it that is
// sound and within its bounds, and what is simply said the same (netviewtest), or
// refuses it and has what it had before. The messages are the two parts of the
// first set, and a change.
func FuzzNetworks(f *testing.F) {
	seed := func(a, b, c *schedulerpb.NetworkSet) {
		var out [3][]byte
		for i, m := range []*schedulerpb.NetworkSet{a, b, c} {
			out[i], _ = proto.Marshal(m)
		}
		f.Add(out[0], out[1], out[2])
	}
	first, second := networkSeed(true), networkSeed(false)
	id := first.Update[0].Id
	seed(first, second, &schedulerpb.NetworkSet{Remove: []string{id}, RemovePeers: []string{first.Peers[0].NodeId}, RemovePools: first.Pools[:1], Pools: []string{"10.0.0.0/16"},
		RemoveNodes: first.Nodes[:1], RemovePublished: first.Published[1:], Published: []string{"tcp/8080"}})
	seed(first, second, &schedulerpb.NetworkSet{Update: []*schedulerpb.NetworkView{{Id: id, Changes: true, Kind: meshpb.Kind_KIND_OVERLAY, Vni: 257,
		Subnets: first.Update[0].Subnets, RemoveEndpoints: []string{first.Update[0].Endpoints[0].TaskId}, PolicyChanged: true}}})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		n, h := &networks{}, &netviewtest.Held{}
		for i, data := range [][]byte{a, b, c} {
			m := &schedulerpb.NetworkSet{}
			if proto.Unmarshal(data, m) != nil {
				return
			}
			m.Sequence, m.Complete, m.More = uint64(i+1), i == 0, i == 0
			v, err := n.add(m)
			_, simple := h.Apply(m)
			if err != nil {
				return // the session ends
			}
			if v == nil {
				if i > 0 {
					t.Fatal("a whole set made no view")
				}
				continue
			}
			usable(t, v)
			if simple == nil {
				agrees(t, v, h)
			}
		}
	})
}

// usable: every field can be used as it is.
func usable(t *testing.T, v *overlay.View) {
	if len(v.Networks) > maxNetworks || len(v.Peers) > maxPeers {
		t.Fatalf("%d networks and %d peers", len(v.Networks), len(v.Peers))
	}
	for i, p := range v.Pools {
		if p != p.Masked() || p.Bits() < minPoolBits || i > 0 && v.Pools[i-1].Compare(p) >= 0 {
			t.Fatalf("pools %v", v.Pools)
		}
	}
	r := v.Reach
	if len(r.Nodes) > maxAddresses || !slices.IsSortedFunc(r.Nodes, netip.Addr.Compare) || !slices.IsSortedFunc(r.Published, portname.Port.Compare) ||
		slices.ContainsFunc(r.Nodes, func(a netip.Addr) bool { return !a.IsGlobalUnicast() || a.Zone() != "" }) ||
		slices.ContainsFunc(r.Published, func(p portname.Port) bool { return p.Number == 0 }) {
		t.Fatalf("reach %v", r)
	}
	for id, n := range v.Networks {
		if !ident.Valid(id) || n.ID != id || n.VNI >= 1<<24 || len(n.Subnets) > 2 || len(n.Endpoints) > maxEndpoints {
			t.Fatalf("network %+v", n)
		}
		for task, e := range n.Endpoints {
			if !ident.Valid(task) || !ident.Valid(e.Node) || !ident.Valid(e.Service) || !n.Within(e.Addrs) {
				t.Fatalf("endpoint %s %+v", task, e)
			}
		}
		for service, s := range n.Services {
			if !ident.Valid(service) || ident.CheckName(s.Name) != nil || !n.Within(s.VIPs) {
				t.Fatalf("service %s %+v", service, s)
			}
		}
		for _, r := range n.Rules {
			if r.First > r.Last {
				t.Fatalf("rule %+v", r)
			}
		}
	}
}

func agrees(t *testing.T, v *overlay.View, h *netviewtest.Held) {
	if len(v.Networks) != len(h.Networks) || len(v.Peers) != len(h.Peers) {
		t.Fatalf("%d networks and %d peers, said were %d and %d", len(v.Networks), len(v.Peers), len(h.Networks), len(h.Peers))
	}
	if len(v.Pools) > len(h.Pools) { // one may be written in several ways
		t.Fatalf("pools %v, said were %v", v.Pools, h.Pools)
	}
	if len(v.Reach.Nodes) != len(h.Nodes) || len(v.Reach.Published) != len(h.Published) {
		t.Fatalf("reach %v, said were %v at %v", v.Reach, h.Published, h.Nodes)
	}
	for id, n := range v.Networks {
		said := h.Networks[id]
		if said == nil || len(n.Endpoints) != len(said.Endpoints) || len(n.Services) != len(said.Services) || len(n.Rules) != len(said.Policy) {
			t.Fatalf("network %s: %+v, said was %+v", id, n, said)
		}
		for task, e := range n.Endpoints {
			if s := said.Endpoints[task]; s == nil || s.Serving != e.Serving || s.NodeId != e.Node {
				t.Fatalf("endpoint %s: %+v, said was %v", task, e, s)
			}
		}
	}
}
