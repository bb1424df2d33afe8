package control_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Two nodes at one address, and a session that was replaced from elsewhere while it
// lived, are warnings; nodes at addresses of their own, and of one machine, are none.
func TestAddressWarnings(t *testing.T) {
	w := newWorld(t)
	other := w.addNode("worker-2", false)
	for _, tc := range []struct {
		worker, other, before string
		want                  []string
	}{
		{"192.0.2.1", "192.0.2.2", "", nil},
		{"127.0.0.1", "127.0.0.1", "", nil},
		{"192.0.2.3", "192.0.2.3", "", []string{"nodes worker-1, worker-2 are all at 192.0.2.3"}},
		{"::ffff:192.0.2.4", "192.0.2.4", "", []string{"nodes worker-1, worker-2 are all at 192.0.2.4"}},
		{"192.0.2.5", "192.0.2.6", "192.0.2.9", []string{"the session of worker-1 was replaced from another address"}},
		{"192.0.2.7", "192.0.2.6", "", nil},
	} {
		if err := w.store.Update(t.Context(), func(tx *raftstore.Tx) error {
			if err := schedstore.MoveNode(tx, other, schedulerpb.NodeState_NODE_STATE_READY, "", tc.other, ""); err != nil {
				return err
			}
			return schedstore.MoveNode(tx, w.worker, schedulerpb.NodeState_NODE_STATE_READY, "", tc.worker, tc.before)
		}); err != nil {
			t.Fatal(err)
		}
		st, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(st.GetWarnings(), func(s string) bool { return !strings.Contains(s, "address") && !strings.Contains(s, "are all at") })
		if !slices.EqualFunc(got, tc.want, strings.HasPrefix) {
			t.Errorf("at %s and %s: %q, want %q", tc.worker, tc.other, got, tc.want)
		}
	}
}
