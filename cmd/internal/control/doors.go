package control

import (
	"bytes"
	"context"
	"sync"

	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile"
	checks "github.com/redoubt-cluster/redoubt/threatmodel/control"
)

// doors looks at the other managers from outside, all at once: there are few. One
// that is known to be locked or down is not looked at.
func (s *Server) doors(ctx context.Context, managers []managerFact, records map[string]*pkipb.Node) []checks.Door {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	var out []checks.Door
	var wg sync.WaitGroup
	for _, m := range managers {
		if m.GetNodeId() != s.c.Store.NodeID() {
			out = append(out, checks.Door{Manager: m.GetName()})
		}
	}
	i := 0
	for _, m := range managers {
		if m.GetNodeId() == s.c.Store.NodeID() {
			continue
		}
		d := &out[i]
		i++
		switch {
		case m.GetLocked():
			d.Away = "it is locked"
			continue
		case !m.GetReachable():
			d.Away = "it is down"
			continue
		}
		wg.Go(func() {
			seen, err := s.c.Look(ctx, m.GetNodeId(), m.GetAddress())
			if err != nil {
				d.Away = err.Error()
				return
			}
			rec, spki := records[m.GetNodeId()], profile.SPKIHash(seen.Shown)
			d.Admitted, d.Group, d.NotAfter = seen.Admitted, seen.Group.String(), seen.Shown.NotAfter
			d.OnRecord = bytes.Equal(spki, rec.GetLeafSpki()) || bytes.Equal(spki, rec.GetPreviousSpki())
		})
	}
	wg.Wait()
	return out
}
