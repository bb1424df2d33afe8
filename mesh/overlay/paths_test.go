package overlay

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// A task behind no tunnel serves only where its service has no other; and one that
// was reached once does until its node is no peer any more.
func TestUnreachedTasksDoNotServe(t *testing.T) {
	node := func(id string, last byte) Node {
		return Node{ID: id, Mesh: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, last}), 15)}
	}
	view := func(peers ...string) *View {
		v := &View{Self: node("self", 1), Peers: map[string]Node{}, Networks: map[string]*Network{"net": {ID: "net", Endpoints: map[string]Endpoint{
			"own": {Node: "self", Service: "mixed", Serving: true}, "far": {Node: "n1", Service: "mixed", Serving: true},
			"one": {Node: "n1", Service: "spread", Serving: true}, "two": {Node: "n2", Service: "spread", Serving: true},
			"only": {Node: "n1", Service: "single", Serving: true}, "gone": {Node: "n2", Service: "single"},
		}}}}
		for i, id := range peers {
			v.Peers[id] = node(id, byte(2+i))
		}
		return v
	}
	m := &Manager{heard: newHeard(), words: newWords(), netdKick: make(chan struct{}, 1), namesKick: make(chan struct{}, 1), ingressKick: make(chan struct{}, 1)}
	serving := func(what string, want ...string) {
		t.Helper()
		for id, e := range m.view.Networks["net"].Endpoints {
			found := false
			for _, w := range want {
				found = found || w == id
			}
			if e.Serving != found {
				t.Errorf("%s: task %s serves: %v", what, id, e.Serving)
			}
		}
	}
	said := func(v *View) {
		m.mu.Lock()
		m.said = v
		m.view = m.merged()
		m.mu.Unlock()
	}
	all := []string{"own", "far", "one", "two", "only"}
	said(view("n1", "n2"))
	serving("nothing is known of tunnels", all...)
	m.SetTunnels(map[string]bool{})
	said(view("n1", "n2"))
	serving("there is no tunnel", "own", "one", "two", "only")
	m.SetTunnels(map[string]bool{"n2": true})
	said(view("n1", "n2"))
	serving("one tunnel", "own", "two", "only")
	m.SetTunnels(map[string]bool{"n1": true})
	said(view("n1", "n2"))
	serving("both, the other one before", all...)
	said(view("n1"))
	m.SetTunnels(map[string]bool{"n1": true})
	said(view("n1", "n2"))
	serving("n2 was no peer in between", "own", "far", "one", "only")
	if !m.said.Networks["net"].Endpoints["two"].Serving {
		t.Error("what managers said was changed")
	}
}

// A node that answers no more is led to only where nobody else serves, by this node's
// own tasks as they are, and again as soon as it answers.
func TestSilentNodes(t *testing.T) {
	node := func(id string, last byte) Node {
		return Node{ID: id, Mesh: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, last}), 15)}
	}
	m := &Manager{heard: newHeard(), words: newWords(), netdKick: make(chan struct{}, 1), namesKick: make(chan struct{}, 1), ingressKick: make(chan struct{}, 1)}
	m.SetTunnels(map[string]bool{"n1": true, "n2": true})
	m.SetView(&View{Self: node("self", 1), Pools: []netip.Prefix{netip.MustParsePrefix("10.200.0.0/13")}, Peers: map[string]Node{"n1": node("n1", 2), "n2": node("n2", 3)}, Networks: map[string]*Network{"net": {ID: "net", Endpoints: map[string]Endpoint{
		"own": {Node: "self", Service: "mixed", Serving: true}, "far": {Node: "n1", Service: "mixed", Serving: true},
		"one": {Node: "n1", Service: "spread", Serving: true}, "two": {Node: "n2", Service: "spread", Serving: true},
		"only": {Node: "n1", Service: "single", Serving: true},
	}}}})
	for _, c := range []struct {
		what   string
		own    bool
		silent []string
		want   string
	}{
		{"all answer", true, nil, "far one only own two"},
		{"n1 is silent", true, []string{"n1"}, "only own two"},
		{"both are", true, []string{"n1", "n2"}, "one only own two"},
		{"and the own task fails", false, []string{"n1", "n2"}, "far one only own two"},
		{"n1 answers", false, []string{"n2"}, "far one only own"},
		{"all answer again", true, nil, "far one only own two"},
	} {
		silent := map[string]bool{}
		for _, id := range c.silent {
			silent[id] = true
		}
		m.SetSilent(silent)
		m.SetTasks([]Task{{ID: "own", ServiceID: "mixed", Serving: c.own, Attachments: []Attachment{{Network: "net"}}}})
		m.mu.Lock()
		m.view = m.merged()
		var got []string
		for id, e := range m.view.Networks["net"].Endpoints {
			if e.Serving {
				got = append(got, id)
			}
		}
		if !slices.Equal(m.view.Pools, m.said.Pools) {
			t.Errorf("%s: the cluster's addresses are %v, and managers said %v", c.what, m.view.Pools, m.said.Pools)
		}
		m.mu.Unlock()
		slices.Sort(got)
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %s serve, want %s", c.what, text, c.want)
		}
	}
}
