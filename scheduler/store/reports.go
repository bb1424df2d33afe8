package store

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Bounds of what a node may have stored about a task. Longer texts are cut: a
// report that arrived is worth more than its end.
const (
	maxReportText    = 1024
	maxReportID      = 128
	maxReportAddress = 64
	// Addresses of one network that a node's own driver gave.
	maxReportLocal = 16
	// Secrets and configs that a node says a container has.
	maxReportFiles = 64
)

// cleanStatus is the status as it is stored: known fields only, bounded. It is
// built field by field, so that nothing a node adds can reach the log.
func cleanStatus(t *schedulerpb.Task, st *schedulerpb.TaskStatus) *schedulerpb.TaskStatus {
	return &schedulerpb.TaskStatus{
		State:       st.GetState(),
		At:          st.GetAt(),
		Message:     cut(st.GetMessage(), maxReportText),
		Error:       cut(st.GetError(), maxReportText),
		ExitCode:    st.GetExitCode(),
		OomKilled:   st.GetOomKilled(),
		ContainerId: cut(st.GetContainerId(), maxReportID),
		Address:     cut(st.GetAddress(), maxReportAddress),
		Unhealthy:   st.GetUnhealthy() && st.GetState() == Running,
		Local:       localOf(t, st),
		Files:       filesOf(st),
	}
}

// localOf are the addresses that a node says a live task has on networks on which
// the store gave it none.
func localOf(t *schedulerpb.Task, st *schedulerpb.TaskStatus) (out []*taskpb.Attachment) {
	if st.GetState() > Running {
		return nil
	}
	for _, on := range t.GetAttachments() {
		i := slices.IndexFunc(st.GetLocal(), func(a *taskpb.Attachment) bool { return a.GetNetworkId() == on.GetNetworkId() })
		if i >= 0 && len(on.GetAddresses()) == 0 && len(st.Local[i].GetAddresses()) <= maxReportLocal {
			out = append(out, &taskpb.Attachment{NetworkId: on.GetNetworkId(), Addresses: st.Local[i].GetAddresses()})
		}
	}
	return out
}

// filesOf are the versions that a node says a live task has.
func filesOf(st *schedulerpb.TaskStatus) (out []*taskpb.FileVersion) {
	if st.GetState() > Running || len(st.GetFiles()) > maxReportFiles {
		return nil
	}
	for _, v := range st.GetFiles() {
		out = append(out, &taskpb.FileVersion{ObjectId: cut(v.GetObjectId(), maxReportID), VersionId: cut(v.GetVersionId(), maxReportID)})
	}
	return out
}

func cut(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}

// known returns a copy of m without fields this version does not know. The
// store refuses those at every manager, so a node of a newer version must not
// be able to put one there.
func known[T proto.Message](m T) (T, error) {
	var zero T
	b, err := proto.Marshal(m)
	if err != nil {
		return zero, fmt.Errorf("the report cannot be encoded: %w", err)
	}
	out := m.ProtoReflect().New().Interface()
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, out); err != nil {
		return zero, fmt.Errorf("the report cannot be decoded: %w", err)
	}
	return out.(T), nil
}
