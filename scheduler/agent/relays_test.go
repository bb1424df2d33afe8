package agent_test

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// TestRelayed: a task whose port has the PROXY protocol runs once what writes the
// headers listens, is led to while that does, and nothing leads past it.
func TestRelayed(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		set := w.set()
		ports := set.Update[2].Ports
		ports[0].ProxyProtocol, ports[0].HostIp = true, "192.0.2.1"
		n.rund.FailRelay(8080, "the PROXY protocol of port 8080: no")
		n.manager.SetNetworks(set)
		a := w.published(0)
		n.manager.Assign(a)
		n.settle(10 * time.Second)
		n.want(a.TaskId, schedulerpb.TaskState_TASK_STATE_STARTING)
		n.message(a.TaskId, "the PROXY protocol of port 8080: no")
		serves := func(want bool, when string) {
			t.Helper()
			if n.netd.Reached(w.web, a.TaskId).GetServing() != want {
				t.Errorf("%s: led to it: %v", when, !want)
			}
		}
		serves(false, "before its relay listens")
		n.rund.FailRelay(8080, "")
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		serves(true, "since its relay listens")
		const at = 61000 + 8080%4536
		if s := n.netd.Published(w.web); len(s.GetPorts()) != 2 || s.Ports[0].Target != at || s.Ports[1].Target != 53 {
			t.Errorf("entry nodes lead to %v", s.GetPorts())
		}
		got := n.rund.Actual(a.TaskId).GetRelays()
		if len(got) != 1 {
			t.Fatalf("relays: %v", got)
		}
		r := got[0].Relay
		if r.Listen != at || r.Published != 8080 || r.Target != 80 || r.Host != "192.0.2.1" || len(r.Addresses) != 2 || r.Addresses[0] != "10.255.0.20" || r.Addresses[1] != "fd00:2::20" {
			t.Errorf("its relay: %v", r)
		}

		n.rund.FailRelay(8080, "it ended")
		n.settle(time.Second)
		n.want(a.TaskId, running)
		n.message(a.TaskId, "it ended")
		serves(false, "while its relay is gone")
		n.rund.FailRelay(8080, "")
		n.settle(5 * time.Second)
		serves(true, "since it is back")

		// Ports come without a pause of the others.
		ports = append(ports, &schedulerpb.IngressPortView{Published: 8443, Target: 443, ProxyProtocol: true})
		n.rund.FailRelay(8443, "")
		set = w.set()
		set.Update[2].Ports = ports
		n.manager.SetNetworks(set)
		n.settle(5 * time.Second)
		serves(true, "with a port more")
		if got := n.rund.Actual(a.TaskId).GetRelays(); len(got) != 2 || n.rund.Starts(a.TaskId) != 1 {
			t.Errorf("relays: %v, started %d times", got, n.rund.Starts(a.TaskId))
		}

		// An agent that hears nothing of managers leaves them as they are.
		n.manager.SetDown(true)
		n.restart()
		n.settle(30 * time.Second)
		serves(true, "after a restart of the agent without managers")
		if got := n.rund.Actual(a.TaskId).GetRelays(); len(got) != 2 {
			t.Errorf("relays: %v", got)
		}
		n.manager.SetDown(false)
		n.settle(10 * time.Second)

		// And without the protocol they go.
		set = w.set()
		n.manager.SetNetworks(set)
		n.settle(5 * time.Second)
		if got := n.rund.Actual(a.TaskId).GetRelays(); len(got) != 0 || n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_RUNNING {
			t.Errorf("relays: %v", got)
		}
		serves(true, "without the protocol")
	})
}
