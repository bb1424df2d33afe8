package agent_test

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

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

// The same where rund is away as the agent begins, so that it hears of its tasks
// from the managers first.
func TestDetachedBeforeRemovedWhereManagersNamedItFirst(t *testing.T) {
	w := newNetWorld()
	for name, a := range map[string]*schedulerpb.Assignment{
		"on the bridge": assignment(running), "on networks": w.task(w.back, w.front), "on an internal network": w.task(w.back), "published": w.published(1),
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(n *node) {
				n.manager.SetNetworks(w.set())
				n.manager.Assign(a)
				n.settle(5 * time.Second)
				n.want(a.TaskId, running)
				n.rund.SetDown(true)
				n.netd.SetDown(true) // what it has is what the former agent told it
				n.restart()
				n.rund.Exit(a.TaskId, 0, false)
				n.settle(10 * time.Second)
				n.manager.Remove(a.TaskId)
				n.rund.SetDown(false)
				n.settle(20 * time.Second)
				if n.rund.Tasks()[a.TaskId] == 0 {
					t.Error("it was removed though netd let go of nothing")
				}
				n.netd.SetDown(false)
				n.settle(20 * time.Second)
				if len(n.rund.Tasks()) != 0 || n.netd.Len() != 0 {
					t.Errorf("containers %v, %d endpoints are left", n.rund.Tasks(), n.netd.Len())
				}
			})
		})
	}
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

// One that is removed while netd is still being told of its networks goes once netd
// has let go of it, too.
func TestDetachedBeforeRemovedWhileBeingAttached(t *testing.T) {
	for range 20 {
		each(t, func(n *node) {
			w := newNetWorld()
			n.manager.SetNetworks(w.set())
			n.settle(10 * time.Second)
			n.netd.SetSlow(3 * time.Second)
			a := w.task(w.back)
			n.manager.Assign(a)
			n.settle(time.Second)
			n.manager.Remove(a.TaskId)
			n.settle(time.Minute)
			if len(n.rund.Tasks()) != 0 {
				t.Errorf("containers %v are left", n.rund.Tasks())
			}
		})
	}
}
