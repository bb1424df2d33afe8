package overlay

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
)

// TestDriven: netd hears nothing of networks that rund's drivers make but where
// named is to have its sockets, and named leads there to this node's own tasks.
func TestDriven(t *testing.T) {
	v := &View{Self: Node{ID: "me", Mesh: netip.MustParsePrefix("198.18.0.1/15")}, Peers: map[string]Node{}, Networks: map[string]*Network{
		"lan":  {ID: "lan", Name: "lan", Driver: "cni", Kind: meshpb.Kind_KIND_LOCAL, Services: map[string]Service{"s1": {Name: "web", Aliases: []string{"www"}}, "s2": {Name: "db"}}},
		"off":  {ID: "off", Name: "off", Driver: "none", Kind: meshpb.Kind_KIND_LOCAL},
		"here": {ID: "here", Name: "here", Driver: "bridge", Kind: meshpb.Kind_KIND_LOCAL, VNI: 9, Subnets: []Subnet{{netip.MustParsePrefix("10.9.0.0/24"), netip.MustParseAddr("10.9.0.1")}}},
		"back": {ID: "back", Name: "back", Driver: "overlay", Kind: meshpb.Kind_KIND_OVERLAY, VNI: 8, Internal: true},
	}}
	lan := Attachment{Network: "lan", Addrs: Addrs{netip.MustParseAddr("10.1.0.2")}, Made: true}
	off, back := Attachment{Network: "off", Made: true}, Attachment{Network: "back", Addrs: Addrs{netip.MustParseAddr("10.8.0.2")}}
	here := Attachment{Network: "here", Addrs: Addrs{netip.MustParseAddr("10.9.0.2")}}
	tasks := []Task{
		{ID: "a", ServiceID: "s1", Netns: "a", Slot: 1, Serving: true, Attachments: []Attachment{lan}},
		{ID: "b", ServiceID: "s1", Netns: "b", Slot: 2, Attachments: []Attachment{lan, here}},
		{ID: "c", ServiceID: "s2", Netns: "c", Attachments: []Attachment{off}},
		{ID: "d", ServiceID: "s2", Netns: "d", Serving: true, Attachments: []Attachment{{Network: "lan", Made: true}, back}},
	}
	p := makePlan(v, tasks, map[string]bool{"lan": true, "off": true, "here": true, "back": true})
	if len(p.networks) != 2 || p.networks["here"].endpoints["b"].index != 1 || p.networks["back"].endpoints["d"].index != 1 {
		t.Errorf("netd is told of %v", p.networks)
	}
	if len(p.sandboxes) != 1 || p.sandboxes["a"] != "a" {
		t.Errorf("and of sandboxes %v", p.sandboxes)
	}
	if req := p.whole(1); len(req.Sandboxes) != 1 || req.Sandboxes[0].Netns != "a" {
		t.Errorf("whole: %v", req)
	}
	less := makePlan(v, tasks[1:], map[string]bool{"here": true, "back": true})
	if req := less.difference(p, nil, 2, 1); !req.GetSandboxesChanged() || len(req.Sandboxes)+len(req.Networks) != 0 {
		t.Errorf("without it: %v", req)
	}
	if req := p.difference(p, nil, 2, 1); req != nil {
		t.Errorf("the same: %v", req)
	}
	n := makeNames(v, tasks, nil)
	if n.sandboxes["c"] != nil || len(n.sandboxes) != 3 || !n.sandboxes["a"].Forward || !slices.Equal(n.sandboxes["b"].Addresses, []string{"10.1.0.2", "10.9.0.2"}) {
		t.Errorf("names for %v", n.sandboxes)
	}
	var served []string
	for _, s := range n.networks["lan"].Services {
		for _, task := range s.Tasks {
			served = append(served, s.Name+" "+task.Id)
		}
	}
	if !slices.Equal(served, []string{"web a"}) { // b serves not, d has no address there
		t.Errorf("names lead to %q", served)
	}
	m, err := New(Config{Netd: &told{}, Named: &told{}})
	if err != nil {
		t.Fatal(err)
	}
	tasks[0].Attachments[0].Made = false
	m.SetView(v)
	m.SetTasks(tasks)
	states, _ := m.States()
	for task, want := range map[string]string{"a": "network lan: waiting for rund to attach it", "b": "network here: waiting for rund to make its namespace", "c": ""} {
		if s := states[task]; s.Waiting != want || s.Internal != (task != "b") {
			t.Errorf("%s: %+v, want it to wait for %q", task, s, want)
		}
	}
	if ids, _ := m.Namespaces(); !slices.Equal(ids, []string{"back", "here"}) {
		t.Errorf("namespaces for %q", ids)
	}
}
