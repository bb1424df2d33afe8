package control

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
)

// zoneLabel is the node label that names a failure domain.
const zoneLabel = "zone"

// managerFact is what the warnings about the quorum are made from.
type managerFact struct {
	*controlpb.ManagerStatus
	zone string
}

// quorumWarnings says what threatens the quorum, each with what mends it.
func quorumWarnings(managers []managerFact) (out []string) {
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	voters, up := 0, 0
	for _, m := range managers {
		switch {
		case m.GetLocked():
			warn("manager %s is locked: `redoubt unlock` on it", m.GetName())
		case !m.GetReachable():
			warn("manager %s is down: start it and `redoubt unlock` it; `redoubt node rm %s` only if it never comes back", m.GetName(), m.GetNodeId())
		case !m.GetVoter():
			warn("manager %s has no vote yet: it gets one once it has followed; see its `redoubt status` if it does not", m.GetName())
		}
		if m.GetVoter() {
			voters++
			if m.GetReachable() {
				up++
			}
		}
	}
	need := voters/2 + 1
	switch {
	case voters == 1:
		warn("one manager only: its loss is the loss of the cluster; add two (`redoubt join-token manager`)")
	case voters%2 == 0 && voters > 0:
		warn("%d managers vote and bear no more losses than %d: add one (`redoubt join-token manager`)", voters, voters-1)
	}
	if voters > 1 && up == need {
		warn("the loss of one more manager stops the cluster: %d of %d voters are up and %d are needed; bring the others back, or add managers (`redoubt join-token manager`)", up, voters, need)
	}
	for domain, names := range domains(managers) {
		if voters >= 3 && voters-len(names) < need {
			warn("managers %s share %s, whose loss stops the cluster: put one elsewhere (`redoubt join-token manager` there) and label it (`redoubt node update --label-add zone=… NODE`)", strings.Join(names, ", "), domain)
		}
	}
	slices.Sort(out)
	return out
}

// domains are the names of voters by the failure domain they share: the label
// where there is one, and the address of the host.
func domains(managers []managerFact) map[string][]string {
	out := map[string][]string{}
	for _, m := range managers {
		if !m.GetVoter() {
			continue
		}
		if m.zone != "" {
			key := "zone " + m.zone
			out[key] = append(out[key], m.GetName())
		}
		if host, _, err := net.SplitHostPort(m.GetAddress()); err == nil {
			key := "the address " + host
			out[key] = append(out[key], m.GetName())
		}
	}
	for key, names := range out {
		if len(names) < 2 {
			delete(out, key)
			continue
		}
		slices.SortFunc(names, func(a, b string) int { return cmp.Compare(a, b) })
	}
	return out
}

// askLocked asks the managers that are away whether they are only locked. One
// that just restarted has no session, but is not down yet by its record.
func (s *Server) askLocked(ctx context.Context, managers []managerFact) {
	connected := map[string]bool{}
	for _, ses := range s.c.Sessions() {
		connected[ses.NodeID] = true
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range managers {
		m := &managers[i]
		if s.c.Locked == nil || m.GetLeader() || m.GetReachable() && connected[m.GetNodeId()] {
			continue
		}
		wg.Go(func() {
			if s.c.Locked(ctx, m.GetNodeId(), m.GetAddress()) {
				m.Locked, m.Reachable = true, false
			}
		})
	}
	wg.Wait()
}
