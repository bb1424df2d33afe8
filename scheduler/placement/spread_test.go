package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func labelled(kv ...string) func(*schedulerpb.Node) {
	return func(n *schedulerpb.Node) {
		n.Labels = map[string]string{}
		for _, s := range kv {
			k, v, _ := strings.Cut(s, "=")
			n.Labels[k] = v
		}
	}
}

var zoned = []string{"spread=node.labels.zone", "spread=node.labels.rack"}

func TestSpreadOverZonesFirst(t *testing.T) {
	c := NewCluster()
	for _, n := range []string{"a1 x 1", "a2 x 1", "a3 x 2", "b1 y 1", "c1 z 1"} {
		f := strings.Fields(n)
		c.SetNode(node(f[0], labelled("zone="+f[1], "rack="+f[2])))
	}
	c.SetNode(node("d1")) // without a zone: one of its own
	r := compile(t, "svc", &taskpb.TaskSpec{Preferences: zoned})
	got, why := c.Place(r, 8, now)
	count := map[string]int{}
	for _, id := range got {
		count[id]++
	}
	if why != nil || count["b1"] != 2 || count["c1"] != 2 || count["d1"] != 2 || count["a3"] != 1 || count["a1"]+count["a2"] != 1 {
		t.Fatalf("placed on %v (%v)", got, why)
	}
	// Two racks of zone x: the one with two nodes has no more than the other.
	if got, _ = c.Place(r, 16, now); len(got) != 16 {
		t.Fatal(got)
	}
	count = map[string]int{}
	for _, id := range got {
		count[id]++
	}
	if count["a1"] != 1 || count["a2"] != 1 || count["a3"] != 2 {
		t.Fatalf("within a zone: %v", count)
	}
}

func TestDrainedNodesDoNotCountForTheirZone(t *testing.T) {
	c := NewCluster()
	drained := func(n *schedulerpb.Node) { n.Availability = store.Drain }
	c.SetNode(node("a1", labelled("zone=a"), drained))
	c.SetNode(node("a2", labelled("zone=a")))
	c.SetNode(node("b1", labelled("zone=b")))
	r := compile(t, "svc", &taskpb.TaskSpec{Preferences: zoned[:1]})
	c.SetTask(task("1", "svc", "a1", store.Running), r)
	c.SetTask(task("2", "svc", "b1", store.Running), r)
	if got, _ := c.Place(r, 1, now); fmt.Sprint(got) != "[a2]" {
		t.Fatalf("what leaves a1 goes to %v", got)
	}
}

func TestFailingNodesComeLastWhateverTheirZone(t *testing.T) {
	c := NewCluster()
	c.SetNode(node("a1", labelled("zone=a")))
	c.SetNode(node("b1", labelled("zone=b")))
	r := compile(t, "svc", &taskpb.TaskSpec{Preferences: zoned[:1]})
	for i := range failureThreshold {
		c.SetTask(task(fmt.Sprint(i), "svc", "a1", store.Rejected), r)
	}
	if got, _ := c.Place(r, 3, now); fmt.Sprint(got) != "[b1 b1 b1]" {
		t.Fatalf("placed %v where tasks were rejected", got)
	}
}

// zonedCluster is one with nodes of some zones and racks, some of them small, and what
// runs there.
func zonedCluster(t *rapid.T, r *Request) *Cluster {
	c := NewCluster()
	for i := range rapid.IntRange(1, 9).Draw(t, "nodes") {
		cores := rapid.Int64Range(0, 6).Draw(t, "cores") * 1e9
		c.SetNode(node(fmt.Sprintf("n%d", i), labelled("zone="+rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "zone"),
			"rack="+rapid.SampledFrom([]string{"1", "2"}).Draw(t, "rack")), func(n *schedulerpb.Node) {
			n.Description.Resources.NanoCpus = cores
		}))
		for j := range rapid.IntRange(0, int(cores/1e9)).Draw(t, "there") {
			c.SetTask(task(fmt.Sprintf("t%d-%d", i, j), "svc", fmt.Sprintf("n%d", i), store.Running), r)
		}
	}
	return c
}

// inBranches counts a service's tasks by the values of the first levels, and says which
// have room.
func inBranches(c *Cluster, r *Request, levels int) (count map[string]int, room map[string]bool) {
	count, room = map[string]int{}, map[string]bool{}
	for _, info := range c.nodes {
		var path []string
		for _, p := range r.preferences[:levels] {
			path = append(path, value(info.node, p))
		}
		if levels > len(r.preferences) {
			path = append(path, info.node.GetId())
		}
		key := strings.Join(path, "/")
		count[key] += c.services[r.ServiceID][info].live
		room[key] = room[key] || info.refuses(r, c.services[r.ServiceID][info].live, 0) == nil
	}
	return count, room
}

// At each level none gets a task while another beside it that has room has fewer.
func TestSpreadIsBalancedAtEachLevel(t *testing.T) {
	r := compile(t, "svc", &taskpb.TaskSpec{Preferences: zoned, Reservations: &taskpb.Resources{NanoCpus: 1e9}})
	rapid.Check(t, func(t *rapid.T) {
		c := zonedCluster(t, r)
		for i, id := range must(c.Place(r, rapid.IntRange(0, 30).Draw(t, "n"), now)) {
			before := map[int]map[string]int{}
			rooms := map[int]map[string]bool{}
			for l := range 3 {
				before[l], rooms[l] = inBranches(c, r, l)
			}
			c.SetTask(task(fmt.Sprint("new", i), "svc", id, store.Assigned), r)
			for l := 1; l < 3; l++ {
				after, _ := inBranches(c, r, l)
				for key, n := range after {
					if n == before[l][key] {
						continue
					}
					above := key[:max(0, strings.LastIndex(key, "/"))]
					for other, m := range before[l] {
						if other[:max(0, strings.LastIndex(other, "/"))] == above && rooms[l][other] && m < n-1 {
							t.Fatalf("%s got its %dth while %s has %d", key, n, other, m)
						}
					}
				}
			}
		}
	})
}

func must(ids []string, _ *Refusal) []string { return ids }

func TestBinPackFillsOneNodeAfterTheOther(t *testing.T) {
	c := NewCluster()
	for _, id := range []string{"a", "b", "c"} {
		c.SetNode(node(id))
	}
	half := &taskpb.Resources{NanoCpus: 1e9, MemoryBytes: 2 << 30}
	other := compile(t, "other", &taskpb.TaskSpec{Reservations: half})
	c.SetTask(task("o", "other", "b", store.Running), other)
	r := compile(t, "svc", &taskpb.TaskSpec{Reservations: half, Strategy: spec.BinPack})
	if got, _ := c.Place(r, 9, now); fmt.Sprint(got) != "[b b b a a a a c c]" {
		t.Fatalf("packed as %v", got)
	}
	if s, ok := c.Surplus(r, now); ok {
		t.Errorf("what is packed moves: %v", s)
	}
	r = compile(t, "svc", &taskpb.TaskSpec{Reservations: half})
	c.SetStrategy(spec.BinPack)
	if got, _ := c.Place(r, 3, now); fmt.Sprint(got) != "[b b b]" {
		t.Errorf("by the cluster's strategy: %v", got)
	}
	r = compile(t, "svc", &taskpb.TaskSpec{Reservations: half, Strategy: spec.Spread})
	if got, _ := c.Place(r, 3, now); fmt.Sprint(got) != "[a c a]" && fmt.Sprint(got) != "[a c b]" {
		t.Errorf("by its own: %v", got)
	}
	if got, _ := c.Place(compile(t, "free", &taskpb.TaskSpec{}), 3, now); len(slices.Compact(slices.Sorted(slices.Values(got)))) != 3 {
		t.Errorf("what reserves nothing is packed: %v", got)
	}
	zones := compile(t, "zones", &taskpb.TaskSpec{Reservations: half, Strategy: spec.BinPack, Preferences: zoned[:1]})
	for _, id := range []string{"a", "b", "c"} {
		c.SetNode(node(id, labelled("zone="+map[string]string{"a": "x", "b": "x", "c": "y"}[id])))
	}
	if got, _ := c.Place(zones, 4, now); fmt.Sprint(got) != "[b c b c]" {
		t.Errorf("packed within zones: %v", got)
	}
}

func TestGenericResources(t *testing.T) {
	c := NewCluster()
	with := func(g ...*taskpb.GenericResource) func(*schedulerpb.Node) {
		return func(n *schedulerpb.Node) { n.Description.Resources.Generic = g }
	}
	c.SetNode(node("a", with(&taskpb.GenericResource{Kind: "gpu", Names: []string{"G0", "G1", "G2"}}, &taskpb.GenericResource{Kind: "seat", Count: 5})))
	c.SetNode(node("b"))
	r := compile(t, "svc", &taskpb.TaskSpec{Reservations: &taskpb.Resources{Generic: []*taskpb.GenericResource{{Kind: "gpu", Count: 1}, {Kind: "seat", Count: 2}}}})
	give := func(id string) string {
		x := task(id, "svc", "a", store.Running)
		x.Generic = c.Give(r, "a")
		c.SetTask(x, r)
		return fmt.Sprint(x.Generic[0].GetNames(), x.Generic[1].GetCount())
	}
	got, why := c.Place(r, 5, now)
	if fmt.Sprint(got) != "[a a]" || why.String() != "no suitable node (1 lacks 1 free gpu, 1 lacks 2 free seat)" {
		t.Fatalf("placed on %v: %v", got, why)
	}
	if first, second := give("1"), give("2"); first != "[G0] 2" || second != "[G1] 2" {
		t.Errorf("given %s and %s", first, second)
	}
	c.RemoveTask("1")
	if again := give("3"); again != "[G0] 2" {
		t.Errorf("what is free again: %s", again)
	}
	c.RemoveTask("2")
	c.RemoveTask("3")
	if n := c.nodes["a"]; len(n.generic) != 0 || n.goes != 0 || n.live != 0 {
		t.Errorf("%v is left", n)
	}
}
