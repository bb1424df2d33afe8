package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// Where a session comes from stands beside the address that a manager gives as its own.
func TestWhereASessionComesFrom(t *testing.T) {
	now := time.Unix(1e9, 0)
	n := &schedulerpb.Node{Address: "192.0.2.66"}
	for _, want := range []string{"Session from:   192.0.2.66\n", "192.0.2.66, first 3 minutes ago", "; a session from 192.0.2.1 still lived then"} {
		var out strings.Builder
		printNode(&out, &controlpb.NodeView{Id: "x", Node: n, Manager: &controlpb.ManagerStatus{Address: "192.0.2.10:2377"}}, "", now)
		if !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "192.0.2.10:2377") {
			t.Errorf("%q, want %q", out.String(), want)
		}
		if n.AddressSince != 0 {
			n.AddressBefore = "192.0.2.1"
		}
		n.AddressSince = now.Add(-3 * time.Minute).UnixNano()
	}
}
