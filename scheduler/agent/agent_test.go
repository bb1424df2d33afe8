package agent_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/scheduler/agent"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

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
