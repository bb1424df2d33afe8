package dispatcher

import (
	"context"
	"net"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"google.golang.org/grpc/peer"
)

// SessionInfo is what the leader remembers of a connected node.
type SessionInfo struct {
	NodeID, Address string
	Since           time.Time
	// AppliedIndex is a manager's own word of how far its store is.
	AppliedIndex uint64
	// Clock is the node's own word of how far its clock is ahead; nil: none yet.
	Clock *schedulerpb.ClockOffset
	// Trusts are the SHA-256 of the roots that the node said to trust; nil: it said
	// nothing yet.
	Trusts [][]byte
}

// Sessions lists the connected nodes, in no order.
func (d *Dispatcher) Sessions() []SessionInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []SessionInfo
	for id, m := range d.members {
		if s := m.session; s != nil {
			out = append(out, SessionInfo{id, s.address, s.since, s.applied.Load(), s.clock.Load(), s.trusts.Load().GetRoots()})
		}
	}
	return out
}

// hostOf is where the session came from, as authz saw it behind a splice.
func hostOf(ctx context.Context, id authz.Identity) string {
	addr := id.Source
	if addr == nil {
		if p, ok := peer.FromContext(ctx); ok {
			addr = p.Addr
		}
	}
	if addr == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return ""
	}
	return host
}
