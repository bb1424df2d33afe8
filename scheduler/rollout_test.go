package scheduler_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// failing is a service of three tasks that is updated, and the first new task of which
// fails a moment after it came up.
func failing(t *testing.T, signed []byte) (s *raftstore.Store, id string) {
	s = schedulertest.NewStore(t)
	schedulertest.Agents(t, s)
	for range 2 {
		schedulertest.AddNode(t, s, false)
	}
	schedulertest.Run(t, s)
	sp := schedulertest.Spec("web", 3)
	sp.Update = &schedulerpb.UpdateConfig{Parallelism: 1, MonitorNs: 60e9, FailureAction: spec.ActionRollback}
	sp.Rollback = &schedulerpb.UpdateConfig{MonitorNs: 1e6}
	id = create(t, s, sp)
	schedulertest.Await(t, s, schedulertest.Running(id, 3))
	sp = proto.CloneOf(service(t, s, id).GetSpec())
	sp.Task.Container.Env = []string{"BROKEN=yes"}
	if err := store.UpdateSigned(t.Context(), s, id, service(t, s, id).GetMeta().GetVersion(), sp, store.Signing{Signed: signed}); err != nil {
		t.Fatal(err)
	}
	var up *schedulerpb.Task
	schedulertest.Await(t, s, func(r raftstore.Reader) error {
		for x := range store.OfService(r, id) {
			if x.GetRevision() == 2 && store.State(x) == store.Running {
				up = x
				return nil
			}
		}
		return fmt.Errorf("nothing is updated")
	})
	if up.GetRunningAt() == 0 {
		t.Error("nobody knows since when it runs")
	}
	schedulertest.Update(t, s, func(tx *raftstore.Tx) error {
		return store.AdvanceTask(tx, up.GetNodeId(), up.GetId(), &schedulerpb.TaskStatus{State: store.Failed, Error: "exited with 7"})
	})
	return s, id
}

func service(t *testing.T, s *raftstore.Store, id string) (svc *schedulerpb.Service) {
	t.Helper()
	if err := s.View(func(r *raftstore.ReadTx) error { svc, _ = store.Services.Get(r, id); return nil }); err != nil {
		t.Fatal(err)
	}
	return svc
}

func reaches(id string, state schedulerpb.UpdateStatus_State) func(raftstore.Reader) error {
	return func(r raftstore.Reader) error {
		svc, _ := store.Services.Get(r, id)
		if got := svc.GetUpdateStatus(); got.GetState() != state {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	}
}

func TestAnUpdateIsRolledBack(t *testing.T) {
	s, id := failing(t, nil)
	schedulertest.Await(t, s, reaches(id, store.RollbackCompleted))
	schedulertest.Await(t, s, schedulertest.Running(id, 3))
	svc := service(t, s, id)
	if svc.GetRevision() != 1 || svc.GetSpecNumber() != 1 || len(svc.GetSpec().GetTask().GetContainer().GetEnv()) > 0 || !strings.Contains(svc.GetUpdateStatus().GetMessage(), "exited with 7") {
		t.Errorf("it went back to %v", svc)
	}
}

// TestWhatCannotGoBackIsPaused: who signed it would have to sign what was, too.
func TestWhatCannotGoBackIsPaused(t *testing.T) {
	s, id := failing(t, []byte("signed"))
	schedulertest.Await(t, s, reaches(id, store.Paused))
	svc := service(t, s, id)
	if m := svc.GetUpdateStatus().GetMessage(); svc.GetRevision() != 2 || !strings.Contains(m, "update paused due to") || !strings.Contains(m, "rollback --sign-with") {
		t.Errorf("%d, %s", svc.GetRevision(), m)
	}
}
