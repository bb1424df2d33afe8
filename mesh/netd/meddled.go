package netd

import (
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// meddling is what all parts of this process found done to their rules. n.mu is
// held; the parts never call a Node.
func (n *Node) meddling() (last kernel.Meddling) {
	all := []kernel.Meddling{n.meddled}
	if n.fabric != nil {
		all = append(all, n.fabric.Meddled())
	}
	if n.overlays != nil {
		all = append(all, n.overlays.Meddled())
	}
	if n.ingress != nil {
		all = append(all, n.ingress.Meddled())
	}
	for _, m := range all {
		times := last.Times + m.Times
		if m.Last.After(last.Last) {
			last = m
		}
		last.Times = times
	}
	return last
}

// rulesFeature tells of it. It is absent for so long that somebody sees it, and
// changes only when something happens.
func (n *Node) rulesFeature(now time.Time) *netdpb.Feature {
	f, m := &netdpb.Feature{Name: netdpb.FeatureRules, Present: true}, n.meddling()
	if m.Times > 0 {
		f.Present = now.Sub(m.Last) > meddledFor
		times := "once"
		if m.Times > 1 {
			times = fmt.Sprintf("%d times", m.Times)
		}
		f.Detail = fmt.Sprintf("changed by somebody and put back at %s: %s; %s since netd started", m.Last.UTC().Format(time.RFC3339), m.What, times)
	}
	return f
}
