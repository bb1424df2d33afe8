package agent_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// ingress is the network of web's published port, on which both nodes answer.
func (w *netWorld) ingress() *schedulerpb.NetworkView {
	return &schedulerpb.NetworkView{Id: w.ports, Name: "ingress-web", Kind: meshpb.Kind_KIND_INGRESS, Vni: 300, ServiceId: w.web,
		Subnets:   []*meshpb.Subnet{{Subnet: "10.255.0.0/16"}, {Subnet: "fd00:2::/64"}},
		Ports:     []*schedulerpb.IngressPortView{{Published: 8080, Target: 80, HostIp: "::1", PreferLocal: true}, {Published: 53, Target: 53, Protocol: taskpb.Port_PROTOCOL_UDP}},
		Entries:   []string{w.self, w.other},
		Endpoints: []*schedulerpb.EndpointView{{TaskId: w.elsewhere, ServiceId: w.web, NodeId: w.other, Slot: 9, Addresses: []string{"10.255.0.9"}, Serving: true}}}
}

// published is a task of web with that port, and no network besides.
func (w *netWorld) published(n int) *schedulerpb.Assignment {
	a := assignment(running)
	a.ServiceId = w.web
	a.Spec.Ports = []*taskpb.Port{{Published: 8080, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}
	a.Attachments = []*taskpb.Attachment{{NetworkId: w.ports, Addresses: []string{fmt.Sprintf("10.255.0.%d", 20+n), fmt.Sprintf("fd00:2::%d", 20+n)}}}
	return a
}

func TestPublished(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		set := w.set()
		set.Update = set.Update[:2]
		n.manager.SetNetworks(set)
		a := w.published(0)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, preparing)
		n.message(a.TaskId, "waiting for the managers to describe network "+w.ports)
		n.rund.FailNetwork("ingress", "unshare: no")
		n.netd.Fail("ingress/"+a.TaskId, "the kernel lacks veth")
		set.Update = append(set.Update, w.ingress())
		n.manager.SetNetworks(set)
		n.settle(time.Second)
		n.message(a.TaskId, "published ports: unshare: no")
		n.rund.FailNetwork("ingress", "")
		n.settle(10 * time.Second)
		n.message(a.TaskId, "published ports: the kernel lacks veth")
		n.want(a.TaskId, preparing)
		n.netd.Take(8080, "port 8080/tcp is in use on this node")
		n.netd.Fail("ingress/"+a.TaskId, "")
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		n.message(a.TaskId, "port 8080/tcp is in use on this node")
		n.netd.Take(8080, "")
		n.settle(5 * time.Second)
		if st := n.manager.Status(a.TaskId); st.GetMessage() != "" {
			t.Errorf("nothing hinders it: %v", st)
		}
		s := n.netd.Published(w.web)
		if s.GetVni() != 300 || !s.GetEntry() || len(s.GetEntries()) != 1 || s.Entries[0] != "198.18.0.2" || len(s.GetPorts()) != 2 || s.Ports[0].HostIp != "::1" || !s.Ports[0].PreferLocal || !s.Ports[1].Udp {
			t.Errorf("its service: %v", s)
		}
		e := n.netd.Reached(w.web, a.TaskId)
		if !e.GetServing() || e.GetAddress6() != "fd00:2::20" || e.GetNetns() != a.TaskId || n.netd.Reached(w.web, w.elsewhere).GetNode() != "198.18.0.2" {
			t.Errorf("it is reached at %v", e)
		}
		if n.netd.Endpoint(a.TaskId) == nil || n.named.Sandbox(a.TaskId) != nil {
			t.Error("it has no way out, or names of networks that it is not on")
		}

		// Nothing leads to it any more, and then it is asked to stop.
		a.Desired = shutdown
		n.manager.Assign(a)
		n.settle(time.Second)
		if n.netd.Reached(w.web, a.TaskId).GetServing() || n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_RUNNING {
			t.Errorf("withdrawn: %v, its container %v", n.netd.Reached(w.web, a.TaskId), n.rund.Tasks()[a.TaskId])
		}
		n.settle(2 * time.Second)
		n.want(a.TaskId, shutdown)
		if n.netd.Reached(w.web, a.TaskId) != nil || !n.rund.Network("ingress") {
			t.Error("it is still reached, or the node answers no more")
		}
		n.manager.SetNetworks(&schedulerpb.NetworkSet{Self: set.Self})
		n.settle(5 * time.Second)
		if n.netd.Published(w.web) != nil || n.rund.Network("ingress") {
			t.Error("its ports are not gone")
		}
	})
}

// Whoever is started again is told everything; without managers nothing changes.
func TestPublishedSurvivesRestarts(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		n.manager.SetNetworks(w.set())
		a := w.published(0)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		check := func(when string) {
			t.Helper()
			if e := n.netd.Reached(w.web, a.TaskId); !e.GetServing() || n.netd.Endpoint(a.TaskId) == nil || !n.rund.Network("ingress") || n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_RUNNING {
				t.Errorf("%s: reached at %v, endpoint %v", when, e, n.netd.Endpoint(a.TaskId))
			}
		}
		check("at first")
		n.manager.SetDown(true)
		n.settle(5 * time.Second)
		n.netd.Restart()
		n.rund.Restart()
		n.settle(5 * time.Second)
		check("after restarts of the helpers without managers")
		n.restart()
		n.settle(30 * time.Second)
		check("after a restart of the agent without managers")
		n.manager.SetDown(false)
		n.settle(10 * time.Second)
		check("after the managers came back")
		n.want(a.TaskId, running)
		if n.rund.Starts(a.TaskId) != 1 {
			t.Errorf("started %d times", n.rund.Starts(a.TaskId))
		}
	})
}

// What managers must not say of ports ends the session.
func TestMalformedPorts(t *testing.T) {
	w := newNetWorld()
	for name, harm := range map[string]func(*schedulerpb.NetworkView){
		"no VNI":         func(v *schedulerpb.NetworkView) { v.Vni = 0 },
		"no service":     func(v *schedulerpb.NetworkView) { v.ServiceId = "../x" },
		"no IPv4":        func(v *schedulerpb.NetworkView) { v.Subnets = v.Subnets[1:] },
		"port":           func(v *schedulerpb.NetworkView) { v.Ports[0].Published = 65536 },
		"target":         func(v *schedulerpb.NetworkView) { v.Ports[0].Target = 0 },
		"protocol":       func(v *schedulerpb.NetworkView) { v.Ports[0].Protocol = 9 },
		"host":           func(v *schedulerpb.NetworkView) { v.Ports[0].HostIp = "fe80::1%eth0" },
		"entry":          func(v *schedulerpb.NetworkView) { v.Entries[0] = "x" },
		"removed of all": func(v *schedulerpb.NetworkView) { v.RemoveEntries = []string{ident.New()} },
		"many ports": func(v *schedulerpb.NetworkView) {
			for range 64 {
				v.Ports = append(v.Ports, v.Ports[0])
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(n *node) {
				n.settle(time.Second)
				before := n.manager.Opened()
				set := w.set()
				harm(set.Update[2])
				n.manager.SetNetworks(set)
				n.settle(time.Second)
				if n.manager.Opened() == before {
					t.Error("the session goes on")
				}
			})
		})
	}
}
