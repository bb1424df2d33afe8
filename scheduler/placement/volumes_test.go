package placement

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/scheduler/volumes"
)

func TestTasksGoWhereTheirDataIs(t *testing.T) {
	db := &taskpb.Volume{Id: ident.New(), Spec: &taskpb.VolumeSpec{Name: "db", Driver: volumes.Local}}
	has := func(n *schedulerpb.Node) {
		n.Description.Volumes = &schedulerpb.NodeVolumes{Instances: []*taskpb.VolumeInstance{{Id: db.Id, Name: "db"}}}
	}
	down := func(n *schedulerpb.Node) { n.State = schedulerpb.NodeState_NODE_STATE_DOWN }
	request := func() *Request {
		r, err := Compile("svc", 1, &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Have([]*taskpb.Volume{db}, true)
		return r
	}
	runs := func(c *Cluster, r *Request, node string) {
		c.SetTask(&schedulerpb.Task{Id: ident.New(), NodeId: node, Desired: store.Running, Status: &schedulerpb.TaskStatus{State: store.Running}}, r)
	}
	for _, tc := range []struct {
		what    string
		nodes   []*schedulerpb.Node
		running []string
		n       int
		want    []string
		why     string
	}{
		{"nobody has data", []*schedulerpb.Node{node("a"), node("b"), node("c")}, nil, 3, []string{"a", "b", "c"}, ""},
		{"one has", []*schedulerpb.Node{node("a"), node("b", has), node("c")}, nil, 1, []string{"b"}, ""},
		{"and is down", []*schedulerpb.Node{node("a"), node("b", has, down), node("c")}, nil, 1, nil, "1 down, 2 have no data of volume db, which is on host-b"},
		{"the others take what is left", []*schedulerpb.Node{node("a"), node("b", has), node("c")}, nil, 3, []string{"b", "a", "c"}, ""},
		{"a slot finds its own again", []*schedulerpb.Node{node("a", has), node("b", has), node("c", has), node("d")}, []string{"a", "c"}, 1, []string{"b"}, ""},
		{"scaled up", []*schedulerpb.Node{node("a", has), node("b"), node("c")}, []string{"a"}, 1, []string{"b"}, ""},
	} {
		c, r := NewCluster(), request()
		for _, n := range tc.nodes {
			c.SetNode(n)
		}
		for _, id := range tc.running {
			runs(c, r, id)
		}
		got, refusal := c.Place(r, tc.n, time.Now())
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.what, got, tc.want)
		}
		if (refusal != nil) != (tc.why != "") || refusal != nil && !strings.Contains(refusal.String(), tc.why) {
			t.Errorf("%s: %v, want %q", tc.what, refusal, tc.why)
		}
		for _, v := range c.Explain(r) {
			if tc.what == "one has" && (v.Reason == "") != (v.NodeID == "b") {
				t.Errorf("explain: %v", v)
			}
		}
	}
}

func TestSizedVolumesGoWhereTheyAreBounded(t *testing.T) {
	c := NewCluster()
	c.SetNode(node("a"))
	c.SetNode(node("b", func(n *schedulerpb.Node) {
		n.Description.Features = []*taskpb.Feature{{Name: volumes.SizeFeature, Present: true}}
	}))
	r, err := Compile("svc", 1, &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Have([]*taskpb.Volume{{Id: ident.New(), Spec: &taskpb.VolumeSpec{Name: "db", Driver: volumes.Local, Options: map[string]string{volumes.Size: "1g"}}}}, true)
	if got, _ := c.Place(r, 1, time.Now()); !slices.Equal(got, []string{"b"}) {
		t.Error(got)
	}
}

// TestDataStaysWhereItIs: tasks with volumes are not moved for balance, and nobody makes
// room for one where its data is not.
func TestDataStaysWhereItIs(t *testing.T) {
	db := &taskpb.Volume{Id: ident.New(), Spec: &taskpb.VolumeSpec{Name: "db", Driver: volumes.Local}}
	compile := func(service string, spec *taskpb.TaskSpec) *Request {
		r, err := Compile(service, 1, spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	runs := func(c *Cluster, r *Request, node string) {
		c.SetTask(&schedulerpb.Task{Id: ident.New(), NodeId: node, Desired: store.Running, Status: &schedulerpb.TaskStatus{State: store.Running}}, r)
	}
	for _, with := range []bool{false, true} {
		c := NewCluster()
		c.SetNode(node("a"))
		c.SetNode(node("b"))
		r := compile("web", &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{}})
		if with {
			r.Have([]*taskpb.Volume{db}, true)
		}
		for range 3 {
			runs(c, r, "a")
		}
		if _, moves := c.Surplus(r, time.Now()); moves == with {
			t.Errorf("with a volume: %v; it moves: %v", with, moves)
		}

		// Both nodes are full of what is less urgent; the data is on b.
		c = NewCluster()
		one := func(n *schedulerpb.Node) { n.Description.Resources = &taskpb.Resources{MemoryBytes: 1 << 30} }
		c.SetNode(node("a", one))
		c.SetNode(node("b", one, func(n *schedulerpb.Node) {
			n.Description.Volumes = &schedulerpb.NodeVolumes{Instances: []*taskpb.VolumeInstance{{Id: db.Id, Name: "db"}}}
		}))
		full := &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{}, Reservations: &taskpb.Resources{MemoryBytes: 1 << 30}}
		for _, id := range []string{"a", "b"} {
			runs(c, compile("idle", full), id)
		}
		urgent := proto.CloneOf(full)
		urgent.Priority = 9
		r = compile("db", urgent)
		if with {
			r.Have([]*taskpb.Volume{db}, true)
		}
		want := map[bool]string{false: "a", true: "b"}[with]
		if p, ok := c.Preempt(r, "", time.Now()); !ok || p.NodeID != want {
			t.Errorf("with a volume: %v; room is made on %q, %v", with, p.NodeID, ok)
		}
	}
}
