package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

const preparing = schedulerpb.TaskState_TASK_STATE_PREPARING

// netWorld is a cluster's networks as one node hears of them.
type netWorld struct {
	self, other string
	back, front string
	web, db     string
	elsewhere   string // a task of db on the other node
	ports       string // the network of web's published ports
	lan, off    string // networks of rund's drivers
}

func newNetWorld() *netWorld {
	return &netWorld{ident.New(), ident.New(), ident.New(), ident.New(), ident.New(), ident.New(), ident.New(), ident.New(), ident.New(), ident.New()}
}

func (w *netWorld) set() *schedulerpb.NetworkSet {
	return &schedulerpb.NetworkSet{
		Self:  &schedulerpb.PeerView{NodeId: w.self, MeshAddress: "198.18.0.1", MeshBits: 15},
		Peers: []*schedulerpb.PeerView{{NodeId: w.other, MeshAddress: "198.18.0.2", MeshBits: 15, Underlay: "192.0.2.2:7946"}},
		Update: []*schedulerpb.NetworkView{
			{Id: w.back, Name: "back", Driver: "overlay", Kind: meshpb.Kind_KIND_OVERLAY, Vni: 257, Internal: true,
				Subnets: []*meshpb.Subnet{{Subnet: "10.200.1.0/24", Gateway: "10.200.1.1"}, {Subnet: "fd00:1::/64", Gateway: "fd00:1::1"}},
				Services: []*schedulerpb.NetworkServiceView{
					{ServiceId: w.web, Name: "web", Vips: []string{"10.200.1.200", "fd00:1::c8"}},
					{ServiceId: w.db, Name: "db", Aliases: []string{"sql"}}},
				Endpoints: []*schedulerpb.EndpointView{{TaskId: w.elsewhere, ServiceId: w.db, NodeId: w.other, Slot: 1, Addresses: []string{"10.200.1.9", "fd00:1::9"}, Serving: true}},
				Policy: []*schedulerpb.PolicyRuleView{{PolicyId: w.web, PolicyName: "p", Index: 2,
					Rule: &meshpb.PolicyRule{FromService: "web", ToService: "db", Protocol: meshpb.Protocol_PROTOCOL_TCP, FirstPort: 5432, LastPort: 5432}}}},
			{Id: w.front, Name: "front", Driver: "overlay", Kind: meshpb.Kind_KIND_OVERLAY, Vni: 258,
				Subnets:  []*meshpb.Subnet{{Subnet: "10.200.2.0/24", Gateway: "10.200.2.1"}},
				Services: []*schedulerpb.NetworkServiceView{{ServiceId: w.web, Name: "web", Vips: []string{"10.200.2.200"}}}},
			w.ingress(),
			{Id: w.lan, Name: "lan", Driver: "cni", Kind: meshpb.Kind_KIND_LOCAL, Options: map[string]string{"conflist": "lan"},
				Services: []*schedulerpb.NetworkServiceView{{ServiceId: w.web, Name: "web", Aliases: []string{"www"}}}},
			{Id: w.off, Name: "off", Driver: "none", Kind: meshpb.Kind_KIND_LOCAL},
		},
	}
}

// task is one of web, on these networks.
func (w *netWorld) task(networks ...string) *schedulerpb.Assignment {
	a := assignment(running)
	a.ServiceId = w.web
	for _, id := range networks {
		a.Spec.Networks = append(a.Spec.Networks, &taskpb.NetworkUse{Network: id})
		at := &taskpb.Attachment{NetworkId: id, Addresses: []string{"10.200.2.7"}}
		if id == w.back {
			at.Addresses = []string{"10.200.1.7", "fd00:1::7"}
		}
		if id == w.lan || id == w.off {
			at.Addresses = nil
		}
		a.Attachments = append(a.Attachments, at)
	}
	return a
}

func (n *node) message(task, want string) {
	n.t.Helper()
	if st := n.manager.Status(task); !strings.Contains(st.GetMessage(), want) {
		n.t.Errorf("status %v, want a message with %q", st, want)
	}
}

func TestOnNetworks(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		n.manager.SetNetworks(w.set())
		a := w.task(w.back, w.front)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		place := n.netd.Place(w.front, a.TaskId)
		if place == nil || place.Index != 1 || place.Netns != a.TaskId || !place.Serving || place.ServiceId != w.web || n.netd.Place(w.back, a.TaskId).GetIndex() != 0 {
			t.Errorf("its place: %v", place)
		}
		o := n.netd.Overlay(w.back)
		if o.GetVni() != 257 || !o.GetInternal() || o.GetNetns() != "net-"+w.back || len(o.GetServices()) != 1 || len(o.GetRules()) != 1 ||
			o.Rules[0].Protocol != 6 || o.Rules[0].From[0] != w.web || o.Rules[0].To[0] != w.db || o.Rules[0].Id != w.web+"/2" {
			t.Errorf("the network: %v", o)
		}
		if e := n.netd.Place(w.back, w.elsewhere); e.GetNode() != "198.18.0.2" || !e.GetServing() {
			t.Errorf("the other node's: %v", e)
		}
		if n.netd.Endpoint(a.TaskId) == nil {
			t.Error("it has no way out")
		}
		box := n.named.Sandbox(a.TaskId)
		if box == nil || !box.Forward || len(box.Addresses) != 3 || box.Hostname != a.TaskId[:12] {
			t.Errorf("its names: %v", box)
		}
		if s := n.named.Service(w.back, "web"); len(s.GetTasks()) != 1 || s.Tasks[0].Slot != 1 || len(s.Vips) != 2 {
			t.Errorf("its service: %v", s)
		}
		if s := n.named.Service(w.back, "db"); len(s.GetTasks()) != 1 || s.Aliases[0] != "sql" {
			t.Errorf("the other service: %v", s)
		}

		// In mode dnsrr its name leads to no virtual address, and one that it had leads
		// to its tasks while the managers name it.
		set := w.set()
		set.Update[0].Services[0].EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
		n.manager.SetNetworks(set)
		n.settle(time.Second)
		if s := n.named.Service(w.back, "web"); len(s.GetTasks()) != 1 || len(s.Vips) != 0 {
			t.Errorf("its name in mode dnsrr: %v", s)
		}
		if all := n.netd.Overlay(w.back).GetServices(); !slices.ContainsFunc(all, func(s *netdpb.OverlayService) bool { return s.GetServiceId() == w.web && len(s.GetVips()) == 2 }) {
			t.Errorf("its virtual addresses in mode dnsrr: %v", all)
		}

		// It leaves names and virtual addresses first, then it is asked to stop.
		a.Desired = shutdown
		n.manager.Assign(a)
		n.settle(time.Second)
		if n.netd.Place(w.back, a.TaskId).GetServing() || len(n.named.Service(w.back, "web").GetTasks()) != 0 || n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_RUNNING {
			t.Errorf("withdrawn: %v, %v, its container %v", n.netd.Place(w.back, a.TaskId), n.named.Service(w.back, "web"), n.rund.Tasks()[a.TaskId])
		}
		n.settle(2 * time.Second)
		n.want(a.TaskId, shutdown)
		if n.netd.Place(w.back, a.TaskId) != nil || n.named.Sandbox(a.TaskId) != nil {
			t.Error("it is not gone")
		}
		n.manager.Remove(a.TaskId)
		n.manager.SetNetworks(&schedulerpb.NetworkSet{Self: w.set().Self})
		n.settle(5 * time.Second)
		if n.netd.Overlay(w.back) != nil || n.rund.Network(w.back) || n.rund.Network(w.front) {
			t.Error("its networks are not gone")
		}
	})
}

// A task does not start before all of it is there, and says what is missing.
func TestWaitsForNetworks(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		n.named.SetDeaf(true)
		a := w.task(w.back)
		n.netd.Fail(a.TaskId, "the kernel lacks vxlan")
		n.rund.FailNetwork(w.back, "unshare: no")
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		n.want(a.TaskId, preparing)
		n.message(a.TaskId, "waiting for the managers to describe its networks")
		n.manager.SetNetworks(&schedulerpb.NetworkSet{Self: w.set().Self})
		n.settle(time.Second)
		n.message(a.TaskId, "waiting for the managers to describe network "+w.back)
		n.manager.SetNetworks(w.set())
		n.settle(time.Second)
		n.message(a.TaskId, "network back: unshare: no")
		n.rund.FailNetwork(w.back, "")
		n.settle(10 * time.Second)
		n.message(a.TaskId, "network back: the kernel lacks vxlan")
		n.netd.Fail(a.TaskId, "")
		n.settle(5 * time.Second)
		n.message(a.TaskId, "names: waiting for netd to hand its sockets")
		n.named.SetDown(true)
		n.settle(5 * time.Second)
		n.message(a.TaskId, "names: redoubt-named is not answering")
		n.want(a.TaskId, preparing)
		n.named.SetDeaf(false)
		n.named.SetDown(false)
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
	})
}

// Of internal networks alone there is no way to the node's bridge.
func TestInternalNetworks(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		n.manager.SetNetworks(w.set())
		a, port := w.task(w.back), w.task(w.back)
		port.Attachments[0].Addresses[0] = "10.200.1.8"
		port.Spec.Ports = []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_HOST}}
		n.manager.Assign(a)
		n.manager.Assign(port)
		n.settle(5 * time.Second)
		n.want(a.TaskId, running)
		n.want(port.TaskId, rejected)
		if n.netd.Len() != 0 || n.named.Sandbox(a.TaskId).GetForward() {
			t.Error("it has a way out")
		}
	})
}

func TestUnhealthyIsWithdrawn(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		n.manager.SetNetworks(w.set())
		a := w.task(w.back)
		a.Spec.Container.Healthcheck = &taskpb.Healthcheck{Test: []string{"CMD", "x"}}
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		if n.netd.Place(w.back, a.TaskId).GetServing() {
			t.Error("it serves before its healthcheck passed")
		}
		for _, h := range []struct {
			health rundpb.Health
			serves bool
		}{{rundpb.Health_HEALTH_HEALTHY, true}, {rundpb.Health_HEALTH_UNHEALTHY, false}} {
			n.rund.Health(a.TaskId, h.health, "")
			n.settle(100 * time.Millisecond)
			if got := n.netd.Place(w.back, a.TaskId).GetServing(); got != h.serves || len(n.named.Service(w.back, "web").GetTasks()) != 1 != !h.serves {
				t.Errorf("%v: serving %v", h.health, got)
			}
		}
	})
}

// Whoever is started again is told everything; without managers nothing changes.
func TestNetworksSurviveRestarts(t *testing.T) {
	each(t, func(n *node) {
		w := newNetWorld()
		n.manager.SetNetworks(w.set())
		a := w.task(w.back, w.front)
		n.manager.Assign(a)
		n.settle(5 * time.Second)
		check := func(when string) {
			t.Helper()
			if e := n.netd.Place(w.back, a.TaskId); e == nil || !e.Serving || n.named.Sandbox(a.TaskId) == nil || n.netd.Endpoint(a.TaskId) == nil ||
				!n.rund.Network(w.back) || n.rund.Tasks()[a.TaskId] != rundpb.Phase_PHASE_RUNNING || len(n.named.Service(w.back, "web").GetTasks()) != 1 {
				t.Errorf("%s: place %v, names %v, endpoint %v", when, e, n.named.Sandbox(a.TaskId), n.netd.Endpoint(a.TaskId))
			}
		}
		check("at first")
		n.manager.SetDown(true)
		n.settle(5 * time.Second)
		n.netd.Restart()
		n.named.Restart()
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
		if n.rund.Starts(a.TaskId) != 1 || len(n.netd.Lost()) > 0 {
			t.Errorf("started %d times, networks lost on the way: %v", n.rund.Starts(a.TaskId), n.netd.Lost())
		}
	})
}

// What managers must not say ends the session.
func TestMalformedNetworks(t *testing.T) {
	w := newNetWorld()
	edit := func(f func(*schedulerpb.NetworkSet)) *schedulerpb.NetworkSet { s := w.set(); f(s); return s }
	for name, set := range map[string]*schedulerpb.NetworkSet{
		"address outside":  edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Endpoints[0].Addresses[0] = "10.0.0.1" }),
		"gateway's":        edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Endpoints[0].Addresses[0] = "10.200.1.1" }),
		"a pool":           edit(func(s *schedulerpb.NetworkSet) { s.Pools = []string{"0.0.0.0/0"} }),
		"another pool":     edit(func(s *schedulerpb.NetworkSet) { s.Pools = []string{"10.200.0.1/13"} }),
		"a node":           edit(func(s *schedulerpb.NetworkSet) { s.Nodes = []string{"node-1"} }),
		"another node":     edit(func(s *schedulerpb.NetworkSet) { s.Nodes = []string{"127.0.0.1"} }),
		"a port":           edit(func(s *schedulerpb.NetworkSet) { s.Published = []string{"tcp/080"} }),
		"no node removed":  edit(func(s *schedulerpb.NetworkSet) { s.RemoveNodes = []string{"192.0.2.1"} }),
		"no port removed":  edit(func(s *schedulerpb.NetworkSet) { s.RemovePublished = []string{"tcp/80"} }),
		"no VNI":           edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Vni = 0 }),
		"VNI":              edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Vni = 1 << 24 }),
		"changes":          edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Changes = true }),
		"name":             edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Services[0].Name = "a.b" }),
		"rule":             edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Policy[0].Rule.LastPort = 70000 }),
		"protocol":         edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Policy[0].Rule.Protocol = 99 }),
		"id":               edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Id = "../../etc" }),
		"mesh address":     edit(func(s *schedulerpb.NetworkSet) { s.Peers[0].MeshAddress = "fd00::1" }),
		"removes":          edit(func(s *schedulerpb.NetworkSet) { s.Remove = []string{w.back} }),
		"subnet":           edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Subnets[0].Subnet = "10.200.1.7/24" }),
		"without a subnet": edit(func(s *schedulerpb.NetworkSet) { s.Update[0].Subnets = nil }),
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(n *node) {
				n.settle(time.Second)
				before := n.manager.Opened()
				n.manager.SetNetworks(set)
				n.settle(time.Second)
				if n.manager.Opened() == before {
					t.Error("the session goes on")
				}
			})
		})
	}
}
