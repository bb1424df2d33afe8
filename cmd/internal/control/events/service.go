package events

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

func service(old, now *schedulerpb.Service) *controlpb.Event {
	switch {
	case now == nil:
		return event("service", "remove", old.GetId(), old.GetSpec().GetName())
	case old == nil:
		return event("service", "create", now.GetId(), now.GetSpec().GetName())
	case proto.Equal(old.GetSpec(), now.GetSpec()):
		return rollout(old, now)
	}
	e := event("service", "update", now.GetId(), now.GetSpec().GetName())
	if st := now.GetUpdateStatus(); st.GetState() == schedstore.RollbackStarted && !proto.Equal(old.GetUpdateStatus(), st) {
		e.Action = "rollback"
		set(e, "message", st.GetMessage())
	}
	if before, after := old.GetSpec().GetReplicated(), now.GetSpec().GetReplicated(); before.GetReplicas() != after.GetReplicas() {
		e.Attributes["replicas"] = fmt.Sprintf("%d → %d", before.GetReplicas(), after.GetReplicas())
	}
	if before, after := old.GetSpec().GetTask().GetContainer().GetImage(), now.GetSpec().GetTask().GetContainer().GetImage(); before != after {
		set(e, "image", after)
	}
	return e
}

// rollout tells how an update or a rollback of a service goes on: it is paused, goes on
// or is over. That it began the new specification tells.
func rollout(old, now *schedulerpb.Service) *controlpb.Event {
	st := now.GetUpdateStatus()
	if old.GetUpdateStatus().GetState() == st.GetState() {
		return nil
	}
	action := map[schedulerpb.UpdateStatus_State]string{
		schedstore.Updating: "update-resume", schedstore.Paused: "update-pause", schedstore.Completed: "update-complete",
		schedstore.RollbackStarted: "rollback-resume", schedstore.RollbackPaused: "rollback-pause", schedstore.RollbackCompleted: "rollback-complete",
	}[st.GetState()]
	if action == "" {
		return nil
	}
	e := event("service", action, now.GetId(), now.GetSpec().GetName())
	set(e, "message", st.GetMessage())
	return e
}
