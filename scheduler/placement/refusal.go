package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Refusal is why no node takes a task: each node counts once, under the first
// filter it did not pass.
type Refusal struct {
	counts map[reason]int
}

// reason is a line of a refusal, in singular and plural; rank orders lines by
// filter.
type reason struct {
	rank      int
	one, many string
}

func same(rank int, text string) *reason { return &reason{rank, text, text} }

func lacks(rank int, what string) *reason {
	return &reason{rank, "lacks " + what, "lack " + what}
}

func (r *Refusal) add(why reason) {
	if r.counts == nil {
		r.counts = map[reason]int{}
	}
	r.counts[why]++
}

// String is the refusal as people read it:
// "no suitable node (2 not ready, 1 lacks label disk=ssd)".
func (r *Refusal) String() string {
	if len(r.counts) == 0 {
		return "no suitable node (the cluster has none: join a worker)"
	}
	lines := make([]reason, 0, len(r.counts))
	for why := range r.counts {
		lines = append(lines, why)
	}
	slices.SortFunc(lines, func(a, b reason) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.one, b.one))
	})
	var parts []string
	rest := 0
	for i, why := range lines {
		n := r.counts[why]
		switch {
		case i >= maxReasons:
			rest += n
		case n == 1:
			parts = append(parts, "1 "+why.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, why.many))
		}
	}
	if rest > 0 {
		parts = append(parts, fmt.Sprintf("%d for other reasons", rest))
	}
	return "no suitable node (" + strings.Join(parts, ", ") + ")"
}
