package control_test

import (
	"fmt"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// After a theft the operator is told what to change: of a worker what its tasks were
// granted, of a manager everything.
func TestKnownSecrets(t *testing.T) {
	w := newLeaveWorld(t)
	ids := map[string]string{}
	for name, kind := range map[string]int{"db": 1, "pinned": 1, "elsewhere": 1, "unused": 1, "hub": 2} {
		k := kindFile
		if kind == 2 {
			k = kindRegistry
		}
		id, err := w.secret(name, k)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	for _, name := range []string{"db", "pinned"} {
		if _, err := w.api.UpdateSecret(t.Context(), &controlpb.UpdateSecretRequest{Id: ids[name], Version: newSealed(1, 9)}); err != nil {
			t.Fatal(err)
		}
	}
	task := func(service, node string, state schedulerpb.TaskState, edit func(*taskpb.ContainerSpec)) {
		id, err := w.serve(service, edit)
		if err != nil {
			t.Fatal(err)
		}
		schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
			return schedstore.Tasks.Put(tx, &schedulerpb.Task{Id: ident.New(), ServiceId: id, Slot: 1, Revision: 1, NodeId: node, Desired: schedstore.Running,
				Status: &schedulerpb.TaskStatus{State: state}})
		})
	}
	task("web", w.worker, schedstore.Running, func(c *taskpb.ContainerSpec) {
		c.Secrets = []*taskpb.FileUse{{Source: "db"}, {Source: "pinned", Version: 2}}
	})
	task("batch", w.worker, schedulerpb.TaskState_TASK_STATE_FAILED, func(c *taskpb.ContainerSpec) {
		c.Secrets, c.RegistryAuth = []*taskpb.FileUse{{Source: "db", Target: "again", Version: 1}}, "hub"
	})
	task("far", w.manager, schedstore.Running, func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "elsewhere"}} })

	said := func(known *controlpb.KnownSecrets) (text string) {
		for _, s := range known.GetSecrets() {
			if s.GetId() != ids[s.GetName()] {
				t.Errorf("%s has another id", s.GetName())
			}
			text += fmt.Sprint(s.GetName(), s.GetVersions(), " ")
		}
		return text
	}
	check, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "worker-1", Check: true})
	if err != nil || check.GetKnown() != nil {
		t.Errorf("the question alone tells %v (%v)", check.GetKnown(), err)
	}
	r, err := w.api.RevokeNode(t.Context(), &controlpb.RevokeNodeRequest{Node: "worker-1"})
	if err != nil {
		t.Fatal(err)
	}
	if got := said(r.GetKnown()); got != "db[1 2] hub[1] pinned[2] " {
		t.Errorf("a worker could read %s", got)
	}
	for i := range 250 {
		if _, err := w.secret(fmt.Sprintf("many-%03d", i), kindFile); err != nil {
			t.Fatal(err)
		}
	}
	gone, err := w.remove("manager-2", newSlot())
	if err != nil {
		t.Fatal(err)
	}
	if k := gone.GetKnown(); len(k.GetSecrets()) != 200 || k.GetMore() != 55 || k.GetSecrets()[0].GetName() != "db" || len(k.GetSecrets()[0].GetVersions()) != 2 {
		t.Errorf("a manager could read %d secrets, and %d more", len(k.GetSecrets()), k.GetMore())
	}
}
