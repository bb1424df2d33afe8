package scheduler_test

import (
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
)

// TestLeadersLostWhileNodesFlap has one leader after the other lost in the middle
// of what it writes, each with other nodes down. At no entry does a slot have two
// wanted tasks, so no more are asked to run than there are replicas, and in the
// end as many run.
func TestLeadersLostWhileNodesFlap(t *testing.T) {
	const replicas = 60
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	var nodes []string
	for range 6 {
		nodes = append(nodes, schedulertest.AddNode(t, s, false))
	}
	id := create(t, s, schedulertest.Spec("web", replicas))
	stopWatch := onePerSlot(t, s)
	cfg := scheduler.Config{Store: s, Logger: slog.New(slog.DiscardHandler)}
	for range 20 {
		for _, n := range nodes[1:] {
			state := schedulerpb.NodeState_NODE_STATE_READY
			if rand.IntN(3) == 0 {
				state = down
			}
			schedulertest.SetState(t, s, n, state)
		}
		// Its watch may miss, its writes may be stale: all of that is allowed.
		if err := scheduler.Interrupted(t.Context(), cfg, rand.IntN(4), rand.IntN(replicas)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		schedulertest.SetState(t, s, n, schedulerpb.NodeState_NODE_STATE_READY)
	}
	schedulertest.Run(t, s)
	schedulertest.Await(t, s, schedulertest.Running(id, replicas))
	stopWatch()
	if n := len(perNode(t, s)); n == 0 {
		t.Error("nothing runs")
	}
}
