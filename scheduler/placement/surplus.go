package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Surplus is a task too many somewhere.
type Surplus struct {
	// From has it; To is where it would be placed now.
	From, To string
	// Why, for people: "node.labels.zone a has 4 of it, b has 2".
	Why string
}

// source is a node with tasks of the service.
type source struct {
	info        *nodeInfo
	stays, live int
	values      []string // of each level
}

// Surplus finds a node one of whose tasks of r would better be elsewhere, as things are:
// where the zone it is in has two more than another that has room, or its node has two
// more than another of the same zone, or, where that makes neither worse, far more tasks
// of all services. Gains are sought level by level, the widest first. Each such move,
// with Place choosing where to, lessens at the first level that it changes the sum of the
// squares of the numbers of tasks, so moves one after the other come to an end.
//
// It counts on every task of the service that should run doing so: else Place has more
// to say first. False: nothing gains, or the tasks have volumes.
func (c *Cluster) Surplus(r *Request, now time.Time) (Surplus, bool) {
	if len(r.volumes) > 0 { // their data does not move with them
		return Surplus{}, false
	}
	root, _ := c.tree(r, now, nil)
	if root.empty() || root.best().failing {
		return Surplus{}, false
	}
	var all []source
	for info, own := range c.services[r.ServiceID] {
		if info.node == nil || info.empties || own.stays == 0 {
			continue
		}
		s := source{info: info, stays: own.stays, live: info.live - info.goes}
		for _, p := range r.preferences {
			s.values = append(s.values, value(info.node, p))
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b source) int { // the fullest first
		return cmp.Or(cmp.Compare(b.stays, a.stays), cmp.Compare(b.live, a.live), cmp.Compare(a.info.node.GetId(), b.info.node.GetId()))
	})
	if m, ok := r.uneven(root, all, 0); ok {
		return m, true
	}
	if root.packs {
		return Surplus{}, false
	}
	return r.loaded(root, all)
}

// uneven finds a gain below b, whose tasks are on sources.
func (r *Request) uneven(b *branch, sources []source, depth int) (Surplus, bool) {
	if len(sources) == 0 || b.empty() {
		return Surplus{}, false
	}
	if depth == len(r.preferences) {
		to, from := &b.nodes[0], sources[0]
		if b.packs || to.failing || from.stays-to.service < 2 {
			return Surplus{}, false
		}
		return Surplus{from.info.node.GetId(), to.info.node.GetId(), fmt.Sprintf("it has %d of it, another has %d", from.stays, to.service)}, true
	}
	parts := map[string][]source{}
	sum := map[string]int{}
	for _, s := range sources {
		v := s.values[depth]
		parts[v] = append(parts[v], s)
		sum[v] += s.stays
	}
	fullest := slices.MinFunc(slices.Collect(maps.Keys(sum)), func(x, y string) int { return cmp.Or(cmp.Compare(sum[y], sum[x]), cmp.Compare(x, y)) })
	if to := b.below[0]; !to.best().failing && sum[fullest]-to.stays >= 2 {
		return Surplus{r.worst(parts[fullest], depth+1).info.node.GetId(), to.best().info.node.GetId(),
			fmt.Sprintf("%s %s has %d of it, %s has %d", r.preferences[depth].Over(), named(fullest), sum[fullest], named(to.value), to.stays)}, true
	}
	for _, v := range slices.Sorted(maps.Keys(parts)) {
		if c := b.index[v]; c != nil {
			if m, ok := r.uneven(c, parts[v], depth+1); ok {
				return m, true
			}
		}
	}
	return Surplus{}, false
}

// worst is who has most, level by level.
func (r *Request) worst(sources []source, depth int) source {
	for ; depth < len(r.preferences); depth++ {
		sum := map[string]int{}
		for _, s := range sources {
			sum[s.values[depth]] += s.stays
		}
		fullest := slices.MinFunc(slices.Collect(maps.Keys(sum)), func(x, y string) int { return cmp.Or(cmp.Compare(sum[y], sum[x]), cmp.Compare(x, y)) })
		sources = slices.DeleteFunc(slices.Clone(sources), func(s source) bool { return s.values[depth] != fullest })
	}
	return sources[0]
}

// loaded finds a node that has far more tasks of all services than the best one, where a
// move there makes nothing less even.
func (r *Request) loaded(root *branch, sources []source) (Surplus, bool) {
	to := root.best()
	for _, s := range sources {
		b, fair, apart := root, true, false
		for i, v := range s.values {
			b = b.below[0]
			if apart = apart || b.value != v; apart {
				fair = fair && inside(sources, s.values[:i+1]) > b.stays
			}
		}
		if fair && s.stays-to.service >= 1 && s.live-to.live >= max(minLoadGain, s.live/loadShare) {
			return Surplus{s.info.node.GetId(), to.info.node.GetId(), fmt.Sprintf("it has %d tasks in all, another has %d", s.live, to.live)}, true
		}
	}
	return Surplus{}, false
}

// inside is how many tasks there are where all those levels are alike.
func inside(sources []source, values []string) (n int) {
	for _, s := range sources {
		if slices.Equal(s.values[:len(values)], values) {
			n += s.stays
		}
	}
	return n
}

func named(value string) string {
	if value == "" {
		return "(none)"
	}
	return value
}
