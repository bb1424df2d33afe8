package scheduler_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

func TestRunUnderLeadership(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.WhileLeader(ctx, func(ctx context.Context) {
			if err := scheduler.Run(ctx, scheduler.Config{Store: s, Logger: slog.New(slog.DiscardHandler)}); err != nil {
				t.Error(err)
			}
		})
	}()
	web := create(t, s, schedulertest.Spec("web", 3))
	schedulertest.Await(t, s, schedulertest.Running(web, 3))
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("WhileLeader: %v", err)
	}
	if err := scheduler.Run(t.Context(), scheduler.Config{}); err == nil {
		t.Error("it runs without a store")
	}
}

// TestANodeThatComesBack gets room again, and its old tasks stay told to stop.
func TestANodeThatComesBack(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	a, b := schedulertest.AddNode(t, s, false), schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	web := create(t, s, schedulertest.Spec("web", 4))
	schedulertest.Await(t, s, schedulertest.Running(web, 4))
	schedulertest.SetState(t, s, a, down)
	schedulertest.SetState(t, s, b, down)
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		waiting := 0
		for task := range store.Tasks.By(r, "node", store.Unassigned) {
			if task.GetStatus().GetMessage() == "no suitable node (2 down)" {
				waiting++
			}
		}
		if waiting != 4 {
			return fmt.Errorf("%d tasks wait for a node, 4 wanted", waiting)
		}
		return nil
	})
	schedulertest.SetState(t, s, b, schedulerpb.NodeState_NODE_STATE_READY)
	schedulertest.Await(t, s, schedulertest.Running(web, 4))
	if n := perNode(t, s)[b]; n != 4 {
		t.Errorf("%d new tasks run on the node that came back", n)
	}
}

// TestHostPortsSpreadOrWait: one port, two nodes, three replicas.
func TestHostPortsSpreadOrWait(t *testing.T) {
	s := schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	schedulertest.AddNode(t, s, false)
	schedulertest.AddNode(t, s, false)
	schedulertest.Run(t, s)
	sp := schedulertest.Spec("web", 3)
	sp.Task.Ports = append(sp.Task.Ports, hostPort(8080))
	web := create(t, s, sp)
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		running, waiting := 0, 0
		for task := range store.OfService(r, web) {
			if store.State(task) == store.Running {
				running++
			} else if strings.Contains(task.GetStatus().GetMessage(), "2 have port 8080/tcp in use") {
				waiting++
			}
		}
		if running != 2 || waiting != 1 {
			return fmt.Errorf("%d run and %d wait for the port", running, waiting)
		}
		return nil
	})
	schedulertest.AddNode(t, s, false)
	schedulertest.Await(t, s, schedulertest.Running(web, 3))
	// A rolling update stops the one that holds the port before its successor
	// starts, so it cannot block itself.
	update(t, s, web, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for task := range store.OfService(r, web) {
			if store.Live(task) && task.GetRevision() != 2 {
				return fmt.Errorf("slot %d still runs revision %d", task.GetSlot(), task.GetRevision())
			}
		}
		return schedulertest.Running(web, 3)(r)
	})
}
