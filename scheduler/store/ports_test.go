package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func port(published, target uint32, mode taskpb.Port_Mode) *taskpb.Port {
	return &taskpb.Port{Published: published, Target: target, Mode: mode}
}

func publishing(name string, ports ...*taskpb.Port) *schedulerpb.ServiceSpec {
	sp := schedulertest.Spec(name, 1)
	sp.Task.Ports = ports
	return sp
}

// change updates a service's ports.
func change(t *testing.T, s *raftstore.Store, id string, ports ...*taskpb.Port) error {
	t.Helper()
	svc := service(t, s, id)
	sp := proto.CloneOf(svc.GetSpec())
	sp.Task.Ports = ports
	return store.UpdateService(t.Context(), s, id, svc.GetMeta().GetVersion(), sp)
}

func ingressOf(t *testing.T, s *raftstore.Store, id string) (n *meshpb.Network) {
	view(t, s, func(r raftstore.Reader) { n = meshstore.Ingress(r, id) })
	return n
}

// Whoever comes later is told who has the port.
func TestAPublishedPortIsOneServices(t *testing.T) {
	s := schedulertest.NewCluster(t)
	const host, ingress = taskpb.Port_MODE_HOST, taskpb.Port_MODE_INGRESS
	at := func(p *taskpb.Port, ip string) *taskpb.Port { p.HostIp = ip; return p }
	udp := func(p *taskpb.Port) *taskpb.Port { p.Protocol = taskpb.Port_PROTOCOL_UDP; return p }
	for i, tc := range []struct {
		has, wants *taskpb.Port
		refused    string
	}{
		{port(80, 1, ingress), port(80, 2, ingress), "port 80/tcp is published by service a already: choose another port"},
		{port(80, 1, ingress), port(80, 2, host), "by service a already:"},
		{port(80, 1, host), port(80, 2, ingress), "by service a already, in mode host:"},
		{port(80, 1, host), port(80, 2, host), ""},
		{port(80, 1, ingress), port(81, 1, ingress), ""},
		{port(80, 1, ingress), udp(port(80, 1, ingress)), ""},
		{udp(port(80, 1, ingress)), udp(port(80, 1, ingress)), "port 80/udp"},
		{at(port(80, 1, ingress), "192.0.2.1"), port(80, 1, ingress), "already at 192.0.2.1:"},
		{port(80, 1, ingress), at(port(80, 1, ingress), "192.0.2.1"), "by service a already:"},
		{at(port(80, 1, ingress), "192.0.2.1"), at(port(80, 1, host), "192.0.2.1"), "already at 192.0.2.1:"},
		{at(port(80, 1, ingress), "192.0.2.1"), at(port(80, 1, ingress), "192.0.2.2"), ""},
		{at(port(80, 1, ingress), "127.0.0.1"), at(port(80, 1, ingress), "::1"), ""},
	} {
		a, err := store.CreateService(t.Context(), s, publishing("a", tc.has))
		if err != nil {
			t.Fatal(err)
		}
		created, err := store.CreateService(t.Context(), s, publishing("b", tc.wants))
		if (err != nil) != (tc.refused != "") || err != nil && (!strings.Contains(err.Error(), tc.refused) || !errors.As(err, new(*store.RefusedError))) {
			t.Errorf("case %d: %v, want %q", i, err, tc.refused)
		}
		if created == "" {
			// One that is there already is refused the same, and stays as it was.
			if created, err = store.CreateService(t.Context(), s, publishing("b")); err != nil {
				t.Fatal(err)
			}
			if err := change(t, s, created, tc.wants); err == nil || !strings.Contains(err.Error(), tc.refused) || ingressOf(t, s, created) != nil {
				t.Errorf("case %d: update: %v", i, err)
			}
		}
		for _, id := range []string{a, created} {
			if err := store.RemoveService(t.Context(), s, id); err != nil {
				t.Fatal(err)
			}
		}
		checkPorts(t, s)
	}
}

// A service whose ports change keeps its tasks, unless they need another network.
func TestWhichPortsReplaceTasks(t *testing.T) {
	s := schedulertest.NewCluster(t)
	const host, ingress = taskpb.Port_MODE_HOST, taskpb.Port_MODE_INGRESS
	id, err := store.CreateService(t.Context(), s, publishing("web"))
	if err != nil {
		t.Fatal(err)
	}
	revision, network := uint64(1), ""
	for i, step := range []struct {
		ports []*taskpb.Port
		renew bool
	}{
		{[]*taskpb.Port{port(80, 80, ingress)}, true},
		{[]*taskpb.Port{port(8080, 80, ingress)}, false},
		{[]*taskpb.Port{port(8080, 81, ingress), port(8443, 443, ingress)}, false},
		{[]*taskpb.Port{port(8080, 81, ingress), port(9000, 9000, host)}, true},
		{[]*taskpb.Port{port(9000, 9000, host), port(8081, 81, ingress)}, false},
		{[]*taskpb.Port{port(9000, 9000, host), port(8081, 81, host)}, true},
		{nil, true},
		{[]*taskpb.Port{port(0, 80, ingress)}, true},
	} {
		if err := change(t, s, id, step.ports...); err != nil {
			t.Fatal(err)
		}
		svc := service(t, s, id)
		if step.renew {
			revision++
		}
		if svc.GetRevision() != revision {
			t.Errorf("step %d: revision %d, want %d", i, svc.GetRevision(), revision)
		}
		n := ingressOf(t, s, id)
		if (n != nil) != spec.HasIngress(svc.GetSpec().GetTask()) {
			t.Errorf("step %d: its ingress network is %v", i, n)
		}
		if n != nil && i > 0 && i < 5 && n.GetId() != network {
			t.Errorf("step %d: another network", i)
		}
		network = n.GetId()
		checkPorts(t, s)
	}
	p := service(t, s, id).GetSpec().GetTask().GetPorts()[0].GetPublished()
	if p < 30000 || p > 32767 {
		t.Errorf("port %d was chosen", p)
	}
	if err := change(t, s, id, port(0, 80, ingress), port(0, 81, ingress)); err != nil {
		t.Fatal(err)
	}
	if now := service(t, s, id).GetSpec().GetTask().GetPorts(); now[0].GetPublished() != p || now[1].GetPublished() == p {
		t.Errorf("port %d became %v", p, now)
	}
}

// What a task has there, and what becomes of it.
func TestTasksOnIngress(t *testing.T) {
	s := schedulertest.NewCluster(t)
	id, err := store.CreateService(t.Context(), s, publishing("web", port(80, 80, taskpb.Port_MODE_INGRESS)))
	if err != nil {
		t.Fatal(err)
	}
	n := ingressOf(t, s, id)
	if n == nil || n.GetKind() != meshpb.Kind_KIND_INGRESS || len(n.GetSubnets()) != 2 || n.GetSubnets()[0].GetSubnet() != "10.255.0.0/16" {
		t.Fatalf("network %v", n)
	}
	var task *schedulerpb.Task
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		task = &schedulerpb.Task{Id: ident.New(), ServiceId: id, Slot: 1, Revision: 1, NodeId: "n", Desired: store.Running,
			Status: &schedulerpb.TaskStatus{State: store.Assigned}}
		if err := store.Attach(tx, task, nil, true); err != nil {
			return err
		}
		return store.PutTask(tx, task)
	})
	if a := task.GetAttachments(); len(a) != 1 || a[0].GetNetworkId() != n.GetId() || len(a[0].GetAddresses()) != 2 ||
		!strings.HasPrefix(a[0].GetAddresses()[0], "10.255.") || !strings.HasPrefix(a[0].GetAddresses()[1], "fd") {
		t.Errorf("attachments %v", a)
	}
	for what, err := range map[string]error{
		"removed": func() error { _, err := store.RemoveNetwork(t.Context(), s, n.GetId()); return err }(),
		"used": func() error {
			sp := schedulertest.Spec("other", 1)
			sp.Task.Networks = []*taskpb.NetworkUse{{Network: n.GetSpec().GetName()}}
			_, err := store.CreateService(t.Context(), s, sp)
			return err
		}(),
	} {
		if err == nil || !strings.Contains(err.Error(), "carries a service's published ports") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The ports go at once, whatever tasks there still are.
	if err := store.RemoveService(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	if n := ingressOf(t, s, id); n != nil {
		t.Errorf("the network is still there: %v", n)
	}
	checkPorts(t, s)
}

// TestPortsUnderContention: many who publish, change and remove at the same moment
// never come to two services with one port, and nothing is left behind.
func TestPortsUnderContention(t *testing.T) {
	s := schedulertest.NewCluster(t)
	var mu sync.Mutex // guards rt's draws and the counts
	refused, done := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		var clients sync.WaitGroup
		for c := range 4 {
			clients.Go(func() {
				var mine []string
				for i := range 6 {
					mu.Lock()
					ports := drawPorts(rt)
					what := rapid.IntRange(0, 4).Draw(rt, "what")
					mu.Unlock()
					var err error
					switch {
					case what == 0 && len(mine) > 0:
						err = store.RemoveService(t.Context(), s, mine[0])
						mine = mine[1:]
					case what < 3 && len(mine) > 0:
						err = tryChange(s, mine[0], ports)
					default:
						var id string
						id, err = store.CreateService(t.Context(), s, publishing(fmt.Sprintf("s%d-%d-%s", c, i, ident.New()[:8]), ports...))
						if err == nil {
							mine = append(mine, id)
						}
					}
					mu.Lock()
					if err == nil {
						done++
					} else if refused++; !errors.As(err, new(*store.RefusedError)) {
						rt.Errorf("%v", err)
					}
					mu.Unlock()
				}
			})
		}
		clients.Wait()
		checkPorts(rt, s)
		for _, svc := range allServices(s) {
			if err := store.RemoveService(t.Context(), s, svc.GetId()); err != nil {
				rt.Fatal(err)
			}
		}
		checkPorts(rt, s)
	})
	t.Logf("%d changes were made, %d refused", done, refused)
	if done == 0 || refused < done/20 {
		t.Error("that was hardly tested")
	}
}

func tryChange(s *raftstore.Store, id string, ports []*taskpb.Port) error {
	var svc *schedulerpb.Service
	if err := s.View(func(r *raftstore.ReadTx) error { svc, _ = store.Services.Get(r, id); return nil }); err != nil {
		return err
	}
	sp := proto.CloneOf(svc.GetSpec())
	sp.Task.Ports = ports
	return store.UpdateService(context.Background(), s, id, svc.GetMeta().GetVersion(), sp)
}

func drawPorts(rt *rapid.T) (out []*taskpb.Port) {
	for range rapid.IntRange(0, 3).Draw(rt, "ports") {
		p := &taskpb.Port{
			Published: rapid.Uint32Range(80, 84).Draw(rt, "published"), Target: 80,
			Mode:     rapid.SampledFrom([]taskpb.Port_Mode{taskpb.Port_MODE_INGRESS, taskpb.Port_MODE_INGRESS, taskpb.Port_MODE_HOST}).Draw(rt, "mode"),
			Protocol: rapid.SampledFrom([]taskpb.Port_Protocol{taskpb.Port_PROTOCOL_TCP, taskpb.Port_PROTOCOL_UDP}).Draw(rt, "protocol"),
			HostIp:   rapid.SampledFrom([]string{"", "", "192.0.2.1", "192.0.2.2", "2001:db8::1"}).Draw(rt, "address"),
		}
		if p.Mode == taskpb.Port_MODE_INGRESS && rapid.IntRange(0, 4).Draw(rt, "any") == 0 {
			p.Published = 0
		}
		if p.Published == 0 || !slices.ContainsFunc(out, func(q *taskpb.Port) bool { return spec.PortsCollide(p, q) }) {
			out = append(out, p)
		}
	}
	return out
}

func allServices(s *raftstore.Store) (out []*schedulerpb.Service) {
	if err := s.View(func(r *raftstore.ReadTx) error { out = slices.Collect(store.Services.All(r)); return nil }); err != nil {
		panic(err)
	}
	return out
}

// checkPorts holds what is stored against the rules.
func checkPorts(t interface {
	Errorf(string, ...any)
	Fatal(...any)
}, s *raftstore.Store) {
	err := s.View(func(r *raftstore.ReadTx) error {
		keys := map[string]bool{}
		services := slices.Collect(store.Services.All(r))
		for i, a := range services {
			if spec.HasIngress(a.GetSpec().GetTask()) != (meshstore.Ingress(r, a.GetId()) != nil) {
				t.Errorf("service %v has network %v", a, meshstore.Ingress(r, a.GetId()))
			}
			for _, p := range a.GetSpec().GetTask().GetPorts() {
				keys[store.PortKey(p)] = true
				if p.GetPublished() == 0 {
					t.Errorf("service %v has a port without a number", a)
				}
				for _, b := range services[i+1:] {
					for _, q := range b.GetSpec().GetTask().GetPorts() {
						if spec.PortsCollide(p, q) && (spec.Ingress(p) || spec.Ingress(q)) {
							t.Errorf("%v of %s and %v of %s", p, a.GetSpec().GetName(), q, b.GetSpec().GetName())
						}
					}
				}
			}
		}
		for n := range meshstore.Networks.All(r) {
			if _, ok := store.Services.Get(r, n.GetServiceId()); n.GetKind() == meshpb.Kind_KIND_INGRESS && !ok {
				t.Errorf("network %v has no service", n)
			}
		}
		for p := range store.PublishedPorts.All(r) {
			if !keys[p.GetId()] {
				t.Errorf("nobody has port %s any more", p.GetId())
			}
			delete(keys, p.GetId())
		}
		if len(keys) > 0 {
			t.Errorf("ports %v have no record", keys)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
