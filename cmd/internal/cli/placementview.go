package cli

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Short names of how far a service's tasks are moved.
const (
	stateMoving       = schedulerpb.RebalanceStatus_STATE_MOVING
	stateMovesStopped = schedulerpb.RebalanceStatus_STATE_STOPPED
)

// movesName is "moving", "completed" or "stopped"; empty: none was ever asked for.
func movesName(st *schedulerpb.RebalanceStatus) string {
	if st.GetState() == schedulerpb.RebalanceStatus_STATE_UNSPECIFIED {
		return ""
	}
	return enumName(st.GetState(), "STATE_")
}

// movesText is the whole of it.
func movesText(st *schedulerpb.RebalanceStatus) string {
	if movesName(st) == "" {
		return ""
	}
	text := fmt.Sprintf("%s, %s, begun %s", movesName(st), plural(int(st.GetMoves()), "move"), time.Unix(0, st.GetStartedAt()).UTC().Format(time.RFC3339))
	if st.GetAutomatic() {
		text += " without being asked for"
	}
	if st.GetCompletedAt() != 0 {
		text += ", ended " + time.Unix(0, st.GetCompletedAt()).UTC().Format(time.RFC3339)
	}
	if st.GetMessage() != "" {
		text += ": " + printable(st.GetMessage())
	}
	return text
}

// placementFields are what inspect shows of where a service's tasks go.
func placementFields(sp *schedulerpb.ServiceSpec) [][2]string {
	t := sp.GetTask()
	over := make([]string, 0, len(t.GetPreferences()))
	for _, p := range t.GetPreferences() {
		over = append(over, strings.TrimPrefix(p, "spread="))
	}
	out := [][2]string{{"Spread over", strings.Join(over, ", then ")}, {"Strategy", strategyName(t.GetStrategy())}}
	if t.GetPriority() > 0 {
		out = append(out, [2]string{"Priority", fmt.Sprint(t.GetPriority())})
	}
	if r := sp.GetRebalance(); r.GetAutomatic() {
		pause := time.Duration(cmp.Or(r.GetPauseNs(), int64(spec.DefaultRebalancePause)))
		out = append(out, [2]string{"Rebalance", fmt.Sprintf("automatic, %s between moves", pause)})
	}
	return out
}

// strategyName is "bin-pack"; empty: the cluster's.
func strategyName(s taskpb.Strategy) string {
	if s == taskpb.Strategy_STRATEGY_UNSPECIFIED {
		return ""
	}
	return strings.ReplaceAll(enumName(s, "STRATEGY_"), " ", "-")
}

// leavesFor says for which other task one ends, or will; empty: it stays.
func leavesFor(t *schedulerpb.Task) string {
	switch {
	case t.GetPreemptedBy() != "":
		return "its place is for task " + t.GetPreemptedBy() + ", of a higher priority"
	case t.GetMakesWayFor() != "":
		return "ends when task " + t.GetMakesWayFor() + " runs in its stead"
	}
	return ""
}
