package events_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// TestRolloutsAreTold: that an update began, was paused, went on, is over, and was rolled
// back.
func TestRolloutsAreTold(t *testing.T) {
	s, h := start(t)
	from := h.Now()
	id, err := schedstore.CreateService(t.Context(), s, schedulertest.Spec("web", 1))
	if err != nil {
		t.Fatal(err)
	}
	service := func() (svc *schedulerpb.Service) {
		if err := s.View(func(r *raftstore.ReadTx) error { svc, _ = schedstore.Services.Get(r, id); return nil }); err != nil {
			t.Fatal(err)
		}
		return svc
	}
	update := func(change func(*schedulerpb.ServiceSpec)) {
		sp := proto.CloneOf(service().GetSpec())
		change(sp)
		if err := schedstore.UpdateService(t.Context(), s, id, service().GetMeta().GetVersion(), sp); err != nil {
			t.Fatal(err)
		}
	}
	set := func(state schedulerpb.UpdateStatus_State, message string) {
		st := proto.CloneOf(service().GetUpdateStatus())
		st.State, st.Message = state, message
		if _, err := schedstore.SetUpdateStatus(t.Context(), s, []schedstore.StatusChange{{ServiceID: id, Version: service().GetMeta().GetVersion(), Status: st}}); err != nil {
			t.Fatal(err)
		}
	}
	update(func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	set(schedstore.Paused, "one failed")
	update(func(*schedulerpb.ServiceSpec) {})
	set(schedstore.Completed, "done")
	update(func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ })
	if err := schedstore.RollBackFailed(t.Context(), s, id, service().GetMeta().GetVersion(), "all failed"); err != nil {
		t.Fatal(err)
	}
	set(schedstore.RollbackPaused, "these, too")
	set(schedstore.RollbackCompleted, "back")
	want := []string{
		"service create web map[]",
		"service update web map[]",
		"service update-pause web map[message:one failed]",
		"service update-resume web map[message:update resumed]",
		"service update-complete web map[message:done]",
		"service update web map[]",
		"service rollback web map[message:all failed]",
		"service rollback-pause web map[message:these, too]",
		"service rollback-complete web map[message:back]",
	}
	if got := next(t, h, from, len(want)); !slices.Equal(got, want) {
		t.Errorf("told\n%q, want\n%q", got, want)
	}
}
