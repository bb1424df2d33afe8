package ingress

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/hold"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// Whatever changes, a port that is to be answered on is held and published for its
// service, or somebody else has it and that is said; nothing else is held.
func TestPortsAreThoseOfThePlan(t *testing.T) {
	t.Parallel()
	n := newLab(t, 1).nodes[0]
	n.halt()
	random := func(id string) *service {
		s := &service{id: id, entry: rand.N(4) > 0}
		for _, k := range rand.Perm(12)[:rand.N(4)] {
			if id != "a" && k < 10 { // clashes are rare: those that had one are looked at all the same
				k = int(id[0])*100 + k
			}
			s.ports = append(s.ports, port{Port: hold.Port{Host: netip.IPv4Unspecified(), Number: uint16(20000 + k), UDP: k%2 == 0}, target: 80})
		}
		return s
	}
	refused, clean := 0, 0
	netlab.Within(t, n.ns, func() error {
		i := n.in
		i.mu.Lock()
		defer i.mu.Unlock()
		i.plan = emptyPlan()
		for step := range 600 {
			before, q := i.plan, i.plan.clone()
			for range rand.N(3) {
				id := string(rune('a' + rand.N(5)))
				switch was := q.services[id]; {
				case rand.N(4) == 0:
					delete(q.services, id)
				case was != nil && rand.N(2) == 0: // other tasks
					q.services[id] = was.clone()
				default:
					q.services[id] = random(id)
				}
			}
			i.plan, i.bad = q, nil
			if rand.N(5) == 0 {
				i.plan = before // a look
			}
			published := maps.Clone(i.publish())
			bad := map[string]bool{}
			for _, b := range i.bad {
				bad[fmt.Sprint(b.GetServiceId(), b.GetPublished())] = true
			}
			by := map[hold.Port]bool{}
			for p := range published {
				by[p.Port] = true
			}
			count := 0
			for id, s := range i.plan.services {
				for _, p := range i.plan.answered(s) {
					count++
					said := bad[fmt.Sprint(id, p.Number)]
					if (published[p] == s) == said || !by[p.Port] {
						return fmt.Errorf("step %d: port %d of %s: published %v, refused %v, held for somebody %v", step, p.Number, id, published[p] == s, said, by[p.Port])
					}
				}
			}
			if len(published)+len(i.bad) != count || len(i.held) != len(published) || !maps.Equal(i.held, by) {
				return fmt.Errorf("step %d: %d ports: %d published, %d refused, %d held", step, count, len(published), len(i.bad), len(i.held))
			}
			if len(i.bad) > 0 {
				refused++
			} else {
				clean++
			}
		}
		i.releaseAll(nil)
		i.plan = emptyPlan()
		return nil
	})
	if refused < 10 || clean < 10 {
		t.Errorf("%d times something was refused, %d times nothing: not much is shown", refused, clean)
	}
}
