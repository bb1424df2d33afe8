package dispatcher

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/netview/netviewtest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func (w *world) addNetwork(name string) string {
	w.t.Helper()
	id, err := meshstore.CreateNetwork(w.t.Context(), w.store, "c", &meshpb.NetworkSpec{Name: name, Driver: "overlay"})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// addTaskOn makes a task of a service that is on networks.
func (w *world) addTaskOn(node, service string, networks ...string) string {
	w.t.Helper()
	task := &schedulerpb.Task{Id: ident.New(), ServiceId: service, Slot: 1, Revision: 1, NodeId: node,
		Desired: store.Running, Status: &schedulerpb.TaskStatus{State: store.Assigned}}
	var uses []*taskpb.NetworkUse
	for _, n := range networks {
		uses = append(uses, &taskpb.NetworkUse{Network: n})
	}
	w.update(func(tx *raftstore.Tx) error {
		if _, ok := store.Services.Get(tx, service); !ok {
			spec := &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web"}, Networks: uses}
			if err := store.Services.Put(tx, &schedulerpb.Service{Id: service, Revision: 1, Spec: &schedulerpb.ServiceSpec{Name: service, Task: spec}}); err != nil {
				return err
			}
			if err := store.Revisions.Put(tx, &schedulerpb.Revision{Id: store.RevisionID(service, 1), ServiceId: service, Spec: spec}); err != nil {
				return err
			}
		}
		if err := store.Attach(tx, task, uses, false); err != nil {
			return err
		}
		return store.PutTask(tx, task)
	})
	return task.Id
}

// said is what a session was told of networks and tasks, in order.
func (c *client) said() (out []*schedulerpb.ManagerMessage) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		if m.GetAssignments() != nil || m.GetNetworks() != nil {
			out = append(out, m)
		}
	}
	return out
}

func (c *client) holds() *netviewtest.Held {
	c.w.t.Helper()
	h := &netviewtest.Held{}
	for _, m := range c.said() {
		if m.GetNetworks() != nil {
			if _, err := h.Apply(m.GetNetworks()); err != nil {
				c.w.t.Fatal(err)
			}
		}
	}
	return h
}

// TestNetworksOfANode: a session learns of the networks its node has a task on
// and of the nodes it shares one with, before the tasks themselves; of no other.
// A node that is removed is nobody's peer from that commit on.
func TestNetworksOfANode(t *testing.T) {
	inWorld(t, func(w *world) {
		a, b, c := w.addNode(), w.addNode(), w.addNode()
		front, back := w.addNetwork("front"), w.addNetwork("back")
		for i, id := range []string{a, b, c} {
			w.update(func(tx *raftstore.Tx) error {
				return store.SetNodeState(tx, id, ready, "", fmt.Sprintf("192.0.2.%d", i+1))
			})
		}
		web := w.addTaskOn(a, "web", front, back)
		db := w.addTaskOn(b, "db", back)
		w.addTaskOn(c, "lone", front)
		w.settle(time.Second)
		at, bt, ct := w.session(a), w.session(b), w.session(c)

		said := at.said()
		if len(said) != 2 || !said[0].GetNetworks().GetComplete() || said[1].GetAssignments() == nil {
			t.Fatalf("first the networks, then the tasks: %v", said)
		}
		if got := said[1].GetAssignments().Update[0].Attachments; len(got) != 2 {
			t.Errorf("the task's addresses are %v", got)
		}
		ha, hb := at.holds(), bt.holds()
		if len(ha.Networks) != 2 || len(ha.Peers) != 2 || ha.Peers[b].Underlay != "192.0.2.2:7946" || ha.Self.NodeId != a {
			t.Errorf("a holds %v, peers %v, self %v", slices.Collect(maps.Keys(ha.Networks)), ha.Peers, ha.Self)
		}
		if len(hb.Networks) != 1 || hb.Networks[back] == nil || len(hb.Peers) != 1 || hb.Peers[a].MeshAddress != ha.Self.MeshAddress {
			t.Errorf("b holds %v and peers %v", hb.Networks, hb.Peers)
		}
		if e := hb.Networks[back].Endpoints[web]; e.GetNodeId() != a || e.GetServing() || len(e.GetAddresses()) != 1 || hb.Networks[back].Services["web"].GetName() != "web" {
			t.Errorf("b sees %v", hb.Networks[back])
		}
		at.send(report(store.Running, web))
		w.settle(time.Second)
		if !bt.holds().Networks[back].Endpoints[web].Serving {
			t.Error("what runs does not serve")
		}
		if n := len(ct.said()); n != 3 { // networks, tasks, that web serves on front
			t.Errorf("c was told %d times, of another's network as well", n)
		}

		w.update(func(tx *raftstore.Tx) error { return store.RemoveNode(tx, b) })
		synctest.Wait()
		last := at.said()[len(at.said())-1].GetNetworks()
		if !slices.Equal(last.GetRemovePeers(), []string{b}) || len(last.GetUpdate()) != 1 || !slices.Equal(last.Update[0].RemoveEndpoints, []string{db}) {
			t.Errorf("of the removal a was told %v", last)
		}
		select {
		case <-bt.done:
		default:
			t.Error("the session of a removed node goes on")
		}
		if h := bt.holds(); len(h.Networks)+len(h.Peers) != 0 && len(bt.said()) > 3 {
			t.Errorf("the removed node was told %v", bt.said()[3:])
		}
	})
}

// TestWithdrawnBeforeStopped: the message that a task does not serve any more is
// there before the one that it is to stop, on its own node, and at once on others;
// and its node is told to wait for them.
func TestWithdrawnBeforeStopped(t *testing.T) {
	inWorld(t, func(w *world) {
		a, b := w.addNode(), w.addNode()
		n := w.addNetwork("front")
		web, young, other := w.addTaskOn(a, "web", n), w.addTaskOn(a, "web", n), w.addTaskOn(b, "web", n)
		plain := w.addTask(a)
		at, bt := w.session(a), w.session(b)
		at.send(report(store.Running, web, plain))
		bt.send(report(store.Running, other))
		w.settle(time.Second)
		before := len(at.said())
		for _, id := range []string{web, young, plain} {
			w.change(id, func(t *schedulerpb.Task) { t.Desired = store.Shutdown })
			synctest.Wait()
		}
		withdrawn := false
		for _, m := range at.said()[before:] {
			for _, v := range m.GetNetworks().GetUpdate() {
				for _, e := range v.Endpoints {
					withdrawn = withdrawn || e.TaskId == web && !e.Serving
				}
			}
			for _, u := range m.GetAssignments().GetUpdate() {
				switch {
				case u.TaskId == web && (!withdrawn || u.WithdrawNs != int64(withdrawal)):
					t.Errorf("stopped when withdrawn is %v, held back by %v", withdrawn, time.Duration(u.WithdrawNs))
				case u.TaskId != web && u.WithdrawNs != 0:
					t.Errorf("what nothing leads to is held back: %v", u)
				}
			}
		}
		if !withdrawn || bt.holds().Networks[n].Endpoints[web].Serving {
			t.Error("it serves on")
		}
		// What fails its healthcheck serves no more either, and the report is kept.
		sick := report(store.Running, other)
		sick.GetStatus().Reports[0].Status.Unhealthy = true
		bt.send(sick)
		w.settle(time.Second)
		if at.holds().Networks[n].Endpoints[other].Serving || !w.task(other).GetStatus().GetUnhealthy() {
			t.Error("an unhealthy task serves on")
		}
		bt.send(report(store.Failed, other))
		w.settle(time.Second)
		if h := at.holds(); h.Networks[n].Endpoints[other] != nil || len(h.Peers) != 0 || len(bt.holds().Networks) != 0 {
			t.Errorf("an ended task is left in %v", h.Networks[n])
		}
	})
}
