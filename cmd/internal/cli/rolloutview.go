package cli

import (
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Short names of how far an update is.
const (
	stateUpdating       = schedulerpb.UpdateStatus_STATE_UPDATING
	statePaused         = schedulerpb.UpdateStatus_STATE_PAUSED
	stateRollingBack    = schedulerpb.UpdateStatus_STATE_ROLLBACK_STARTED
	stateRollbackPaused = schedulerpb.UpdateStatus_STATE_ROLLBACK_PAUSED
	stateRolledBack     = schedulerpb.UpdateStatus_STATE_ROLLBACK_COMPLETED
)

// statusName is "rollback_started"; empty: there was no update.
func statusName(st *schedulerpb.UpdateStatus) string {
	if st.GetState() == schedulerpb.UpdateStatus_STATE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(st.GetState().String(), "STATE_"))
}

// statusNote is what lists show beside the number of tasks: only what goes on, or waits
// for somebody.
func statusNote(st *schedulerpb.UpdateStatus) string {
	switch st.GetState() {
	case stateUpdating:
		return "updating"
	case statePaused:
		return "update paused"
	case stateRollingBack:
		return "rolling back"
	case stateRollbackPaused:
		return "rollback paused"
	}
	return ""
}

// statusText is the whole of it.
func statusText(st *schedulerpb.UpdateStatus) string {
	if statusName(st) == "" {
		return ""
	}
	text := statusName(st) + ", begun " + time.Unix(0, st.GetStartedAt()).UTC().Format(time.RFC3339)
	if st.GetCompletedAt() != 0 {
		text += ", completed " + time.Unix(0, st.GetCompletedAt()).UTC().Format(time.RFC3339)
	}
	if st.GetMessage() != "" {
		text += ": " + printable(st.GetMessage())
	}
	return text
}
