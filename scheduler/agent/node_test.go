package agent_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/overlay"
	"github.com/redoubt-cluster/redoubt/scheduler/agent"
	"github.com/redoubt-cluster/redoubt/scheduler/agent/agenttest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

const (
	running  = schedulerpb.TaskState_TASK_STATE_RUNNING
	shutdown = schedulerpb.TaskState_TASK_STATE_SHUTDOWN
	failed   = schedulerpb.TaskState_TASK_STATE_FAILED
	rejected = schedulerpb.TaskState_TASK_STATE_REJECTED
	complete = schedulerpb.TaskState_TASK_STATE_COMPLETE
)

// node is an agent between three fakes, under fake time.
type node struct {
	t       *testing.T
	rund    *agenttest.Rund
	netd    *agenttest.Netd
	manager *agenttest.Manager
	named   *agenttest.Named
	subnet  netip.Prefix
	stop    func()
}

func newNode(t *testing.T) *node {
	n := &node{
		t: t, rund: agenttest.NewRund(), netd: agenttest.NewNetd(), manager: agenttest.NewManager(), named: agenttest.NewNamed(),
		subnet: netip.MustParsePrefix("172.30.0.0/24"),
	}
	n.rund.InUse = func(network string) bool { return n.netd.Overlay(network) != nil }
	n.rund.Attached = func(task string) bool { return n.netd.Endpoint(task) != nil || n.netd.Placed(task) }
	n.rund.Ready = func(task string, spec *taskpb.TaskSpec) bool {
		for _, u := range spec.GetNetworks() {
			if n.netd.Place(u.Network, task) == nil {
				return false
			}
		}
		return true
	}
	return n
}

// start runs a new agent process: nothing is left of a former one.
func (n *node) start() {
	local, err := mesh.NewLocal(mesh.LocalConfig{Netd: n.netd, Subnet: n.subnet})
	if err != nil {
		n.t.Fatal(err)
	}
	changed := make(chan struct{}, 1)
	overlays, err := overlay.New(overlay.Config{Netd: n.netd, Named: n.named, Changed: func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 2)
	go func() { done <- overlays.Run(ctx) }()
	go func() {
		done <- agent.Run(ctx, agent.Config{
			Dial: n.manager.Dial, Executor: n.rund, Network: local, Overlay: overlays, OverlayChanged: changed,
			Describe: func() *schedulerpb.NodeDescription { return &schedulerpb.NodeDescription{Hostname: "n1"} },
		})
	}()
	n.stop = func() {
		cancel()
		for range 2 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				n.t.Errorf("the agent ended with %v", err)
			}
		}
	}
}

func (n *node) restart() {
	n.stop()
	n.start()
}

func (n *node) settle(d time.Duration) {
	time.Sleep(d) // fake time
	synctest.Wait()
}

func (n *node) state(task string) schedulerpb.TaskState { return n.manager.Status(task).GetState() }

func (n *node) want(task string, state schedulerpb.TaskState) {
	n.t.Helper()
	if got := n.state(task); got != state {
		n.t.Fatalf("task %s is %v (%+v), want %v", task, got, n.manager.Status(task), state)
	}
}

// end checks the contract that holds in every test.
func (n *node) end() {
	n.t.Helper()
	n.stop()
	for _, v := range n.rund.Violations() {
		n.t.Error(v)
	}
}

func assignment(desired schedulerpb.TaskState) *schedulerpb.Assignment {
	return &schedulerpb.Assignment{
		TaskId: ident.New(), ServiceId: ident.New(), ServiceName: "web", Slot: 1, Desired: desired,
		Spec: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web"}},
	}
}

// each runs body under fake time with a running agent.
func each(t *testing.T, body func(n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		body(n)
		n.end()
	})
}
