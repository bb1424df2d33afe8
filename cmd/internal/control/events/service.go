package events

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

func service(old, now *schedulerpb.Service) *controlpb.Event {
	switch {
	case now == nil:
		return labelled("service", "remove", old.GetId(), old.GetSpec())
	case old == nil:
		return labelled("service", "create", now.GetId(), now.GetSpec())
	case proto.Equal(old.GetSpec(), now.GetSpec()):
		if was, is := old.GetSuspendedSince() != 0, now.GetSuspendedSince() != 0; was != is {
			return event("service", map[bool]string{true: "suspend", false: "resume"}[is], now.GetId(), now.GetSpec().GetName())
		}
		return rollout(old, now)
	}
	e := labelled("service", "update", now.GetId(), now.GetSpec())
	if st := now.GetUpdateStatus(); st.GetState() == schedstore.RollbackStarted && !proto.Equal(old.GetUpdateStatus(), st) {
		e.Action = "rollback"
		set(e, "message", st.GetMessage())
	}
	if before, after := spec.Size(old.GetSpec()), spec.Size(now.GetSpec()); before != after {
		e.Attributes["replicas"] = fmt.Sprintf("%d → %d", before, after)
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
		return moves(old, now)
	}
	action := map[schedulerpb.UpdateStatus_State]string{
		schedstore.Updating: "update-resume", schedstore.Paused: "update-pause", schedstore.Completed: "update-complete",
		schedstore.RollbackStarted: "rollback-resume", schedstore.RollbackPaused: "rollback-pause", schedstore.RollbackCompleted: "rollback-complete",
	}[st.GetState()]
	if action == "" {
		return nil
	}
	e := labelled("service", action, now.GetId(), now.GetSpec())
	set(e, "message", st.GetMessage())
	return e
}

// run tells of a job's runs: that one began, how it ended, and that one was missed.
func run(r raftstore.Reader, old, now *schedulerpb.ServiceRun) *controlpb.Event {
	if now == nil || old.GetState() == now.GetState() && old.GetTimes() == now.GetTimes() {
		return nil
	}
	action := map[schedulerpb.ServiceRun_State]string{
		schedstore.RunGoing: "run-begin", schedstore.RunCompleted: "run-complete", schedstore.RunFailed: "run-fail",
		schedstore.RunStopped: "run-stop", schedstore.RunMissed: "run-miss",
	}[now.GetState()]
	if action == "" {
		return nil
	}
	if old != nil && now.GetState() == schedstore.RunGoing {
		action = "run-resume" // for a node that came
	}
	svc, _ := schedstore.Services.Get(r, now.GetServiceId())
	e := event("service", action, now.GetServiceId(), svc.GetSpec().GetName())
	e.Attributes["run"] = fmt.Sprint(now.GetNumber())
	set(e, "message", now.GetMessage())
	if action == "run-begin" {
		set(e, "by", now.GetBy())
	}
	if at := now.GetDueAt(); at != 0 && (action == "run-begin" || action == "run-miss") {
		e.Attributes["due"] = time.Unix(0, at).UTC().Format(time.RFC3339)
	}
	if times := now.GetTimes(); times > 1 {
		e.Attributes["times"] = fmt.Sprint(times)
	}
	return e
}

// moves tells that tasks of a service begin to be moved, and that none is any more. Each
// move is told of its task.
func moves(old, now *schedulerpb.Service) *controlpb.Event {
	st := now.GetRebalanceStatus()
	if old.GetRebalanceStatus().GetState() == st.GetState() {
		return nil
	}
	action := map[schedulerpb.RebalanceStatus_State]string{
		schedstore.Moving: "rebalance", schedstore.MovingCompleted: "rebalance-complete", schedstore.MovingStopped: "rebalance-stop",
	}[st.GetState()]
	if action == "" {
		return nil
	}
	e := event("service", action, now.GetId(), now.GetSpec().GetName())
	set(e, "message", st.GetMessage())
	if st.GetState() != schedstore.Moving {
		e.Attributes["moves"] = fmt.Sprint(st.GetMoves())
	}
	return e
}

// placement tells how nodes are chosen from now on for services that do not say.
func placement(now *schedulerpb.PlacementConfig) *controlpb.Event {
	e := event("placement", "update", "", "")
	set(e, "strategy", strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(now.GetStrategy().String(), "STRATEGY_")), "_", "-"))
	return e
}
