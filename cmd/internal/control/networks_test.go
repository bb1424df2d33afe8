package control_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshspec "github.com/redoubt-cluster/redoubt/mesh/spec"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (w *world) network(sp *meshpb.NetworkSpec) string {
	w.t.Helper()
	r, err := w.api.CreateNetwork(w.t.Context(), &controlpb.CreateNetworkRequest{Spec: sp})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetId()
}

// on is a spec of a service on networks, each NAME[,alias].
func (w *world) on(name string, networks ...string) *schedulerpb.ServiceSpec {
	sp := w.spec(name)
	for _, n := range networks {
		n, alias, _ := strings.Cut(n, ",")
		u := &taskpb.NetworkUse{Network: n}
		if alias != "" {
			u.Aliases = strings.Split(alias, ",")
		}
		sp.Task.Networks = append(sp.Task.Networks, u)
	}
	return sp
}

// task places a task of a service, as the leader does, and has it run.
func (w *world) task(service string, slot uint32, running bool) *schedulerpb.Task {
	w.t.Helper()
	t := &schedulerpb.Task{Id: ident.New(), ServiceId: service, Slot: slot, NodeId: w.worker, Desired: schedstore.Running,
		Status: &schedulerpb.TaskStatus{State: schedstore.Assigned}}
	if err := w.store.Update(w.t.Context(), func(tx *raftstore.Tx) error {
		svc, _ := schedstore.Services.Get(tx, service)
		t.Revision = svc.GetRevision()
		if err := schedstore.Attach(tx, t, svc.GetSpec().GetTask().GetNetworks(), false); err != nil {
			return err
		}
		if running {
			t.Status.State = schedstore.Running
		}
		return schedstore.PutTask(tx, t)
	}); err != nil {
		w.t.Fatal(err)
	}
	return t
}

func (w *world) inspect(network string) *controlpb.NetworkDetail {
	w.t.Helper()
	s := &sink[controlpb.StreamNetworksResponse]{ctx: w.t.Context()}
	if err := w.api.StreamNetworks(&controlpb.StreamNetworksRequest{Networks: []string{network}}, s); err != nil {
		w.t.Fatal(err)
	}
	return s.pages[0].GetNetworks()[0]
}

// TestServicesOnNetworks: what is asked for is what is shown, virtual addresses
// stay through an update, and what is in use is not removed.
func TestServicesOnNetworks(t *testing.T) {
	w := newWorld(t)
	front := w.network(&meshpb.NetworkSpec{Name: "front", Ipv6: true})
	w.network(&meshpb.NetworkSpec{Name: "back"})
	id := w.create(w.on("web", "front,www,site", "back"))
	v := w.service(id)
	if len(v.Networks) != 2 || v.Networks[0].NetworkName != "front" || len(v.Networks[0].Addresses) != 2 || len(v.Networks[1].Addresses) != 1 ||
		strings.Join(v.Networks[0].Aliases, " ") != "www site" {
		t.Fatalf("the service is shown on %v", v.Networks)
	}
	run, wait := w.task(id, 1, true), w.task(id, 2, false)
	n := w.inspect("front")
	if n.Tasks != 2 || len(n.UsedBy) != 1 || n.UsedBy[0].Name != "web" || !proto.Equal(&controlpb.NetworkAddress{Addresses: n.UsedBy[0].Vips}, &controlpb.NetworkAddress{Addresses: v.Networks[0].Addresses}) ||
		len(n.Endpoints) != 2 || n.Endpoints[0].TaskName != "web.1" || !n.Endpoints[0].Serving || n.Endpoints[1].Serving || n.Endpoints[0].NodeName != "worker-1" || len(n.Endpoints[0].Addresses) != 2 {
		t.Errorf("the network is shown with %v and %v", n.UsedBy, n.Endpoints)
	}
	ts, err := w.api.ListTasks(t.Context(), &controlpb.ListTasksRequest{Services: []string{"web"}})
	if err != nil || len(ts.Tasks) != 2 || len(ts.Tasks[0].Networks) != 2 || ts.Tasks[0].Networks[0].NetworkName != "front" {
		t.Errorf("tasks %v, %v", ts, err)
	}

	// Off one and onto another: a new revision, and the old address on what stays.
	w.network(&meshpb.NetworkSpec{Name: "third"})
	sp := proto.CloneOf(v.Service.Spec)
	sp.Task.Networks = []*taskpb.NetworkUse{{Network: front}, {Network: "third"}}
	if _, err := w.api.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: id, Version: v.Service.Meta.Version, Spec: sp}); err != nil {
		t.Fatal(err)
	}
	now := w.service(id)
	if now.Service.Revision != 2 || len(now.Networks) != 2 || strings.Join(now.Networks[0].Addresses, " ") != strings.Join(v.Networks[0].Addresses, " ") || len(now.Networks[0].Aliases) != 0 {
		t.Errorf("after the update %v", now.Networks)
	}
	remove := func(name string) error {
		_, err := w.api.RemoveNetwork(t.Context(), &controlpb.RemoveNetworkRequest{Network: name})
		return err
	}
	if err := remove("third"); err == nil || !strings.Contains(err.Error(), "in use by service web") {
		t.Errorf("a network in use: %v", err)
	}
	if err := remove("back"); err == nil || !strings.Contains(err.Error(), "which is stopping") {
		t.Errorf("a network that tasks of the former revision are on: %v", err)
	}
	for _, task := range []*schedulerpb.Task{run, wait} {
		if err := w.store.Update(t.Context(), func(tx *raftstore.Tx) error {
			return schedstore.AdvanceTask(tx, w.worker, task.Id, &schedulerpb.TaskStatus{State: schedstore.Shutdown})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := remove("back"); err != nil {
		t.Errorf("a network that nothing is on: %v", err)
	}
	// With dnsrr its name leads to no virtual address; it keeps those for a while, for
	// whom the name was answered a moment ago.
	now = w.service(id)
	sp = proto.CloneOf(now.Service.Spec)
	sp.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
	if _, err := w.api.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: id, Version: now.Service.Meta.Version, Spec: sp}); err != nil {
		t.Fatal(err)
	}
	if v := w.service(id); len(v.Service.Vips) != len(now.Service.Vips) || v.Service.VipsUntil == 0 || len(v.Networks[0].Addresses) != 0 || v.Service.Revision != 2 {
		t.Errorf("in mode dnsrr it has %v until %d at revision %d", v.Service.Vips, v.Service.VipsUntil, v.Service.Revision)
	}
}

// TestNetworksThatAreRefused: each for its reason.
func TestNetworksThatAreRefused(t *testing.T) {
	w := newWorld(t)
	front := w.network(&meshpb.NetworkSpec{Name: "front"})
	w.network(&meshpb.NetworkSpec{Name: "tiny", Subnets: []*meshpb.Subnet{{Subnet: "10.9.0.0/29"}}})
	w.network(&meshpb.NetworkSpec{Name: "off", Driver: "none"})
	lans := []string{}
	for i := range meshspec.MaxLocal + 1 {
		lans = append(lans, fmt.Sprintf("lan%d", i))
		w.network(&meshpb.NetworkSpec{Name: lans[i], Driver: "cni", Options: map[string]string{"conflist": "lan"}})
	}
	w.create(w.on("first", "tiny"))
	many := []string{}
	for i := range meshspec.MaxUses + 1 {
		many = append(many, fmt.Sprintf("n%d", i))
	}
	ports := w.on("j", "off")
	ports.Task.Ports = []*taskpb.Port{{Published: 8080, Target: 80, Mode: taskpb.Port_MODE_HOST}}
	dnsrr := w.spec("rr")
	dnsrr.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
	for want, sp := range map[string]*schedulerpb.ServiceSpec{
		"no network \"nowhere\"":                w.on("a", "nowhere"),
		"network front is given twice":          w.on("b", "front", "front"),
		"alias db is given twice":               w.on("c", "front,db,db"),
		"alias: name \"Ä\": only lowercase":     w.on("d", "front,Ä"),
		"off is of driver none: a service on i": w.on("e", "front", "off"),
		"off is of driver none, on which noth":  ports,
		"33 of its networks are made by nodes'": w.on("i", lans...),
		"there are 65 networks":                 w.on("f", many...),
		"has no virtual address left, all 1":    w.on("g", "tiny"),
		"an endpoint mode is for services on n": dnsrr,
	} {
		if _, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: sp}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	same := w.on("h", front, "front") // by id and by name
	if _, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: same}); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("a network by id and by name: %v", err)
	}
}

// TestTaskOnThirtyNetworks: it gets an address on each, and its service a virtual
// one.
func TestTaskOnThirtyNetworks(t *testing.T) {
	w := newWorld(t)
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("n%02d", i))
		w.network(&meshpb.NetworkSpec{Name: names[i]})
	}
	id := w.create(w.on("wide", names...))
	if task, v := w.task(id, 1, true), w.service(id); len(task.Attachments) != 30 || len(v.Service.Vips) != 30 {
		t.Errorf("%d addresses and %d virtual ones", len(task.Attachments), len(v.Service.Vips))
	}
}

// TestNetworkIsRemovedOrUsed: of a removal and services that begin to use it at
// the same moment never both succeed.
func TestNetworkIsRemovedOrUsed(t *testing.T) {
	w := newWorld(t)
	removed, used := 0, 0
	for i := range 30 {
		name := fmt.Sprintf("n%d", i)
		w.network(&meshpb.NetworkSpec{Name: name})
		var wg sync.WaitGroup
		var gone, made error
		wg.Go(func() {
			_, gone = w.api.RemoveNetwork(t.Context(), &controlpb.RemoveNetworkRequest{Network: name})
		})
		wg.Go(func() {
			_, made = w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.on("s"+name, name)})
		})
		wg.Wait()
		switch {
		case gone == nil && made == nil:
			t.Fatal("a network was removed under a service")
		case gone == nil:
			removed++
		case made == nil:
			used++
		case errors.Is(gone, context.DeadlineExceeded) || errors.Is(made, context.DeadlineExceeded):
			t.Fatalf("neither: %v, %v", gone, made)
		}
	}
	t.Logf("%d removed, %d used", removed, used)
	if err := w.store.View(func(r *raftstore.ReadTx) error {
		for s := range schedstore.Services.All(r) {
			for _, u := range s.GetSpec().GetTask().GetNetworks() {
				if _, ok := meshstore.Networks.Get(r, u.GetNetwork()); !ok {
					return fmt.Errorf("service %s is on a network that is gone", s.GetSpec().GetName())
				}
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestNoTunnelsInFIPS: a network that no node could carry is refused; one that a node
// can carry, or that needs no tunnels, is not.
func TestNoTunnelsInFIPS(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{w.manager, w.worker} {
		w.network(&meshpb.NetworkSpec{Name: "before-" + id})
		w.describe(id, func(d *schedulerpb.NodeDescription) {
			d.Features = append(d.Features, &taskpb.Feature{Name: meshspec.FIPSFeature, Present: true})
		})
	}
	for _, driver := range []string{"", meshspec.Overlay, meshspec.Bridge} {
		_, err := w.api.CreateNetwork(t.Context(), &controlpb.CreateNetworkRequest{Spec: &meshpb.NetworkSpec{Name: "back", Driver: driver}})
		if err == nil || !strings.Contains(err.Error(), meshspec.NoMeshInFIPS) {
			t.Errorf("a network of driver %q where every node is in FIPS mode: %v", driver, err)
		}
	}
	w.network(&meshpb.NetworkSpec{Name: "off", Driver: meshspec.NoNetwork})
}
