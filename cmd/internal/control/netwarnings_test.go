package control_test

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestNetworkWarnings: what is stored as asked for, and not meant, is said.
func TestNetworkWarnings(t *testing.T) {
	w := newWorld(t)
	has := func(what string, got []string, want ...string) {
		t.Helper()
		if len(got) != len(want) {
			t.Errorf("%s: warnings %q, want %d", what, got, len(want))
			return
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("%s: warning %q, want %q", what, got[i], want[i])
			}
		}
	}
	if err := w.store.Update(t.Context(), func(tx *raftstore.Tx) error {
		return schedstore.SetNodeState(tx, w.worker, schedulerpb.NodeState_NODE_STATE_READY, "", "10.77.3.9")
	}); err != nil {
		t.Fatal(err)
	}
	network := func(sp *meshpb.NetworkSpec) []string {
		t.Helper()
		r, err := w.api.CreateNetwork(t.Context(), &controlpb.CreateNetworkRequest{Spec: sp})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetWarnings()
	}
	has("a subnet with a node", network(&meshpb.NetworkSpec{Name: "lan", Subnets: []*meshpb.Subnet{{Subnet: "10.77.0.0/16"}}}),
		"subnet 10.77.0.0/16 has the addresses of nodes in it (worker-1 10.77.3.9)")
	has("one without", network(&meshpb.NetworkSpec{Name: "front", DefaultDeny: true}))

	service := func(name string, networks ...string) []string {
		t.Helper()
		r, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.on(name, networks...)})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetWarnings()
	}
	plain := len(service("plain"))
	service("web", "front,www", "lan")
	has("another's name as alias", service("thief", "front,web")[plain:], "alias web on network front is the name of another service there")
	has("another's alias as name", service("www", "front")[plain:], "name www is also an alias of service web on network front")
	has("the same alias twice", service("twin", "front,www2")[plain:])

	policy := func(name, network, from, to string) []string {
		t.Helper()
		r, err := w.api.CreatePolicy(t.Context(), &controlpb.CreatePolicyRequest{Spec: &meshpb.PolicySpec{Name: name, Network: network,
			Rules: []*meshpb.PolicyRule{{FromService: from, ToService: to}}}})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetWarnings()
	}
	has("a policy of services that are there", policy("good", "front", "web", "thief"))
	has("a policy without effect", policy("idle", "lan", "web", "later"), "network lan was not made with --default-deny", "no service later is on network lan")
}

// TestNamesAndServers: what --host hides is said, to who hides it and to who is hidden;
// servers that are nodes are refused, and those that nobody asks are a warning.
func TestNamesAndServers(t *testing.T) {
	w := newWorld(t)
	if err := w.store.Update(t.Context(), func(tx *raftstore.Tx) error {
		return schedstore.SetNodeState(tx, w.worker, schedulerpb.NodeState_NODE_STATE_READY, "", "10.77.3.9")
	}); err != nil {
		t.Fatal(err)
	}
	for name, internal := range map[string]bool{"front": false, "back": true} {
		if _, err := w.api.CreateNetwork(t.Context(), &controlpb.CreateNetworkRequest{Spec: &meshpb.NetworkSpec{Name: name, DefaultDeny: true, Internal: internal}}); err != nil {
			t.Fatal(err)
		}
	}
	create := func(name, network string, change func(*taskpb.ContainerSpec)) (string, error) {
		sp := w.on(name, network)
		change(sp.Task.Container)
		r, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: sp})
		return strings.Join(r.GetWarnings(), "; "), err
	}
	nothing := func(*taskpb.ContainerSpec) {}
	hosts := func(name string) func(*taskpb.ContainerSpec) {
		return func(c *taskpb.ContainerSpec) { c.Hosts = []*taskpb.Host{{Name: name, Address: "192.0.2.1"}} }
	}
	servers := func(s string) func(*taskpb.ContainerSpec) {
		return func(c *taskpb.ContainerSpec) { c.Dns = &taskpb.DNS{Servers: []string{s}} }
	}
	for _, tc := range []struct {
		name, network string
		change        func(*taskpb.ContainerSpec)
		want          string
	}{
		{"db", "front", nothing, ""},
		{"web", "front", hosts("DB"), "the host db is what --host says, and not service db of network front"},
		{"elsewhere", "back", hosts("db"), ""},
		{"self", "front", hosts("self"), "and not this service"},
		{"later", "front", hosts("cache"), ""},
		{"cache", "front", nothing, "in containers of service later the host cache"},
		{"asks", "front", servers("192.0.2.53"), ""},
		{"deaf", "back", servers("192.0.2.53"), "is of no use there"},
	} {
		got, err := create(tc.name, tc.network, tc.change)
		if err != nil || tc.want == "" && strings.Contains(got, "host") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q %v, want %q", tc.name, got, err, tc.want)
		}
	}
	if _, err := create("sly", "front", servers("10.77.3.9")); err == nil || !strings.Contains(err.Error(), "is node worker-1") {
		t.Errorf("a node as a server: %v", err)
	}
}
