package mesh

import (
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/portname"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Reach is what containers reach of the cluster's nodes, each list in order. It is
// not changed.
type Reach struct {
	// Nodes are their addresses; none: nothing is held back.
	Nodes []netip.Addr
	// Published are the ports that containers reach there.
	Published []portname.Port
}

func (r Reach) same(o Reach) bool {
	return slices.Equal(r.Nodes, o.Nodes) && slices.Equal(r.Published, o.Published)
}

// message is nil where nobody said anything yet: netd keeps what it has.
func (r *Reach) message(resolvers []netip.Addr) *netdpb.Reach {
	if r == nil {
		return nil
	}
	m := &netdpb.Reach{}
	if len(r.Nodes) == 0 {
		return m // managers of before: what was known once may not be so any more
	}
	for _, a := range r.Nodes {
		m.Nodes = append(m.Nodes, a.String())
	}
	for _, p := range r.Published {
		m.Published = append(m.Published, p.String())
	}
	for _, a := range resolvers {
		m.Resolvers = append(m.Resolvers, a.String())
	}
	return m
}

// reachNow is what was said of it; nil: nothing.
func (l *Local) reachNow() *Reach {
	if l.config.Reach == nil {
		return nil
	}
	r, said := l.config.Reach()
	if !said {
		return nil
	}
	return &r
}

// sameReach: what netd was told is still right.
func (l *Local) sameReach() bool {
	now := l.reachNow()
	return now == nil || l.reach != nil && l.reach.same(*now)
}

// strayed is what containers sent to ports of nodes that nobody publishes. It is
// said once a minute at most: a container could fill the log.
type strayed struct {
	packets uint64
	last    time.Time
}

func (s *strayed) seen(packets uint64, now time.Time, log *slog.Logger) {
	switch {
	case packets < s.packets: // netd was started anew
		s.packets = 0
		fallthrough
	case packets > s.packets && now.Sub(s.last) >= strayedEvery:
		if packets > s.packets {
			log.Warn("containers sent something to ports of the cluster's nodes that no service publishes; netd dropped it (netd.containers_may_reach would let it pass)",
				"packets", packets-s.packets)
		}
		s.packets, s.last = packets, now
	}
}
