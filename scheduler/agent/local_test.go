package agent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// A task on networks of rund's drivers is made with them, is told names there, and
// is on the node's bridge where another of its networks needs that. netd hears
// nothing of such a network.
func TestDrivenNetworks(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		n.rund.Drive("cni", "169.254.7.7/16", "10.1.0.2/24", "fd01::2/64", "10.1.0.3/24")
		n.manager.SetNetworks(w.set())
		lan, both, off := w.task(w.lan), w.task(w.back, w.lan, w.front), w.task(w.off)
		for _, a := range []*schedulerpb.Assignment{lan, both, off} {
			n.manager.Assign(a)
		}
		n.settle(5 * time.Second)
		for _, a := range []*schedulerpb.Assignment{lan, both, off} {
			n.want(a.TaskId, running)
		}
		if at := n.rund.Actual(both.TaskId).LocalAttachments; len(at) != 1 || at[0].NetworkId != w.lan || at[0].Interface != "cni1" {
			t.Errorf("it was made with %v", at)
		}
		if n.netd.Endpoint(lan.TaskId) != nil || n.netd.Endpoint(off.TaskId) != nil || n.netd.Endpoint(both.TaskId) == nil {
			t.Error("who is on the node's bridge is wrong")
		}
		if n.netd.Overlay(w.lan) != nil || n.netd.Overlay(w.off) != nil || n.netd.Place(w.front, both.TaskId).GetIndex() != 2 || !n.netd.Placed(lan.TaskId) || n.netd.Placed(off.TaskId) {
			t.Error("what netd is told is wrong")
		}
		if box := n.named.Sandbox(lan.TaskId); !slices.Equal(box.GetAddresses(), []string{"10.1.0.2", "fd01::2"}) || !box.GetForward() {
			t.Errorf("names for %v", box)
		}
		if s := n.named.Service(w.lan, "web"); len(s.GetTasks()) != 2 || len(s.Vips) != 0 || s.Aliases[0] != "www" {
			t.Errorf("names lead to %v", s)
		}
		if n.named.Sandbox(off.TaskId) != nil || len(n.rund.Actual(off.TaskId).Endpoint.Dns) != 0 {
			t.Error("names are told where there is no network")
		}
		said := n.manager.Status(both.TaskId).GetLocal()
		if len(said) != 1 || said[0].NetworkId != w.lan || !slices.Equal(said[0].Addresses, []string{"169.254.7.7", "10.1.0.2", "fd01::2", "10.1.0.3"}) {
			t.Errorf("managers are told %v", said)
		}
		n.restart()
		n.settle(5 * time.Second)
		if n.rund.Starts(lan.TaskId) != 1 || len(n.manager.Status(lan.TaskId).GetLocal()) != 1 {
			t.Errorf("after a restart %v", n.manager.Status(lan.TaskId))
		}
	})
}

// Nothing of a task exists before its networks are described: it would be made
// without them. One that is not described any more when rund has half of it is
// begun anew.
func TestDrivenNetworksAreKnownFirst(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		a := w.task(w.lan)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, preparing)
		n.message(a.TaskId, "waiting for the managers to describe its networks")
		if n.rund.Actual(a.TaskId) != nil {
			t.Error("it was begun")
		}
		n.manager.SetNetworks(&schedulerpb.NetworkSet{Self: w.set().Self})
		n.settle(time.Second)
		n.message(a.TaskId, "waiting for the managers to describe network "+w.lan)
		n.manager.SetNetworks(w.set())
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)

		ports := w.task(w.lan)
		ports.Spec.Ports = []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_HOST}}
		n.manager.Assign(ports)
		n.settle(5 * time.Second)
		n.want(ports.TaskId, rejected)
		if n.rund.Actual(a.TaskId).Phase != rundpb.Phase_PHASE_RUNNING {
			t.Error("another task was harmed")
		}
	})
}
