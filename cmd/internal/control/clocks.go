package control

import (
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// clocks are what connected nodes said of their clocks, by node.
func (s *Server) clocks() map[string]*schedulerpb.ClockOffset {
	out := map[string]*schedulerpb.ClockOffset{}
	for _, ses := range s.c.Sessions() {
		if ses.Clock != nil {
			out[ses.NodeID] = ses.Clock
		}
	}
	return out
}

// nodeClockWarnings tells of workers whose clocks are wrong. They measured by
// this manager's, which may be off itself; managers are measured among
// themselves.
func (s *Server) nodeClockWarnings(r *raftstore.ReadTx, warn func(string, ...any)) {
	var own time.Duration
	if s.c.Offset != nil {
		own = s.c.Offset()
	}
	clocks := s.clocks()
	for n := range pkistore.Nodes.All(r) {
		if n.GetDenied() || n.GetRole() != profilepb.Role_ROLE_WORKER {
			continue
		}
		if c := clocks[n.GetId()]; clockOff(c, own) > warnClock {
			warn("the clock of node %s is %s: check its time service", n.GetName(), offBy(time.Duration(c.GetAheadNs())+own))
		}
	}
}

// clockOff is how far a node's clock is off at least, by its own measure of a clock
// that is ahead by own; nil is none.
func clockOff(c *schedulerpb.ClockOffset, own time.Duration) time.Duration {
	if c == nil {
		return 0
	}
	return max((time.Duration(c.GetAheadNs())+own).Abs()-min(time.Duration(c.GetUnsureNs()), maxUnsure), 0)
}

// clockWarnings tells of managers whose clocks are wrong.
func (s *Server) clockWarnings(managers []managerFact) (out []string) {
	if s.c.Skews == nil {
		return nil
	}
	skews := s.c.Skews()
	for _, m := range managers {
		if by, ok := skews[m.GetNodeId()]; ok {
			out = append(out, fmt.Sprintf("the clock of manager %s is %s: check its time service; beyond 30s it may not lead", m.GetName(), offBy(by)))
		}
	}
	return out
}

func offBy(ahead time.Duration) string {
	way := "ahead"
	if ahead < 0 {
		way = "behind"
	}
	return fmt.Sprintf("%v %s", ahead.Abs().Round(100*time.Millisecond), way)
}
