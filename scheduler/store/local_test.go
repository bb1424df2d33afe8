package store_test

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestNodesOwnNetworks: the store gives no address on a network that a node's own
// driver makes, keeps what the node says of it while the task may have a
// container, and keeps the network while there is such a task.
func TestNodesOwnNetworks(t *testing.T) {
	s := schedulertest.NewStore(t)
	create := func(sp *meshpb.NetworkSpec) string {
		id, err := meshstore.CreateNetwork(t.Context(), s, "c", sp)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	lan := create(&meshpb.NetworkSpec{Name: "lan", Driver: "cni", Options: map[string]string{"conflist": "br"}})
	here := create(&meshpb.NetworkSpec{Name: "here", Driver: "bridge"})
	if _, err := meshstore.CreatePolicy(t.Context(), s, &meshpb.PolicySpec{Name: "p", Network: lan, Rules: []*meshpb.PolicyRule{{FromService: "a", ToService: "b"}}}); err == nil || !strings.Contains(err.Error(), "no effect on network lan") {
		t.Errorf("a policy that nobody enforces: %v", err)
	}
	sp := schedulertest.Spec("web", 1)
	sp.Task.Networks = []*taskpb.NetworkUse{{Network: "lan"}, {Network: "here"}}
	sp.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_VIP
	service, task := ident.New(), ""
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		if err := store.PutNew(tx, service, sp); err != nil {
			return err
		}
		made, err := addTask(tx, service, []*taskpb.NetworkUse{{Network: lan}, {Network: here}})
		task = made.GetId()
		return err
	})
	view := func(f func(r *raftstore.ReadTx, svc *schedulerpb.Service, now *schedulerpb.Task)) {
		t.Helper()
		if err := s.View(func(r *raftstore.ReadTx) error {
			svc, _ := store.Services.Get(r, service)
			now, _ := store.Tasks.Get(r, task)
			f(r, svc, now)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	view(func(r *raftstore.ReadTx, svc *schedulerpb.Service, now *schedulerpb.Task) {
		if len(svc.Vips) != 1 || svc.Vips[0].NetworkId != here {
			t.Errorf("virtual addresses %v", svc.Vips)
		}
		if a := now.Attachments; len(a) != 2 || len(a[0].Addresses) != 0 || len(a[1].Addresses) != 1 {
			t.Errorf("addresses %v", a)
		}
		if f := meshstore.NodeFeature(r); f(lan) != "cni:br" || f(here) != "mesh" {
			t.Errorf("they need %q and %q", f(lan), f(here))
		}
	})
	say := func(st *schedulerpb.TaskStatus) {
		t.Helper()
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.AdvanceTask(tx, "n", task, st) })
	}
	// What it says of networks that are not its own, or that have an address, is not
	// kept.
	say(&schedulerpb.TaskStatus{State: store.Running, Local: []*taskpb.Attachment{{NetworkId: lan, Addresses: []string{"10.1.0.2"}},
		{NetworkId: here, Addresses: []string{"10.1.0.3"}}, {NetworkId: ident.New(), Addresses: []string{"10.1.0.4"}}}})
	view(func(r *raftstore.ReadTx, _ *schedulerpb.Service, now *schedulerpb.Task) {
		if l := now.Status.Local; len(l) != 1 || l[0].NetworkId != lan || l[0].Addresses[0] != "10.1.0.2" {
			t.Errorf("its node's word is %v", l)
		}
		n, _ := meshstore.Networks.Get(r, lan)
		on := 0
		store.OnNetwork(r, n, func(*schedulerpb.Task) bool { on++; return true })
		if on != 1 {
			t.Errorf("%d tasks are on it", on)
		}
	})
	if err := store.RemoveService(t.Context(), s, service); err != nil {
		t.Fatal(err)
	}
	if _, err := store.RemoveNetwork(t.Context(), s, "lan"); err == nil || !strings.Contains(err.Error(), "which is stopping") {
		t.Errorf("a network with a task: %v", err)
	}
	say(&schedulerpb.TaskStatus{State: store.Failed, Local: []*taskpb.Attachment{{NetworkId: lan, Addresses: []string{"10.1.0.2"}}}})
	view(func(_ *raftstore.ReadTx, _ *schedulerpb.Service, now *schedulerpb.Task) {
		if len(now.GetStatus().GetLocal()) != 0 {
			t.Errorf("after its end %v", now.Status)
		}
	})
	if _, err := store.RemoveNetwork(t.Context(), s, "lan"); err != nil {
		t.Error(err)
	}
}
