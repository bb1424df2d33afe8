package netview_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/netview"
	"github.com/redoubt-cluster/redoubt/scheduler/netview/netviewtest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// chaos changes a store at random, as operators, nodes and the leader do.
type chaos struct {
	t                         *rapid.T
	s                         *raftstore.Store
	networks, nodes, gone     []string
	services, tasks, policies []string
}

func (c *chaos) update(fn func(*raftstore.Tx) error) bool {
	err := c.s.Update(context.Background(), fn)
	if err != nil && !errors.As(err, new(*meshstore.ExhaustedError)) && !errors.As(err, new(*store.RefusedError)) &&
		!errors.As(err, new(*meshstore.RefusedError)) && !errors.As(err, new(*raftstore.DuplicateError)) && !errors.Is(err, raftstore.ErrNotFound) {
		c.t.Fatal(err)
	}
	return err == nil
}

func (c *chaos) one(of []string) string {
	if len(of) == 0 {
		return ""
	}
	return rapid.SampledFrom(of).Draw(c.t, "one")
}

func (c *chaos) uses() (out []*taskpb.NetworkUse) {
	for _, n := range c.networks {
		if rapid.Bool().Draw(c.t, "uses") {
			u := &taskpb.NetworkUse{Network: n}
			if rapid.Bool().Draw(c.t, "alias") {
				u.Aliases = []string{"alias" + fmt.Sprint(rapid.IntRange(0, 3).Draw(c.t, "which"))}
			}
			out = append(out, u)
		}
	}
	return out
}

func (c *chaos) step(what int) {
	switch what {
	case 0:
		if len(c.networks) < 4 {
			driver := rapid.SampledFrom([]string{"overlay", "overlay", "bridge", "cni"}).Draw(c.t, "driver")
			sp := &meshpb.NetworkSpec{Name: "n" + ident.New()[:16], Driver: driver}
			if driver == "overlay" && rapid.Bool().Draw(c.t, "elsewhere") {
				p := fmt.Sprintf("10.77.%d.", rapid.IntRange(0, 200).Draw(c.t, "subnet"))
				sp.Subnets = []*meshpb.Subnet{{Subnet: p + "0/24", Gateway: p + "1"}}
			}
			id, err := meshstore.CreateNetwork(context.Background(), c.s, "c", sp)
			if errors.As(err, new(*meshstore.RefusedError)) {
				return // it is taken
			}
			if err != nil {
				c.t.Fatal(err)
			}
			c.networks = append(c.networks, id)
		}
	case 1:
		if id := c.one(c.networks); id != "" {
			if _, err := store.RemoveNetwork(context.Background(), c.s, id); err == nil {
				c.networks = without(c.networks, id)
			}
		}
	case 2:
		if len(c.nodes) < 6 {
			id := ident.New()
			manager := rapid.Bool().Draw(c.t, "manager")
			if c.update(func(tx *raftstore.Tx) error {
				role, address := profilepb.Role_ROLE_WORKER, ""
				if manager {
					role, address = profilepb.Role_ROLE_MANAGER, "192.0.2.7:2377"
				}
				if err := pkistore.Nodes.Put(tx, &pkipb.Node{Id: id, Name: "n", Role: role, Address: address}); err != nil {
					return err
				}
				return store.RegisterNode(tx, id, manager)
			}) {
				c.nodes = append(c.nodes, id)
			}
		}
	case 3:
		if id := c.one(c.nodes); id != "" && rapid.IntRange(0, 3).Draw(c.t, "removed") == 0 {
			c.update(func(tx *raftstore.Tx) error {
				n, _ := pkistore.Nodes.Get(tx, id)
				n = proto.CloneOf(n)
				n.Denied = true
				if err := pkistore.Nodes.Put(tx, n); err != nil {
					return err
				}
				return store.RemoveNode(tx, id)
			})
			c.nodes, c.gone = without(c.nodes, id), append(c.gone, id)
		}
	case 4:
		if id := c.one(c.nodes); id != "" {
			a := fmt.Sprintf("192.0.2.%d", rapid.IntRange(1, 9).Draw(c.t, "address"))
			c.update(func(tx *raftstore.Tx) error {
				return store.SetNodeState(tx, id, schedulerpb.NodeState_NODE_STATE_READY, "", a)
			})
		}
	case 5, 6:
		id := c.one(c.services)
		if id == "" || len(c.services) < 4 && rapid.Bool().Draw(c.t, "new") {
			id = ident.New()
			c.services = append(c.services, id)
		}
		uses := c.uses()
		constraints := rapid.SampledFrom([][]string{nil, nil, {"node.labels.edge==true"}, {"node.availability!=drain", "node.role==worker"}}).Draw(c.t, "entries")
		var ports []*taskpb.Port
		for i := range rapid.IntRange(0, 2).Draw(c.t, "ports") {
			ports = append(ports, &taskpb.Port{Published: 80 + uint32(i), Target: 80 + rapid.Uint32Range(0, 1).Draw(c.t, "target"), Mode: taskpb.Port_MODE_INGRESS,
				Protocol: rapid.SampledFrom([]taskpb.Port_Protocol{taskpb.Port_PROTOCOL_UNSPECIFIED, taskpb.Port_PROTOCOL_UDP}).Draw(c.t, "protocol")})
		}
		c.update(func(tx *raftstore.Tx) error {
			svc, ok := store.Services.Get(tx, id)
			if svc = proto.CloneOf(svc); !ok {
				svc = &schedulerpb.Service{Id: id, Spec: schedulertest.Spec("s"+id[:16], 1)}
			}
			svc.Spec.Task.Networks, svc.Vips, svc.Spec.Task.Ports, svc.Spec.IngressConstraints = uses, nil, ports, nil
			svc.Revision++
			there := meshstore.Ingress(tx, id) != nil
			if len(ports) > 0 {
				svc.Spec.IngressConstraints = constraints
			}
			if len(ports) > 0 && !there {
				if err := meshstore.CreateIngress(tx, "c", id); err != nil {
					return err
				}
			} else if len(ports) == 0 && there {
				if err := meshstore.DeleteIngress(tx, id); err != nil {
					return err
				}
			}
			if err := store.Revisions.Put(tx, &schedulerpb.Revision{Id: store.RevisionID(id, svc.Revision), ServiceId: id, Spec: svc.Spec.Task}); err != nil {
				return err
			}
			return store.Services.Put(tx, svc)
		})
	case 7:
		if id := c.one(c.services); id != "" {
			c.update(func(tx *raftstore.Tx) error {
				if err := meshstore.DeleteIngress(tx, id); err != nil {
					return err
				}
				if err := store.Services.Delete(tx, id); !errors.Is(err, raftstore.ErrNotFound) {
					return err
				}
				return nil
			})
			c.services = without(c.services, id)
		}
	case 8, 9:
		svc, node := c.one(c.services), c.one(c.nodes)
		if svc == "" || node == "" {
			return
		}
		task := &schedulerpb.Task{Id: ident.New(), ServiceId: svc, Slot: 1, NodeId: node, Desired: store.Running,
			Status: &schedulerpb.TaskStatus{State: store.Assigned}}
		if c.update(func(tx *raftstore.Tx) error {
			s, ok := store.Services.Get(tx, svc)
			if !ok {
				return raftstore.ErrNotFound
			}
			if err := store.Attach(tx, task, s.GetSpec().GetTask().GetNetworks(), len(s.GetSpec().GetTask().GetPorts()) > 0); err != nil {
				return err
			}
			return store.PutTask(tx, task)
		}) {
			c.tasks = append(c.tasks, task.Id)
		}
	case 10, 11:
		id := c.one(c.tasks)
		how := rapid.IntRange(0, 5).Draw(c.t, "how")
		if id == "" {
			return
		}
		c.update(func(tx *raftstore.Tx) error {
			old, _ := store.Tasks.Get(tx, id)
			t := proto.CloneOf(old)
			switch how {
			case 0:
				return store.Tasks.Delete(tx, id)
			case 1:
				t.Desired = max(t.Desired, store.Shutdown)
			case 2:
				t.Status.State = max(t.Status.State, store.Failed)
			case 3:
				t.Status.Unhealthy = !t.Status.Unhealthy
			default:
				t.Status.State = max(t.Status.State, store.Running)
			}
			return store.PutTask(tx, t)
		})
		if how == 0 {
			c.tasks = without(c.tasks, id)
		}
	case 14, 15:
		if id := c.one(c.nodes); id != "" {
			edge := rapid.Bool().Draw(c.t, "edge")
			availability := rapid.SampledFrom([]schedulerpb.Availability{store.Active, store.Drain}).Draw(c.t, "availability")
			c.update(func(tx *raftstore.Tx) error {
				n, _ := store.Nodes.Get(tx, id)
				n = proto.CloneOf(n)
				n.Labels, n.Availability = map[string]string{"edge": fmt.Sprint(edge)}, availability
				return store.Nodes.Put(tx, n)
			})
		}
	case 12:
		if n := c.one(c.networks); n != "" {
			id, err := meshstore.CreatePolicy(context.Background(), c.s, &meshpb.PolicySpec{Name: "p" + ident.New()[:16], Network: n,
				Rules: []*meshpb.PolicyRule{{FromService: "a", ToService: "b"}, {FromService: "b", ToService: "a"}}})
			switch {
			case err == nil:
				c.policies = append(c.policies, id)
			case !errors.As(err, new(*meshstore.RefusedError)):
				c.t.Fatal(err)
			}
		}
	case 13:
		if id := c.one(c.policies); id != "" {
			if _, err := meshstore.RemovePolicy(context.Background(), c.s, id); err == nil {
				c.policies = without(c.policies, id)
			}
		}
	}
}

func without(of []string, id string) (out []string) {
	for _, x := range of {
		if x != id {
			out = append(out, x)
		}
	}
	return out
}

// reader is a node that hears increments when it is drawn.
type reader struct {
	cursor *netview.Cursor
	held   netviewtest.Held
}

// TestIncrementsComeToTheSame: whatever happens in the store, and however long a
// node did not listen, what it holds after its increments is what it would be
// told if it asked anew, of this leader or of the next. It never holds anything
// of a network that it has no live task on and does not answer for.
func TestIncrementsComeToTheSame(t *testing.T) {
	s := schedulertest.NewCluster(t)
	steps, increments, again := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		c := &chaos{t: rt, s: s}
		var ix *netview.Index
		w, err := s.Watch(func(r *raftstore.ReadTx) error { ix = netview.Load(r); return nil }, netview.Tables()...)
		if err != nil {
			rt.Fatal(err)
		}
		defer w.Close()
		ix.Keep(rapid.IntRange(2, 40).Draw(rt, "journal"))
		for _, what := range []int{0, 0, 2, 2, 2, 5, 5, 8, 8, 8} {
			c.step(what)
		}
		readers := map[string]*reader{}
		for range 25 {
			steps++
			c.step(rapid.IntRange(0, 15).Draw(rt, "what"))
			drain(rt, w, ix)
			for _, id := range append(append([]string{}, c.nodes...), c.gone...) {
				if readers[id] == nil {
					readers[id] = &reader{cursor: netview.NewCursor(id)}
				}
				if rapid.IntRange(0, 2).Draw(rt, "listens") > 0 {
					continue
				}
				for _, m := range readers[id].cursor.Next(ix) {
					if m.Sequence > 1 {
						increments++
						if m.Complete {
							again++
						}
					}
					if _, err := readers[id].held.Apply(m); err != nil {
						rt.Fatalf("%v: %v", err, m)
					}
				}
				same(rt, &readers[id].held, anew(rt, id, ix))
				if err := s.View(func(r *raftstore.ReadTx) error {
					same(rt, &readers[id].held, anew(rt, id, netview.Load(r)))
					entitled(rt, r, id, &readers[id].held)
					return nil
				}); err != nil {
					rt.Fatal(err)
				}
			}
		}
		clean(rt, c)
	})
	t.Logf("%d steps, %d increments, of which %d were complete again", steps, increments, again)
	if again == 0 || increments < steps/8 {
		t.Error("that was hardly tested")
	}
}

// drain observes what was written. Events are there when Update returns.
func drain(rt *rapid.T, w *raftstore.Watch, ix *netview.Index) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		events, err := w.Next(over)
		if errors.Is(err, context.Canceled) {
			return
		}
		if err != nil {
			rt.Fatal(err)
		}
		ix.Observe(events)
	}
}

func anew(rt *rapid.T, node string, ix *netview.Index) *netviewtest.Held {
	h := &netviewtest.Held{}
	sets := netview.NewCursor(node).Next(ix)
	if len(sets) == 0 || !sets[0].Complete {
		rt.Fatal("the first set is not complete")
	}
	for _, m := range sets {
		if _, err := h.Apply(m); err != nil {
			rt.Fatal(err)
		}
	}
	return h
}

func same(rt *rapid.T, a, b *netviewtest.Held) {
	if x, y := text(a), text(b); x != y {
		rt.Fatalf("increments came to\n%s\nand it would be told\n%s", x, y)
	}
}

// clean empties the store for the next run.
func clean(rt *rapid.T, c *chaos) {
	c.update(func(tx *raftstore.Tx) error {
		for t := range store.Tasks.All(tx) {
			if err := store.Tasks.Delete(tx, t.GetId()); err != nil {
				return err
			}
		}
		for s := range store.Services.All(tx) {
			if err := store.Services.Delete(tx, s.GetId()); err != nil {
				return err
			}
		}
		for n := range pkistore.Nodes.All(tx) {
			if err := pkistore.Nodes.Delete(tx, n.GetId()); err != nil {
				return err
			}
		}
		for n := range store.Nodes.All(tx) {
			if err := store.RemoveNode(tx, n.GetId()); err != nil {
				return err
			}
		}
		return nil
	})
	for _, id := range c.networks {
		if _, err := store.RemoveNetwork(context.Background(), c.s, id); err != nil {
			rt.Fatal(err)
		}
	}
}
