package scheduler_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func network(t testing.TB, s *raftstore.Store, name, subnet string) string {
	t.Helper()
	sp, err := meshspec.Network(&meshpb.NetworkSpec{Name: name, Subnets: []*meshpb.Subnet{{Subnet: subnet}}})
	if err != nil {
		t.Fatal(err)
	}
	id, err := meshstore.CreateNetwork(t.Context(), s, "c", sp)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestAddressesThroughLostLeaders has leaders lost in the middle of what they
// write, nodes down, and networks changed by rolling updates: each task that has a
// node has the addresses of its own revision, no two live ones the same, and when
// all is removed no address is held.
func TestAddressesThroughLostLeaders(t *testing.T) {
	const replicas = 20
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	var nodes []string
	for range 4 {
		nodes = append(nodes, schedulertest.AddNode(t, s, false))
	}
	front, back := network(t, s, "front", "10.9.0.0/24"), network(t, s, "back", "10.9.1.0/24")
	sp := schedulertest.Spec("web", replicas)
	sp.Task.Networks = []*taskpb.NetworkUse{{Network: "front"}, {Network: "back"}}
	id := create(t, s, sp)
	sound := func(r raftstore.Reader) error {
		held := map[string]string{}
		for task := range store.OfService(r, id) {
			rev, ok := store.Revisions.Get(r, store.RevisionID(id, task.GetRevision()))
			if task.GetNodeId() == "" || !store.Live(task) || !ok {
				continue
			}
			if len(task.GetAttachments()) != len(rev.GetSpec().GetNetworks()) {
				return fmt.Errorf("task %s is on %v, its revision on %v", task.GetId(), task.GetAttachments(), rev.GetSpec().GetNetworks())
			}
			for i, a := range task.GetAttachments() {
				if a.GetNetworkId() != rev.GetSpec().GetNetworks()[i].GetNetwork() {
					return fmt.Errorf("task %s is on %v", task.GetId(), a)
				}
				for _, x := range a.GetAddresses() {
					if other := held[x]; other != "" {
						return fmt.Errorf("%s is of %s and of %s", x, other, task.GetId())
					}
					held[x] = task.GetId()
				}
			}
		}
		return nil
	}
	check := func() {
		t.Helper()
		if err := s.View(func(r *raftstore.ReadTx) error { return sound(r) }); err != nil {
			t.Fatal(err)
		}
	}
	cfg := scheduler.Config{Store: s, Logger: slog.New(slog.DiscardHandler)}
	for i := range 12 {
		for _, n := range nodes[1:] {
			state := schedulerpb.NodeState_NODE_STATE_READY
			if rand.IntN(3) == 0 {
				state = down
			}
			schedulertest.SetState(t, s, n, state)
		}
		if i%4 == 3 {
			update(t, s, id, func(sp *schedulerpb.ServiceSpec) {
				sp.Task.Networks = []*taskpb.NetworkUse{{Network: front}}
				if i%8 == 3 {
					sp.Task.Networks = []*taskpb.NetworkUse{{Network: back}, {Network: front}}
				}
			})
		}
		if err := scheduler.Interrupted(t.Context(), cfg, rand.IntN(4), rand.IntN(replicas)); err != nil {
			t.Fatal(err)
		}
		check()
	}
	for _, n := range nodes {
		schedulertest.SetState(t, s, n, schedulerpb.NodeState_NODE_STATE_READY)
	}
	schedulertest.Run(t, s)
	schedulertest.Await(t, s, schedulertest.Running(id, replicas))
	check()
	if err := store.RemoveService(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for range store.OfService(r, id) {
			return fmt.Errorf("the service has tasks yet")
		}
		return nil
	})
	for _, n := range []string{front, back} {
		if _, err := store.RemoveNetwork(t.Context(), s, n); err != nil {
			t.Errorf("of a network that nothing is on: %v", err)
		}
	}
}

// TestFullNetworkMakesTasksWait: with as many as there are addresses it is full,
// which the next says; where one ends, the next gets what it had.
func TestFullNetworkMakesTasksWait(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	network(t, s, "tiny", "10.9.0.0/29") // 4 addresses: of 0 to 5 neither its own nor the gateway
	sp := schedulertest.Spec("web", 6)
	sp.Task.Networks = []*taskpb.NetworkUse{{Network: "tiny"}}
	id := create(t, s, sp)
	schedulertest.Run(t, s)
	full := func(running int) func(raftstore.Reader) error {
		return func(r raftstore.Reader) error {
			n, says := 0, 0
			for task := range store.OfService(r, id) {
				if store.State(task) == store.Running && store.Wanted(task) {
					n++
				}
				if task.GetNodeId() == "" && strings.Contains(task.GetStatus().GetMessage(), "network tiny has no free address: all 4") {
					says++
				}
			}
			if n != running || says != 6-running {
				return fmt.Errorf("%d run, %d say that the network is full", n, says)
			}
			return nil
		}
	}
	schedulertest.Await(t, s, full(4))
	update(t, s, id, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 4 })
	schedulertest.Await(t, s, schedulertest.Running(id, 4))
}

// TestNodesOfAnEarlierVersionGetAddresses: the leader gives them to nodes that
// were admitted without.
func TestNodesOfAnEarlierVersionGetAddresses(t *testing.T) {
	s := schedulertest.NewStore(t)
	for range 5 {
		id := schedulertest.AddNode(t, s, false)
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return meshstore.Nodes.Delete(tx, id) })
	}
	w, err := s.Watch(nil, meshstore.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	schedulertest.Run(t, s)
	have := map[string]bool{}
	for len(have) < 5 {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if _, n, ok := meshstore.Nodes.Event(e); ok {
				have[n.GetAddress()] = true
			}
		}
	}
}
