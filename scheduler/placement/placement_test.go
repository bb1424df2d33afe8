package placement

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var now = time.Unix(1_000_000, 0)

// node returns a ready node with 4 cores and 8 GiB, changed by fns.
func node(id string, fns ...func(*schedulerpb.Node)) *schedulerpb.Node {
	n := &schedulerpb.Node{
		Id: id, Availability: store.Active, State: schedulerpb.NodeState_NODE_STATE_READY,
		Description: &schedulerpb.NodeDescription{
			Hostname: "host-" + id, Os: "linux", Arch: "amd64",
			Resources: &taskpb.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
		},
	}
	for _, fn := range fns {
		fn(n)
	}
	return n
}

func meshed(present bool) func(*schedulerpb.Node) {
	return func(n *schedulerpb.Node) {
		n.Description.Features = append(n.Description.Features, &taskpb.Feature{Name: meshspec.MeshFeature, Present: present})
	}
}

func inFIPSMode(n *schedulerpb.Node) {
	n.Description.Features = append(n.Description.Features, &taskpb.Feature{Name: meshspec.FIPSFeature, Present: true})
}

func compile(t testing.TB, service string, spec *taskpb.TaskSpec) *Request {
	t.Helper()
	r, err := Compile(service, 1, spec, func(n string) string {
		if n == "local" {
			return "cni:lan"
		}
		return meshspec.MeshFeature
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func task(id, service, nodeID string, state schedulerpb.TaskState) *schedulerpb.Task {
	return &schedulerpb.Task{
		Id: id, ServiceId: service, Revision: 1, NodeId: nodeID, Desired: store.Running,
		Status: &schedulerpb.TaskStatus{State: state}, Meta: &raftstorepb.Meta{UpdatedAt: now.UnixNano()},
	}
}

func TestEveryRefusalExplainsItself(t *testing.T) {
	port := []*taskpb.Port{{Published: 8080, Target: 80, Protocol: taskpb.Port_PROTOCOL_TCP}}
	label := func(v string) func(*schedulerpb.Node) {
		return func(n *schedulerpb.Node) { n.Labels = map[string]string{"disk": v} }
	}
	constrained := func(c ...string) *taskpb.TaskSpec { return &taskpb.TaskSpec{Constraints: c} }
	for _, tc := range []struct {
		name  string
		nodes []*schedulerpb.Node
		spec  *taskpb.TaskSpec
		want  string
	}{
		{"no nodes", nil, &taskpb.TaskSpec{}, "no suitable node (the cluster has none: join a worker)"},
		{"state", []*schedulerpb.Node{
			node("a", func(n *schedulerpb.Node) { n.State = schedulerpb.NodeState_NODE_STATE_DOWN }),
			node("b", func(n *schedulerpb.Node) { n.State = schedulerpb.NodeState_NODE_STATE_UNKNOWN }),
			node("c", func(n *schedulerpb.Node) { n.State = schedulerpb.NodeState_NODE_STATE_UNKNOWN }),
		}, &taskpb.TaskSpec{}, "no suitable node (2 not ready, 1 down)"},
		{"availability", []*schedulerpb.Node{
			node("a", func(n *schedulerpb.Node) { n.Availability = store.Pause }),
			node("b", func(n *schedulerpb.Node) { n.Availability = store.Drain }),
			node("c", func(n *schedulerpb.Node) { n.Availability, n.AutoDrained = store.Auto, true }),
			node("d", func(n *schedulerpb.Node) { n.Availability = 0 }),
		}, &taskpb.TaskSpec{}, "no suitable node (2 paused, 2 drained)"},
		{"feature", []*schedulerpb.Node{node("a", func(n *schedulerpb.Node) {
			n.Description.Features = []*taskpb.Feature{{Name: "overlayfs", Required: true}, {Name: "gvisor"}}
		})}, &taskpb.TaskSpec{}, "no suitable node (1 lacks the required feature overlayfs)"},
		{"network", []*schedulerpb.Node{node("a"), node("b", func(n *schedulerpb.Node) {
			n.Description.Features = []*taskpb.Feature{{Name: "cni:lan"}}
		})}, &taskpb.TaskSpec{Networks: []*taskpb.NetworkUse{{Network: "local"}}}, "no suitable node (1 cannot use cni:lan (node inspect says why), 1 lacks the feature cni:lan)"},
		{"label", []*schedulerpb.Node{node("a"), node("b", label("hdd"))},
			constrained("node.labels.disk==ssd"), "no suitable node (2 lack label disk=ssd)"},
		{"label not", []*schedulerpb.Node{node("a", label("hdd"))},
			constrained("node.labels.disk!=hdd"), "no suitable node (1 has label disk=hdd)"},
		{"role", []*schedulerpb.Node{node("a", func(n *schedulerpb.Node) { n.Manager = true })},
			constrained("node.role==worker"), "no suitable node (1 does not match node.role==worker)"},
		{"role not", []*schedulerpb.Node{node("a")},
			constrained("node.role!=worker"), "no suitable node (1 does not match node.role!=worker)"},
		{"hostname, os, arch", []*schedulerpb.Node{node("a")},
			constrained("node.hostname==host-a", "node.platform.os==linux", "node.platform.arch==arm64"),
			"no suitable node (1 does not match node.platform.arch==arm64)"},
		{"platform", []*schedulerpb.Node{node("a")},
			&taskpb.TaskSpec{Platforms: []string{"linux/arm64"}}, "no suitable node (1 is linux/amd64, for which there is no image)"},
		{"mesh", []*schedulerpb.Node{node("a"), node("b"), node("c", meshed(false))},
			&taskpb.TaskSpec{Networks: []*taskpb.NetworkUse{{Network: "local"}, {Network: "back"}}},
			"no suitable node (1 cannot make tunnels for networks: see node inspect, 2 are not part of the mesh that its networks need)"},
		{"mesh in FIPS mode", []*schedulerpb.Node{node("a", inFIPSMode), node("b", inFIPSMode, meshed(true))},
			&taskpb.TaskSpec{Networks: []*taskpb.NetworkUse{{Network: "back"}}},
			"no suitable node (2 in FIPS mode, without tunnels for networks: FIPS needs the IPsec driver, which this version has not)"},
		{"mesh for the routing mesh", []*schedulerpb.Node{node("a")},
			&taskpb.TaskSpec{Ports: []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}},
			"no suitable node (1 is not part of the mesh that its networks need)"},
		{"cpu", []*schedulerpb.Node{node("a"), node("b")},
			&taskpb.TaskSpec{Reservations: &taskpb.Resources{NanoCpus: 4.5e9}}, "no suitable node (2 lack 4.5 free cores)"},
		{"memory", []*schedulerpb.Node{node("a")},
			&taskpb.TaskSpec{Reservations: &taskpb.Resources{MemoryBytes: 9 << 30}}, "no suitable node (1 lacks 9 GiB of free memory)"},
		{"nothing known of resources", []*schedulerpb.Node{node("a", func(n *schedulerpb.Node) { n.Description = nil })},
			&taskpb.TaskSpec{Reservations: &taskpb.Resources{MemoryBytes: 1}}, "no suitable node (1 lacks 1 bytes of free memory)"},
		{"max per node", []*schedulerpb.Node{node("holder")},
			&taskpb.TaskSpec{MaxPerNode: 1}, "no suitable node (1 has 1 of it, as many as one node may have)"},
		{"port", []*schedulerpb.Node{node("busy")},
			&taskpb.TaskSpec{Ports: port}, "no suitable node (1 has port 8080/tcp in use)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := NewCluster()
			for _, n := range tc.nodes {
				c.SetNode(n)
			}
			c.SetTask(task("t", "other", "busy", store.Running), compile(t, "other", &taskpb.TaskSpec{Ports: port}))
			r := compile(t, "svc", tc.spec)
			c.SetTask(task("h", "svc", "holder", store.Running), r)
			got, refusal := c.Place(r, 1, now)
			if len(got) != 0 || refusal.String() != tc.want {
				t.Fatalf("placed on %v, %q; want %q", got, refusal, tc.want)
			}
			for _, n := range tc.nodes {
				if c.Check(r, n.GetId()) == nil {
					t.Errorf("Check lets node %s pass", n.GetId())
				}
			}
		})
	}
}

func TestPortsOfDifferentAddressesAndProtocolsFit(t *testing.T) {
	p := func(proto taskpb.Port_Protocol, ip string) *taskpb.TaskSpec {
		return &taskpb.TaskSpec{Ports: []*taskpb.Port{{Published: 53, Target: 53, Protocol: proto, HostIp: ip}}}
	}
	c := NewCluster()
	c.SetNode(node("a"))
	c.SetTask(task("t", "one", "a", store.Running), compile(t, "one", p(taskpb.Port_PROTOCOL_TCP, "10.0.0.1")))
	for _, tc := range []struct {
		spec *taskpb.TaskSpec
		fits bool
	}{
		{p(taskpb.Port_PROTOCOL_TCP, "10.0.0.1"), false},
		{p(taskpb.Port_PROTOCOL_TCP, ""), false},
		{p(taskpb.Port_PROTOCOL_TCP, "10.0.0.2"), true},
		{p(taskpb.Port_PROTOCOL_UDP, ""), true},
	} {
		got, _ := c.Place(compile(t, "two", tc.spec), 2, now)
		if want := map[bool]int{true: 1}[tc.fits]; len(got) != want {
			t.Errorf("%v: placed %d times, %d wanted", tc.spec.Ports[0], len(got), want)
		}
	}
	c.SetTask(task("t", "one", "a", store.Failed), compile(t, "one", p(taskpb.Port_PROTOCOL_TCP, "10.0.0.1")))
	if got, why := c.Place(compile(t, "two", p(taskpb.Port_PROTOCOL_TCP, "")), 1, now); len(got) != 1 {
		t.Errorf("the port of a task that ended is still taken: %v", why)
	}
}

func TestSpreadByServiceThenLoadThenID(t *testing.T) {
	c := NewCluster()
	for _, id := range []string{"a", "b", "c"} {
		c.SetNode(node(id))
	}
	free := &taskpb.TaskSpec{}
	c.SetTask(task("1", "svc", "a", store.Running), compile(t, "svc", free))
	c.SetTask(task("2", "other", "b", store.Running), compile(t, "other", free))
	c.SetTask(task("3", "other", "b", store.Running), compile(t, "other", free))
	got, _ := c.Place(compile(t, "svc", free), 5, now)
	if want := "[c b a c b]"; fmt.Sprint(got) != want {
		t.Fatalf("placed %v, want %v", got, want)
	}
}

func TestANodeWhereItKeepsFailingComesLast(t *testing.T) {
	c := NewCluster()
	c.SetNode(node("a"))
	c.SetNode(node("b"))
	r := compile(t, "svc", &taskpb.TaskSpec{})
	for i := range failureThreshold {
		c.SetTask(task(fmt.Sprint(i), "svc", "a", store.Rejected), r)
	}
	if got, _ := c.Place(r, 2, now); fmt.Sprint(got) != "[b b]" {
		t.Errorf("placed %v where tasks were rejected", got)
	}
	if got, _ := c.Place(r, 2, now.Add(failureWindow)); fmt.Sprint(got) != "[a b]" {
		t.Errorf("placed %v although the failures are old", got)
	}
	c.RemoveTask("0")
	if got, _ := c.Place(r, 2, now); fmt.Sprint(got) != "[a b]" {
		t.Errorf("placed %v although a failure was forgotten", got)
	}
}

// TestIncrementsGiveWhatAFreshStartGives: however a cluster came to be, it
// answers like one that was told only of what is.
func TestIncrementsGiveWhatAFreshStartGives(t *testing.T) {
	spec := &taskpb.TaskSpec{
		Reservations: &taskpb.Resources{NanoCpus: 1e9, MemoryBytes: 1 << 30},
		Ports:        []*taskpb.Port{{Published: 80, Target: 80, Protocol: taskpb.Port_PROTOCOL_TCP}},
	}
	requests := map[string]*Request{
		"ports": compile(t, "ports", spec),
		"plain": compile(t, "plain", &taskpb.TaskSpec{Reservations: &taskpb.Resources{NanoCpus: 5e8}}),
	}
	rapid.Check(t, func(t *rapid.T) {
		c := NewCluster()
		nodes := map[string]*schedulerpb.Node{}
		tasks := map[string]*schedulerpb.Task{}
		id := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) {
				n := node(id.Draw(t, "id"), func(n *schedulerpb.Node) {
					n.State = schedulerpb.NodeState(rapid.IntRange(1, 2).Draw(t, "state"))
				})
				nodes[n.Id] = n
				c.SetNode(n)
			},
			"gone": func(t *rapid.T) {
				n := id.Draw(t, "id")
				delete(nodes, n)
				c.RemoveNode(n)
			},
			"task": func(t *rapid.T) {
				service := rapid.SampledFrom([]string{"ports", "plain"}).Draw(t, "service")
				state := rapid.SampledFrom([]schedulerpb.TaskState{store.Assigned, store.Running, store.Failed, store.Orphaned}).Draw(t, "state")
				x := task(service+rapid.StringMatching(`[0-5]`).Draw(t, "task"), service, id.Draw(t, "node"), state)
				tasks[x.Id] = x
				c.SetTask(x, requests[service])
			},
			"task gone": func(t *rapid.T) {
				x := rapid.SampledFrom([]string{"ports", "plain"}).Draw(t, "service") + rapid.StringMatching(`[0-5]`).Draw(t, "task")
				delete(tasks, x)
				c.RemoveTask(x)
			},
			"": func(t *rapid.T) {
				fresh := NewCluster()
				for x := range maps.Values(tasks) {
					fresh.SetTask(proto.CloneOf(x), requests[x.ServiceId])
				}
				for n := range maps.Values(nodes) {
					fresh.SetNode(n)
				}
				for name, r := range requests {
					got, why := c.Place(r, 4, now)
					want, whyNot := fresh.Place(r, 4, now)
					if fmt.Sprint(got) != fmt.Sprint(want) || (why == nil) != (whyNot == nil) || why != nil && why.String() != whyNot.String() {
						t.Fatalf("%s: %v %v, from a fresh start %v %v", name, got, why, want, whyNot)
					}
				}
			},
		})
	})
}

// TestNeverOverfull: what is placed always fits.
func TestNeverOverfull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := NewCluster()
		for i := range rapid.IntRange(1, 5).Draw(t, "nodes") {
			c.SetNode(node(fmt.Sprint(i)))
		}
		cpu := rapid.Int64Range(1, 5e9).Draw(t, "cpu")
		r := &Request{ServiceID: "svc", nanoCPUs: cpu}
		used := map[string]int64{}
		for round := range 3 {
			got, _ := c.Place(r, rapid.IntRange(0, 20).Draw(t, "n"), now)
			for i, id := range got {
				if used[id] += cpu; used[id] > 4e9 {
					t.Fatalf("node %s holds %d of 4e9", id, used[id])
				}
				c.SetTask(task(fmt.Sprint(round, "/", i), "svc", id, store.Assigned), r)
			}
		}
	})
}

func TestMaxPerNode(t *testing.T) {
	c := NewCluster()
	for i := range 3 {
		c.SetNode(node(fmt.Sprint(i)))
	}
	r := compile(t, "svc", &taskpb.TaskSpec{MaxPerNode: 2})
	c.SetTask(task("there", "svc", "0", store.Running), r)
	got, refusal := c.Place(r, 10, now)
	if want := "no suitable node (3 have 2 of it, as many as one node may have)"; len(got) != 5 || refusal.String() != want {
		t.Fatalf("placed %v, %q; want 5, %q", got, refusal, want)
	}
}

func BenchmarkPlace(b *testing.B) {
	for _, size := range []struct{ nodes, tasks int }{{1000, 1000}, {1000, 10_000}, {1000, 100_000}, {100_000, 1000}} {
		b.Run(fmt.Sprintf("%d tasks on %d nodes", size.tasks, size.nodes), func(b *testing.B) {
			c := NewCluster()
			for i := range size.nodes {
				c.SetNode(node(fmt.Sprintf("%06d", i)))
			}
			place := func(b *testing.B, r *Request) {
				for b.Loop() {
					if got, why := c.Place(r, size.tasks, now); why != nil || len(got) != size.tasks {
						b.Fatal(why)
					}
				}
			}
			b.Run("spread", func(b *testing.B) { place(b, &Request{ServiceID: "svc", nanoCPUs: 1e6, memory: 1 << 20}) })
			for id, n := range c.nodes {
				zone, rack := n.order%3, n.order/256%40
				c.SetNode(node(id, labelled(fmt.Sprint("zone=", zone), fmt.Sprint("rack=", rack))))
			}
			b.Run("zones and racks", func(b *testing.B) {
				place(b, compile(b, "svc", &taskpb.TaskSpec{Preferences: zoned, Reservations: &taskpb.Resources{NanoCpus: 1e6}}))
			})
			b.Run("packed", func(b *testing.B) {
				place(b, compile(b, "svc", &taskpb.TaskSpec{Strategy: spec.BinPack, Reservations: &taskpb.Resources{NanoCpus: 1e6, MemoryBytes: 1 << 20}}))
			})
		})
	}
}

// BenchmarkPreempt looks at 100,000 tasks for whom to stop.
func BenchmarkPreempt(b *testing.B) {
	c := NewCluster()
	low := weighing(b, "low", 0, 0)
	low.nanoCPUs = 4e7
	for i := range 1000 {
		id := fmt.Sprintf("%06d", i)
		c.SetNode(node(id))
		for j := range 100 {
			c.SetTask(task(fmt.Sprint(id, "-", j), "low", id, store.Running), low)
		}
	}
	r := weighing(b, "high", 1, 10)
	r.nanoCPUs = 2e8
	for b.Loop() {
		if p, ok := c.Preempt(r, "", now); !ok || len(p.Victims) != 5 {
			b.Fatal(p)
		}
	}
}
