package store_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/resolve"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

func view(t testing.TB, s *raftstore.Store, fn func(r raftstore.Reader)) {
	t.Helper()
	if err := s.View(func(r *raftstore.ReadTx) error { fn(r); return nil }); err != nil {
		t.Fatal(err)
	}
}

func service(t testing.TB, s *raftstore.Store, id string) (svc *schedulerpb.Service) {
	t.Helper()
	view(t, s, func(r raftstore.Reader) { svc, _ = store.Services.Get(r, id) })
	return svc
}

func node(t testing.TB, s *raftstore.Store, id string) (n *schedulerpb.Node) {
	t.Helper()
	view(t, s, func(r raftstore.Reader) { n, _ = store.Nodes.Get(r, id) })
	return n
}

func TestServices(t *testing.T) {
	s, ctx := schedulertest.NewStore(t), t.Context()
	id, err := store.CreateService(ctx, s, schedulertest.Spec("web", 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.CreateService(ctx, s, schedulertest.Spec("web", 2)); err == nil || !strings.Contains(err.Error(), `"web" exists already`) {
		t.Errorf("a second web: %v", err)
	}
	undigested := schedulertest.Spec("raw", 1)
	undigested.Task.Container.Digest = ""
	if _, err := store.CreateService(ctx, s, undigested); err == nil || !strings.Contains(err.Error(), "no digest") {
		t.Errorf("without a digest: %v", err)
	}

	svc := service(t, s, id)
	update := func(change func(*schedulerpb.ServiceSpec)) error {
		sp := proto.CloneOf(service(t, s, id).GetSpec())
		change(sp)
		return store.UpdateService(ctx, s, id, service(t, s, id).GetMeta().GetVersion(), sp)
	}
	if err := update(func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 9 }); err != nil {
		t.Fatal(err)
	}
	if got := service(t, s, id); got.GetRevision() != 1 || got.GetSpec().GetReplicated().GetReplicas() != 9 {
		t.Errorf("after a change of replicas: %v", got)
	}
	if err := update(func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ }); err != nil {
		t.Fatal(err)
	}
	if got := service(t, s, id).GetRevision(); got != 2 {
		t.Errorf("after force the revision is %d", got)
	}
	view(t, s, func(r raftstore.Reader) {
		for n, force := range map[uint64]uint64{1: 0, 2: 1} {
			if rev, ok := store.Revisions.Get(r, store.RevisionID(id, n)); !ok || rev.GetSpec().GetForce() != force {
				t.Errorf("revision %d is %v", n, rev)
			}
		}
	})
	if err := store.UpdateService(ctx, s, id, svc.GetMeta().GetVersion(), svc.GetSpec()); !errors.Is(err, store.ErrChanged) {
		t.Errorf("an update from what was read before: %v", err)
	}
	if err := update(func(sp *schedulerpb.ServiceSpec) { sp.Name = "other" }); err == nil || !strings.Contains(err.Error(), "renamed") {
		t.Errorf("renaming: %v", err)
	}
	if err := update(func(sp *schedulerpb.ServiceSpec) {
		sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	}); err == nil || !strings.Contains(err.Error(), "mode") {
		t.Errorf("another mode: %v", err)
	}
	if err := store.RemoveService(ctx, s, id); err != nil {
		t.Fatal(err)
	}
	if err := store.RemoveService(ctx, s, id); !errors.Is(err, raftstore.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestManagersAreLatchedByTheFirstWorker(t *testing.T) {
	s := schedulertest.NewStore(t)
	effective := func(id string, want schedulerpb.Availability) {
		t.Helper()
		if got := store.Effective(node(t, s, id)); got != want {
			t.Errorf("availability is %v, want %v", got, want)
		}
	}
	first := schedulertest.AddNode(t, s, true)
	effective(first, store.Active)
	worker := schedulertest.AddNode(t, s, false)
	effective(first, store.Drain)
	effective(worker, store.Active)
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.RemoveNode(tx, worker) })
	effective(first, store.Drain) // never back by itself
	effective(schedulertest.AddNode(t, s, true), store.Drain)
	set := func(id string, a schedulerpb.Availability) error {
		return s.Update(t.Context(), func(tx *raftstore.Tx) error {
			return store.UpdateNodeSpec(tx, id, store.NodeUpdate{Availability: a})
		})
	}
	if err := set(first, store.Active); err != nil {
		t.Fatal(err)
	}
	effective(first, store.Active)
	if err := set(first, store.Auto); err != nil {
		t.Fatal(err)
	}
	effective(first, store.Drain)
	if err := set(schedulertest.AddNode(t, s, false), store.Auto); err == nil {
		t.Error("a worker became auto")
	}
	if err := set(first, 99); err == nil {
		t.Error("an unknown availability was stored")
	}
	if got := store.Effective(&schedulerpb.Node{}); got != store.Pause {
		t.Errorf("a record that says nothing is %v", got)
	}
}

func TestNodeReportsAreCleaned(t *testing.T) {
	s := schedulertest.NewStore(t)
	id := schedulertest.AddNode(t, s, false)
	before := node(t, s, id).GetMeta().GetVersion()
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.UpdateDescription(tx, id, node(t, s, id).GetDescription())
	})
	if node(t, s, id).GetMeta().GetVersion() != before {
		t.Error("the same description was written again")
	}
	d := &schedulerpb.NodeDescription{Hostname: "new"}
	d.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.UpdateDescription(tx, id, d) })
	if got := node(t, s, id).GetDescription(); got.GetHostname() != "new" || len(got.ProtoReflect().GetUnknown()) > 0 {
		t.Errorf("stored %v", got)
	}
	err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
		return store.UpdateNodeSpec(tx, id, store.NodeUpdate{LabelRemove: []string{"none"}})
	})
	if err == nil || !strings.Contains(err.Error(), `no label "none"`) {
		t.Errorf("removing a label that is not there: %v", err)
	}
}

func TestOnlyTheOwnNodeReportsAndOnlyForward(t *testing.T) {
	s := schedulertest.NewStore(t)
	mine, other := schedulertest.AddNode(t, s, false), schedulertest.AddNode(t, s, false)
	id := ident.New()
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.PutTask(tx, &schedulerpb.Task{
			Id: id, ServiceId: "svc", Slot: 1, NodeId: mine, Desired: store.Running,
			Status: &schedulerpb.TaskStatus{State: store.Assigned},
		})
	})
	state := func() (st *schedulerpb.TaskStatus) {
		view(t, s, func(r raftstore.Reader) { task, _ := store.Tasks.Get(r, id); st = task.GetStatus() })
		return st
	}
	report := func(node string, st *schedulerpb.TaskStatus) error {
		return s.Update(t.Context(), func(tx *raftstore.Tx) error { return store.AdvanceTask(tx, node, id, st) })
	}
	if err := report(other, &schedulerpb.TaskStatus{State: store.Failed}); !errors.Is(err, store.ErrNotYours) {
		t.Errorf("another node's report: %v", err)
	}
	if err := report(mine, &schedulerpb.TaskStatus{State: store.Running, Error: strings.Repeat("é", 4096), Address: "10.0.0.2"}); err != nil {
		t.Fatal(err)
	}
	if got := state(); got.GetState() != store.Running || len(got.GetError()) > 1024 || got.GetAddress() != "10.0.0.2" {
		t.Errorf("stored %v", got)
	}
	for _, st := range []schedulerpb.TaskState{store.Assigned, store.Pending, store.Orphaned, store.Remove, 95, 0} {
		if err := report(mine, &schedulerpb.TaskStatus{State: st}); err != nil {
			t.Fatal(err)
		}
		if got := state().GetState(); got != store.Running {
			t.Fatalf("a report of %v made it %v", st, got)
		}
	}
	if err := report(mine, &schedulerpb.TaskStatus{State: store.Failed, ExitCode: 3}); err != nil {
		t.Fatal(err)
	}
	if err := report(mine, &schedulerpb.TaskStatus{State: store.Failed, ExitCode: 0}); err != nil {
		t.Fatal(err)
	}
	if got := state().GetExitCode(); got != 3 {
		t.Errorf("how it ended was changed to %d", got)
	}
}

// What was to be forgotten goes with its node's word that it ended, and no
// earlier.
func TestEndOfATaskToForget(t *testing.T) {
	s := schedulertest.NewStore(t)
	keep, forget := ident.New(), ident.New()
	put := func(id string, desired schedulerpb.TaskState) {
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			return store.PutTask(tx, &schedulerpb.Task{
				Id: id, ServiceId: "svc", Slot: 1, NodeId: "mine", Desired: desired,
				Status: &schedulerpb.TaskStatus{State: store.Assigned},
			})
		})
	}
	put(keep, store.Shutdown)
	put(forget, store.Remove)
	there := func(id string) (ok bool) {
		view(t, s, func(r raftstore.Reader) { _, ok = store.Tasks.Get(r, id) })
		return ok
	}
	say := func(node, id string, state schedulerpb.TaskState) {
		schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
			err := store.AdvanceTask(tx, node, id, &schedulerpb.TaskStatus{State: state})
			if node != "mine" && errors.Is(err, store.ErrNotYours) {
				err = nil
			}
			return err
		})
	}
	say("mine", forget, store.Running)
	say("other", forget, store.Shutdown)
	if !there(forget) {
		t.Fatal("it was forgotten while it ran")
	}
	for _, id := range []string{keep, forget} {
		say("mine", id, store.Failed)
	}
	if !there(keep) || there(forget) {
		t.Errorf("kept: %v, forgotten: %v", there(keep), !there(forget))
	}
}

// TestTasksOnlyGrow: no sequence of reports and changes takes a state back.
func TestTasksOnlyGrow(t *testing.T) {
	states := rapid.SampledFrom([]schedulerpb.TaskState{0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100, 110, 120, 130, 140})
	rapid.Check(t, func(t *rapid.T) {
		task := &schedulerpb.Task{Id: "t", NodeId: "n", Desired: store.Running, Status: &schedulerpb.TaskStatus{State: store.Assigned}}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			st := &schedulerpb.TaskStatus{State: states.Draw(t, "state"), Message: rapid.SampledFrom([]string{"", "x"}).Draw(t, "message")}
			next, changed := store.Advance(task, st)
			if changed == proto.Equal(task, next) {
				t.Fatalf("changed is %v from %v to %v", changed, task, next)
			}
			if err := store.CheckGrowth(task, next); err != nil {
				t.Fatal(err)
			}
			task = next
			direct := proto.CloneOf(task)
			direct.Desired, direct.Status.State = states.Draw(t, "desired"), states.Draw(t, "direct")
			if err := store.CheckGrowth(task, direct); err == nil {
				if direct.Desired < task.Desired || direct.Status.State < task.Status.State {
					t.Fatalf("let %v become %v", task, direct)
				}
				task = direct
			}
		}
	})
}

func TestPutTaskRefusesWhatTasksCannotBe(t *testing.T) {
	s := schedulertest.NewStore(t)
	base := &schedulerpb.Task{Id: ident.New(), ServiceId: "svc", Slot: 1, NodeId: "n", Revision: 1, Desired: store.Running,
		Status: &schedulerpb.TaskStatus{State: store.Running}}
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error { return store.PutTask(tx, base) })
	for name, change := range map[string]func(*schedulerpb.Task){
		"another node":         func(t *schedulerpb.Task) { t.NodeId = "m" },
		"no node":              func(t *schedulerpb.Task) { t.NodeId = "" },
		"another slot":         func(t *schedulerpb.Task) { t.Slot = 2 },
		"another revision":     func(t *schedulerpb.Task) { t.Revision = 2 },
		"state back":           func(t *schedulerpb.Task) { t.Status.State = store.Assigned },
		"desired back":         func(t *schedulerpb.Task) { t.Desired = store.Pending },
		"new, assigned nobody": func(t *schedulerpb.Task) { t.Id, t.NodeId, t.Status.State = ident.New(), "", store.Assigned },
		"new, pending on one":  func(t *schedulerpb.Task) { t.Id, t.Status.State = ident.New(), store.Pending },
	} {
		err := s.Update(t.Context(), func(tx *raftstore.Tx) error {
			old, _ := store.Tasks.Get(tx, base.Id)
			task := proto.CloneOf(old)
			change(task)
			if task.Id != base.Id {
				task.Meta = nil
			}
			return store.PutTask(tx, task)
		})
		if err == nil || !strings.Contains(err.Error(), "task ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResolve(t *testing.T) {
	s := schedulertest.NewStore(t)
	n := schedulertest.AddNode(t, s, false)
	id, err := store.CreateService(t.Context(), s, schedulertest.Spec("web", 1))
	if err != nil {
		t.Fatal(err)
	}
	global, err := store.CreateService(t.Context(), s, schedulertest.GlobalSpec("agent"))
	if err != nil {
		t.Fatal(err)
	}
	schedulertest.Run(t, s)
	schedulertest.Agents(t, s)
	schedulertest.Await(t, s, schedulertest.Running(id, 1))
	schedulertest.Await(t, s, schedulertest.Running(global, 1))
	view(t, s, func(r raftstore.Reader) {
		for _, ref := range []string{"web", id, id[:10]} {
			if got, err := store.ResolveService(r, ref); err != nil || got.GetId() != id {
				t.Errorf("service %q: %v, %v", ref, got, err)
			}
		}
		for _, ref := range []string{n, n[:8], "host-" + n[:6]} {
			if got, err := store.ResolveNode(r, ref); err != nil || got.GetId() != n {
				t.Errorf("node %q: %v, %v", ref, got, err)
			}
		}
		for _, ref := range []string{"web.1", "agent." + n, "agent.host-" + n[:6]} {
			got, err := store.ResolveTask(r, ref)
			if err != nil {
				t.Errorf("task %q: %v", ref, err)
				continue
			}
			if byID, err := store.ResolveTask(r, got.GetId()[:12]); err != nil || byID != got {
				t.Errorf("task %q by id: %v", ref, err)
			}
		}
		for _, ref := range []string{"", "web.0", "web.2", "web.x", "web.", "none.1", ".", "abc", strings.Repeat("a", 27), "agent.nohost"} {
			_, err := store.ResolveTask(r, ref)
			if !errors.Is(err, raftstore.ErrNotFound) {
				t.Errorf("task %q: %v", ref, err)
			}
			if _, err := store.ResolveNode(r, ref); !errors.Is(err, raftstore.ErrNotFound) {
				t.Errorf("node %q: %v", ref, err)
			}
		}
	})
	// Two nodes that call themselves the same are not told apart by it.
	m := schedulertest.AddNode(t, s, false)
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.UpdateDescription(tx, m, &schedulerpb.NodeDescription{Hostname: "host-" + n[:6]})
	})
	view(t, s, func(r raftstore.Reader) {
		var lookup *resolve.Error
		if _, err := store.ResolveNode(r, "host-"+n[:6]); !errors.As(err, &lookup) || lookup.Matches != 2 || errors.Is(err, raftstore.ErrNotFound) {
			t.Errorf("an ambiguous name: %v", err)
		}
	})
}
