package netview_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/netview/netviewtest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// text is all that is held, the same for the same.
func text(h *netviewtest.Held) string {
	var b strings.Builder
	fmt.Fprintf(&b, "self %s\n", wire(h.Self))
	for _, id := range slices.Sorted(maps.Keys(h.Networks)) {
		n := h.Networks[id]
		fmt.Fprintf(&b, "network %s\n", wire(n.Head))
		for _, id := range slices.Sorted(maps.Keys(n.Endpoints)) {
			fmt.Fprintf(&b, "  endpoint %s\n", wire(n.Endpoints[id]))
		}
		for _, id := range slices.Sorted(maps.Keys(n.Services)) {
			fmt.Fprintf(&b, "  service %s\n", wire(n.Services[id]))
		}
		fmt.Fprintf(&b, "  entries %q\n", slices.Sorted(maps.Keys(n.Entries)))
		for _, r := range n.Policy {
			fmt.Fprintf(&b, "  rule %s\n", wire(r))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(h.Peers)) {
		fmt.Fprintf(&b, "peer %s\n", wire(h.Peers[id]))
	}
	fmt.Fprintf(&b, "pools %q\nnodes %q\npublished %q\n", slices.Sorted(maps.Keys(h.Pools)), slices.Sorted(maps.Keys(h.Nodes)), slices.Sorted(maps.Keys(h.Published)))
	return b.String()
}

func wire[M proto.Message](m M) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%q", data)
}

// TestLargeSetsComeInParts: none is too large for gRPC, none takes effect before
// its end, and together they say the same.
func TestLargeSetsComeInParts(t *testing.T) {
	id := func(i int) string { return fmt.Sprintf("%025d", i) }
	set := &schedulerpb.NetworkSet{Complete: true, Self: &schedulerpb.PeerView{NodeId: "me", MeshAddress: "198.18.0.1"}}
	for i := range 3000 {
		set.Peers = append(set.Peers, &schedulerpb.PeerView{NodeId: id(i), MeshAddress: "198.18.0.2", Underlay: "192.0.2.1:7946"})
	}
	for n := range 400 {
		v := &schedulerpb.NetworkView{Id: id(n), Name: "small", Vni: uint32(n)}
		if n%100 == 0 {
			for i := range 12000 {
				v.Endpoints = append(v.Endpoints, &schedulerpb.EndpointView{TaskId: id(i), ServiceId: id(i / 10), NodeId: id(i % 50), Addresses: []string{"10.200.1.7"}})
			}
			for i := range 1200 {
				v.Services = append(v.Services, &schedulerpb.NetworkServiceView{ServiceId: id(i), Name: "web" + id(i), Aliases: []string{strings.Repeat("x", 63)}})
			}
			for i := range 2000 {
				v.Policy = append(v.Policy, &schedulerpb.PolicyRuleView{PolicyId: id(i), PolicyName: strings.Repeat("p", 63)})
			}
		}
		set.Update = append(set.Update, v)
	}
	for i := range 65535 {
		set.Published = append(set.Published, fmt.Sprintf("udp/%d", i+1))
		set.Nodes = append(set.Nodes, fmt.Sprintf("192.168.%d.%d", i/256, i%256))
	}
	whole := proto.CloneOf(set)
	whole.Sequence = 1
	var want, got netviewtest.Held
	if _, err := want.Apply(whole); err != nil {
		t.Fatal(err)
	}
	parts := netview.Split(set)
	for i, m := range parts {
		m.Sequence = uint64(i + 1)
		if n := proto.Size(m); n > 2*netview.MaxBytes {
			t.Errorf("part %d has %d bytes", i, n)
		}
		news, err := got.Apply(m)
		if err != nil {
			t.Fatal(err)
		}
		if last := i == len(parts)-1; (news != nil) != last || m.More == last {
			t.Fatalf("part %d of %d: more %v, in effect %v", i+1, len(parts), m.More, news != nil)
		}
	}
	if len(parts) < 5 {
		t.Errorf("%d parts", len(parts))
	}
	if text(&want) != text(&got) {
		t.Error("the parts do not come to the whole")
	}
}

// TestMalformedSets: what no manager sends ends the session and changes nothing.
func TestMalformedSets(t *testing.T) {
	first := &schedulerpb.NetworkSet{Complete: true, Sequence: 1, Update: []*schedulerpb.NetworkView{{Id: "n"}}}
	for name, m := range map[string]*schedulerpb.NetworkSet{
		"a gap":                   {Sequence: 3},
		"again":                   {Sequence: 1},
		"an unknown network":      {Sequence: 2, Update: []*schedulerpb.NetworkView{{Id: "x", Changes: true}}},
		"takes back unknown":      {Sequence: 2, Remove: []string{"x"}},
		"no id":                   {Sequence: 2, Update: []*schedulerpb.NetworkView{{}}},
		"new with removals":       {Sequence: 2, Update: []*schedulerpb.NetworkView{{Id: "n", RemoveEndpoints: []string{"t"}}}},
		"a peer without address":  {Sequence: 2, Peers: []*schedulerpb.PeerView{{NodeId: "p"}}},
		"changes after a removal": {Sequence: 2, Remove: []string{"n"}, Update: []*schedulerpb.NetworkView{{Id: "n", Changes: true}}},
	} {
		var h netviewtest.Held
		if _, err := h.Apply(first); err != nil {
			t.Fatal(err)
		}
		before := text(&h)
		if _, err := h.Apply(m); err == nil || text(&h) != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	var h netviewtest.Held
	if _, err := h.Apply(&schedulerpb.NetworkSet{Sequence: 1}); err == nil {
		t.Error("the first set need not be complete")
	}
	h.Restart()
	if _, err := h.Apply(&schedulerpb.NetworkSet{Sequence: 1, Complete: true, More: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(&schedulerpb.NetworkSet{Sequence: 2, Complete: true}); err == nil {
		t.Error("a set may begin within another")
	}
}
