package agent_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/scheduler/agent"
	"github.com/redoubt-cluster/redoubt/scheduler/agent/agenttest"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
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
	subnet  netip.Prefix
	stop    func()
}

func newNode(t *testing.T) *node {
	n := &node{
		t: t, rund: agenttest.NewRund(), netd: agenttest.NewNetd(), manager: agenttest.NewManager(),
		subnet: netip.MustParsePrefix("172.30.0.0/24"),
	}
	n.rund.Attached = func(task string) bool { return n.netd.Endpoint(task) != nil }
	return n
}

// start runs a new agent process: nothing is left of a former one.
func (n *node) start() {
	local, err := mesh.NewLocal(mesh.LocalConfig{Netd: n.netd, Subnet: n.subnet})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- agent.Run(ctx, agent.Config{
			Dial: n.manager.Dial, Executor: n.rund, Network: local,
			Describe: func() *schedulerpb.NodeDescription { return &schedulerpb.NodeDescription{Hostname: "n1"} },
		})
	}()
	n.stop = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			n.t.Errorf("the agent ended with %v", err)
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

func TestTaskRuns(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		e := n.netd.Endpoint(a.TaskId)
		if e == nil || e.Netns != a.TaskId {
			t.Fatalf("endpoint %v", e)
		}
		st := n.manager.Status(a.TaskId)
		if !strings.HasPrefix(e.Address, st.Address+"/") || st.ContainerId != "container-"+a.TaskId {
			t.Errorf("status %v of endpoint %v", st, e)
		}
		// Asked to stop, it is detached after it ended, and kept for its logs.
		a.Desired = shutdown
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, shutdown)
		if n.netd.Len() != 0 || n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_EXITED {
			t.Errorf("%d endpoints, containers %v", n.netd.Len(), n.rund.Tasks())
		}
		n.manager.Remove(a.TaskId)
		n.settle(5 * time.Second)
		if len(n.rund.Tasks()) != 0 {
			t.Errorf("containers %v are left", n.rund.Tasks())
		}
	})
}

// TestRunningMeansHealthy: a task with a healthcheck is said to run once that
// has passed, and what a check found meanwhile is told.
func TestRunningMeansHealthy(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		a.Spec.Container.Healthcheck = &taskpb.Healthcheck{Test: []string{"CMD", "x"}}
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		for _, message := range []string{"waiting for its healthcheck to pass", "its healthcheck fails: exit code 1"} {
			if st := n.manager.Status(a.TaskId); st.State != schedulerpb.TaskState_TASK_STATE_STARTING || st.Message != message {
				t.Errorf("status %v, want %q", st, message)
			}
			n.rund.Health(a.TaskId, rundpb.Health_HEALTH_STARTING, "its healthcheck fails: exit code 1")
			n.settle(5 * time.Second)
		}
		n.rund.Health(a.TaskId, rundpb.Health_HEALTH_HEALTHY, "")
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)

		// One that never passed is never said to run, not while rund ends it either.
		sick := assignment(running)
		sick.Spec.Container.Healthcheck = a.Spec.Container.Healthcheck
		n.manager.Assign(sick)
		n.settle(5 * time.Second)
		n.rund.Health(sick.TaskId, rundpb.Health_HEALTH_UNHEALTHY, "unhealthy: exit code 1")
		n.rund.Health(a.TaskId, rundpb.Health_HEALTH_UNHEALTHY, "unhealthy: exit code 1")
		n.settle(5 * time.Second)
		if st := n.manager.Status(sick.TaskId); st.State != schedulerpb.TaskState_TASK_STATE_STARTING || st.Message != "unhealthy: exit code 1" {
			t.Errorf("one that never was healthy: %v", st)
		}
		n.want(a.TaskId, running)
	})
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		code  int32
		oom   bool
		state schedulerpb.TaskState
		text  string
	}{
		{"done", 0, false, complete, ""},
		{"error", 3, false, failed, "exit code 3"},
		{"memory", 137, true, failed, "out of memory: container exceeded its limit of 64MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(n *node) {
				a := assignment(running)
				a.Spec.Limits = &taskpb.Resources{MemoryBytes: 64 << 20}
				n.manager.Assign(a)
				n.settle(5 * time.Second)
				n.rund.Exit(a.TaskId, c.code, c.oom)
				n.settle(5 * time.Second)
				n.want(a.TaskId, c.state)
				st := n.manager.Status(a.TaskId)
				if st.Error != c.text || st.ExitCode != c.code || st.OomKilled != c.oom {
					t.Errorf("status %v", st)
				}
				n.restart() // remembers nothing, and starts nothing
				n.settle(time.Minute)
				if got := n.rund.Starts(a.TaskId); got != 1 || n.netd.Len() != 0 {
					t.Errorf("started %d times, %d endpoints", got, n.netd.Len())
				}
			})
		})
	}
}

func TestRejected(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.rund.Reject(a.TaskId, "image web: wrong architecture")
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, rejected)
		if st := n.manager.Status(a.TaskId); st.Error != "image web: wrong architecture" {
			t.Errorf("status %v", st)
		}
	})
}

func TestMissingFeature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.netd.SetFeatures(&netdpb.Feature{Name: "nftables", Required: true, Detail: "no such module"})
		n.rund.SetFeatures(&taskpb.Feature{Name: "seccomp", Required: true, Present: true})
		n.start()
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, rejected)
		if st := n.manager.Status(a.TaskId); st.Error != "the node lacks nftables (no such module)" {
			t.Errorf("status %v", st)
		}
		if got := len(n.manager.Hello().Features); got != 2 {
			t.Errorf("%d features told", got)
		}
		if len(n.rund.Tasks()) != 0 {
			t.Error("something was started")
		}
		n.end()
	})
}

// A runtime that comes up late is used as soon as it is there.
func TestFeatureComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.rund.SetFeatures(&taskpb.Feature{Name: "containerd", Required: true})
		n.start()
		n.settle(time.Minute)
		n.rund.SetFeatures(&taskpb.Feature{Name: "containerd", Required: true, Present: true})
		n.settle(5 * time.Second)
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		if f := n.manager.Hello().Features; len(f) != 1 || !f[0].Present {
			t.Errorf("features told %v", f)
		}
		n.end()
	})
}

func TestNotBefore(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		a.NotBefore = time.Now().Add(30 * time.Second).UnixNano()
		n.manager.Assign(a)
		n.settle(29 * time.Second)
		n.want(a.TaskId, schedulerpb.TaskState_TASK_STATE_READY)
		if n.netd.Len() != 0 {
			t.Error("its ports are taken too early")
		}
		n.settle(2 * time.Second)
		n.want(a.TaskId, running)
	})
}

func TestSubnetFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.subnet = netip.MustParsePrefix("172.30.0.0/29")
		n.start()
		tally := map[schedulerpb.TaskState]int{}
		var ids []string
		for range 7 {
			a := assignment(running)
			ids = append(ids, a.TaskId)
			n.manager.Assign(a)
		}
		n.settle(5 * time.Second)
		for _, id := range ids {
			tally[n.state(id)]++
			if st := n.manager.Status(id); st.State == rejected && !strings.Contains(st.Error, "172.30.0.0/29 is full") {
				t.Errorf("status %v", st)
			}
		}
		if tally[running] != 5 || tally[rejected] != 2 {
			t.Errorf("states %v", tally)
		}
		n.end()
	})
}

func TestPortInUse(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.netd.Fail(a.TaskId, "port 8080/tcp is in use on this node")
		n.manager.Assign(a)
		n.settle(20 * time.Second)
		n.want(a.TaskId, failed)
		if st := n.manager.Status(a.TaskId); st.Error != "network: port 8080/tcp is in use on this node" {
			t.Errorf("status %v", st)
		}
		if n.rund.Starts(a.TaskId) != 0 {
			t.Error("it was started all the same")
		}
	})
}

// A restarted agent starts nothing and stops nothing until a manager spoke.
func TestSilentUntilAssigned(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		address := n.netd.Endpoint(a.TaskId).Address
		n.manager.SetDown(true)
		applies := n.rund.Applies()
		n.restart()
		n.settle(10 * time.Minute)
		if n.rund.Applies() != applies || n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_RUNNING {
			t.Errorf("%d declarations without a manager, containers %v", n.rund.Applies()-applies, n.rund.Tasks())
		}
		n.manager.SetDown(false)
		n.settle(20 * time.Second)
		n.want(a.TaskId, running)
		if got := n.netd.Endpoint(a.TaskId).GetAddress(); got != address || n.rund.Starts(a.TaskId) != 1 {
			t.Errorf("address %s was %s, started %d times", got, address, n.rund.Starts(a.TaskId))
		}
	})
}

// Managers away: a restarted netd is healed, a restarted rund told again.
func TestHelpersHealedAlone(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.manager.SetDown(true)
		n.settle(time.Minute)
		n.netd.Restart()
		applies := n.rund.Applies()
		n.rund.Restart()
		n.settle(10 * time.Second)
		if n.netd.Generation() == 0 || n.rund.Applies() <= applies {
			t.Errorf("netd has generation %d, rund heard %d declarations", n.netd.Generation(), n.rund.Applies()-applies)
		}
		if n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_RUNNING || n.rund.Starts(a.TaskId) != 1 {
			t.Error("the container was touched")
		}
	})
}

func TestContainerLost(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.stop()
		n.rund.Reboot()
		n.start()
		n.settle(20 * time.Second)
		n.want(a.TaskId, failed)
		if st := n.manager.Status(a.TaskId); !strings.HasPrefix(st.Error, "the container is gone") {
			t.Errorf("status %v", st)
		}
	})
}

// A manager that is silent though its connection stands is left, and a
// manager that comes back is found within the longest pause.
func TestSilentManager(t *testing.T) {
	each(t, func(n *node) {
		n.settle(time.Minute)
		if got := n.manager.Opened(); got != 1 {
			t.Fatalf("%d sessions opened", got)
		}
		n.manager.SetMute(true)
		n.settle(16 * time.Second)
		if got := n.manager.Opened(); got != 2 {
			t.Fatalf("%d sessions opened beside a silent manager", got)
		}
		n.manager.SetMute(false)
		n.manager.SetDown(true)
		n.settle(time.Minute)
		before := n.manager.Opened()
		n.manager.SetDown(false)
		n.settle(10 * time.Second)
		if got := n.manager.Opened(); got != before+1 {
			t.Errorf("%d sessions opened, want %d", got, before+1)
		}
	})
}

func TestLogs(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.rund.SetLogs(a.TaskId, "one\n", strings.Repeat("x", 100<<10))
		n.manager.Send(&schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Log{
			Log: &schedulerpb.LogSubscription{Id: "s", TaskIds: []string{a.TaskId, "unknown"}, Tail: -1}}})
		n.settle(5 * time.Second)
		var bytes, ends int
		for _, c := range n.manager.Logs() {
			bytes += len(c.Data)
			if c.Eof {
				ends++
				if (c.Error != "") != (c.TaskId == "unknown") {
					t.Errorf("chunk %v", c)
				}
			}
		}
		if bytes != 4+100<<10 || ends != 2 {
			t.Errorf("%d bytes, %d ends", bytes, ends)
		}
	})
}

func TestConfigRequired(t *testing.T) {
	if err := agent.Run(t.Context(), agent.Config{}); err == nil {
		t.Error("an agent without anything ran")
	}
}

// A container that ended while no agent was there is not removed before netd
// let go of it.
func TestDetachedBeforeRemoved(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.stop()
		n.rund.Exit(a.TaskId, 0, false)
		n.manager.Remove(a.TaskId)
		n.start()
		n.settle(20 * time.Second)
		if len(n.rund.Tasks()) != 0 || n.netd.Len() != 0 {
			t.Errorf("containers %v, %d endpoints are left", n.rund.Tasks(), n.netd.Len())
		}
	})
}

// A helper that is away for longer than a restart is told as missing, and not
// any more when it is back; what runs goes on.
func TestHelperAway(t *testing.T) {
	each(t, func(n *node) {
		a := assignment(running)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		away := func() string {
			for _, f := range n.manager.Hello().Features {
				if f.Required && !f.Present {
					return f.Name
				}
			}
			return ""
		}
		for name, set := range map[string]func(bool){"rund": n.rund.SetDown, "netd": n.netd.SetDown} {
			set(true)
			n.settle(2 * time.Second)
			if got := away(); got != "" {
				t.Errorf("%s is told as missing at once", got)
			}
			n.settle(10 * time.Second)
			if got := away(); got != name {
				t.Errorf("%s is away, %q was told", name, got)
			}
			set(false)
			n.settle(10 * time.Second)
			if got := away(); got != "" {
				t.Errorf("%s is still told as missing", got)
			}
		}
		n.want(a.TaskId, running)
		if n.rund.Starts(a.TaskId) != 1 {
			t.Error("the task was started again")
		}
	})
}
