package control_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// TestClocksOfNodes: what a node measured is shown, and from 5 s on is a warning,
// as far as it is sure.
func TestClocksOfNodes(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		ahead, unsure time.Duration
		want          string
	}{
		{0, 0, ""},
		{4 * time.Second, 0, ""},
		{-9 * time.Second, 5 * time.Second, ""},
		{-9 * time.Second, time.Second, "the clock of node worker-1 is 9s behind: check its time service"},
		{-time.Hour, time.Hour, "the clock of node worker-1 is 1h0m0s behind"}, // as unsure as it likes
		{time.Hour, time.Second, "the clock of node worker-1 is 1h0m0s ahead"},
	} {
		w.sessions = []dispatcher.SessionInfo{{NodeID: w.manager}, {NodeID: w.worker, Clock: &schedulerpb.ClockOffset{AheadNs: int64(tc.ahead), UnsureNs: int64(tc.unsure)}}}
		st, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(st.GetWarnings(), func(s string) bool { return strings.Contains(s, "the clock of") })
		if (i >= 0) != (tc.want != "") || i >= 0 && !strings.Contains(st.GetWarnings()[i], tc.want) {
			t.Errorf("%v: %q, want %q", tc.ahead, st.GetWarnings(), tc.want)
		}
		r, err := w.api.ListNodes(t.Context(), &controlpb.ListNodesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range r.GetNodes() {
			if n.GetId() == w.worker && n.GetClock().GetAheadNs() != int64(tc.ahead) || n.GetId() == w.manager && n.GetClock() != nil {
				t.Errorf("node %s: %v", n.GetName(), n.GetClock())
			}
		}
	}
}
