package placement

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func weighing(t testing.TB, service string, cores int64, priority uint32) *Request {
	return compile(t, service, &taskpb.TaskSpec{Reservations: &taskpb.Resources{NanoCpus: cores * 1e9}, Priority: priority})
}

func TestPreemptTakesTheLeast(t *testing.T) {
	c := NewCluster()
	for _, id := range []string{"a", "b", "c", "d"} {
		c.SetNode(node(id)) // 4 cores
	}
	c.SetNode(node("e", func(n *schedulerpb.Node) { n.Availability = store.Pause }))
	put := func(id, service, node string, cores int64, priority uint32) {
		c.SetTask(task(id, service, node, store.Running), weighing(t, service, cores, priority))
	}
	put("a1", "low", "a", 2, 0)
	put("a2", "mid", "a", 2, 5)
	put("b1", "mid", "b", 4, 5)
	put("c1", "equal", "c", 4, 9)
	put("d1", "one", "d", 1, 0)
	put("d2", "two", "d", 1, 0)
	put("d3", "equal", "d", 2, 9)
	put("e1", "low", "e", 4, 0)
	want := func(cores int64, priority uint32, only, want string) {
		t.Helper()
		p, ok := c.Preempt(weighing(t, "svc", cores, priority), only, now)
		if got := fmt.Sprint(p, ok); got != want {
			t.Errorf("%d cores at %d: %s, want %s", cores, priority, got, want)
		}
	}
	want(2, 9, "", "{a [a1]} true") // one task of 0, and not two
	want(1, 9, "", "{a [a1]} true") // where fewer are
	want(1, 9, "d", "{d [d2]} true")
	want(2, 9, "d", "{d [d1 d2]} true")
	want(4, 9, "", "{b [b1]} true")
	want(4, 5, "", "{ []} false") // none of the same
	want(4, 10, "c", "{c [c1]} true")
	want(4, 9, "c", "{ []} false")
	want(5, 100, "", "{ []} false")
	want(4, 9, "e", "{ []} false") // nothing is placed there
	mine := weighing(t, "low", 2, 9)
	if p, ok := c.Preempt(mine, "a", now); !ok || fmt.Sprint(p.Victims) != "[a2]" {
		t.Errorf("of its own service: %v", p)
	}
	ends := task("a1", "low", "a", store.Running)
	ends.Desired = store.Shutdown
	c.SetTask(ends, weighing(t, "low", 2, 0))
	want(2, 9, "", "{a []} true") // it ends anyway
}

// Whom it names are of a lower priority, of other services and on one node, all of them
// are needed, and with them gone there is room. What is counted stays as it was.
func TestPreemptIsSparing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, requests := NewCluster(), map[string]*Request{}
		nodes := map[string]string{}
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			id := fmt.Sprint("n", i)
			c.SetNode(node(id))
			for j := range rapid.IntRange(0, 4).Draw(t, "tasks") {
				prio := rapid.Uint32Range(0, 3).Draw(t, "priority")
				r := &Request{ServiceID: fmt.Sprint("s", prio), Priority: prio, nanoCPUs: rapid.Int64Range(1, 4).Draw(t, "cores") * 5e8}
				x := task(fmt.Sprint(id, "-", j), r.ServiceID, id, store.Running)
				if rapid.IntRange(0, 5).Draw(t, "ends") == 0 {
					x.Desired = store.Shutdown
				}
				c.SetTask(x, r)
				requests[x.Id], nodes[x.Id] = r, id
			}
		}
		r := &Request{ServiceID: "svc", Priority: rapid.Uint32Range(0, 4).Draw(t, "own"), nanoCPUs: rapid.Int64Range(1, 9).Draw(t, "cores") * 5e8}
		before := map[string]nodeInfo{}
		for id, n := range c.nodes {
			before[id] = *n
		}
		p, ok := c.Preempt(r, "", now)
		for id, n := range c.nodes {
			if !reflect.DeepEqual(before[id], *n) {
				t.Fatalf("%s was %v and is %v", id, before[id], *n)
			}
		}
		if !ok {
			return
		}
		for id, x := range c.tasks { // those that end do so
			if x.ends {
				c.RemoveTask(id)
			}
		}
		for _, v := range p.Victims {
			if requests[v].Priority >= r.Priority || nodes[v] != p.NodeID {
				t.Fatalf("%s (%d, on %s) is named for %v", v, requests[v].Priority, nodes[v], p)
			}
			if c.Check(r, p.NodeID) == nil {
				t.Fatalf("%s need not go", v)
			}
			c.RemoveTask(v)
		}
		if why := c.Check(r, p.NodeID); why != nil {
			t.Fatalf("%v makes no room: %v", p, why)
		}
	})
}

// Moves one after the other end, each where placement chooses, and then each level is as
// even as room allows.
func TestMovesEnd(t *testing.T) {
	r := compile(t, "svc", &taskpb.TaskSpec{Preferences: zoned, Reservations: &taskpb.Resources{NanoCpus: 1e9}})
	loose := compile(t, "loose", &taskpb.TaskSpec{})
	rapid.Check(t, func(t *rapid.T) {
		c := zonedCluster(t, r)
		for _, id := range slices.Sorted(maps.Keys(c.nodes)) {
			for j := range rapid.IntRange(0, 12).Draw(t, "others") {
				c.SetTask(task(fmt.Sprint(id, "other", j), "loose", id, store.Running), loose)
			}
		}
		for n := 0; ; n++ {
			req := r
			m, ok := c.Surplus(r, now)
			if !ok {
				req = loose
				if m, ok = c.Surplus(loose, now); !ok {
					break
				}
			}
			if n > 200 {
				t.Fatalf("it never ends: %v", m)
			}
			moved := false
			for _, id := range slices.Sorted(maps.Keys(c.tasks)) {
				x := c.tasks[id]
				if x.nodeID != m.From || x.request != req {
					continue
				}
				old := task(id, req.ServiceID, m.From, store.Running)
				old.MakesWayFor = "next"
				c.SetTask(old, req)
				to, why := c.Place(req, 1, now)
				if len(to) != 1 || to[0] == m.From {
					t.Fatalf("%v: placed on %v: %v", m, to, why)
				}
				c.RemoveTask(id)
				c.SetTask(task(fmt.Sprint("moved", n), req.ServiceID, to[0], store.Running), req)
				moved = true
				break
			}
			if !moved {
				t.Fatalf("%v names a node that has none", m)
			}
		}
		for l := 1; l < 3; l++ {
			count, room := inBranches(c, r, l)
			for x, n := range count {
				for y, m := range count {
					if room[y] && (l == 1 || x[:1] == y[:1]) && n-m > 1 {
						t.Fatalf("%s has %d and %s %d", x, n, y, m)
					}
				}
			}
		}
	})
}

func TestSmallGainsMoveNothing(t *testing.T) {
	c := NewCluster()
	for _, id := range []string{"a", "b", "c"} {
		c.SetNode(node(id))
	}
	r := compile(t, "svc", &taskpb.TaskSpec{})
	for i, id := range []string{"a", "a", "b"} {
		c.SetTask(task(fmt.Sprint(i), "svc", id, store.Running), r)
	}
	if s, ok := c.Surplus(r, now); !ok || s.From != "a" || s.To != "c" {
		t.Errorf("of two and one and none: %v", s)
	}
	c.SetTask(task("2", "svc", "c", store.Running), r)
	c.SetTask(task("1", "svc", "b", store.Running), r)
	if s, ok := c.Surplus(r, now); ok {
		t.Errorf("of one each: %v", s)
	}
	for i := range minLoadGain {
		c.SetTask(task(fmt.Sprint("o", i), fmt.Sprint("o", i), "a", store.Running), compile(t, fmt.Sprint("o", i), &taskpb.TaskSpec{}))
	}
	one := compile(t, "o0", &taskpb.TaskSpec{})
	if s, ok := c.Surplus(one, now); !ok || s.From != "a" {
		t.Errorf("one alone on a node with far more: %v", s)
	}
	c.RemoveTask("o2")
	if s, ok := c.Surplus(one, now); ok {
		t.Errorf("with a little more: %v", s)
	}
}
