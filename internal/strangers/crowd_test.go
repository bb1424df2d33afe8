package strangers

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestCrowdModel takes and gives places at random: the bounds hold, what is
// evicted is the oldest of its source, and nobody is evicted without need.
func TestCrowdModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const total, each = 6, 3
		h := NewCrowd(total, each)
		type place struct {
			source  string
			give    func()
			evicted bool
		}
		var here []*place
		count := func(source string) (n int) {
			for _, p := range here {
				if source == "" || p.source == source {
					n++
				}
			}
			return n
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(here) > 0 && rapid.IntRange(0, 3).Draw(t, "give") == 0 {
				i := rapid.IntRange(0, len(here)-1).Draw(t, "which")
				here[i].give()
				here[i].give() // once is enough
				here = append(here[:i], here[i+1:]...)
				continue
			}
			p := &place{source: fmt.Sprint(rapid.IntRange(0, 7).Draw(t, "source"))}
			full, own := count("") == total, count(p.source) == each
			p.give = h.Take(p.source, func() { p.evicted = true })
			var gone *place
			for i, q := range here {
				if q.evicted {
					gone = q
					for _, older := range here[:i] {
						if older.source == q.source {
							t.Fatal("an older one was kept")
						}
					}
					here = append(here[:i:i], here[i+1:]...)
					break
				}
			}
			if (gone != nil) != (full || own) {
				t.Fatalf("evicted %t, want %t", gone != nil, full || own)
			}
			if gone != nil {
				for _, q := range here {
					if q.evicted || own && gone.source != p.source || !own && count(q.source) > count(gone.source)+1 {
						t.Fatal("the wrong one, or more than one, was evicted")
					}
				}
				gone.give() // after eviction: no effect
			}
			here = append(here, p)
			if h.n != len(here) || h.n > total || count(p.source) > each {
				t.Fatalf("%d counted, %d here", h.n, len(here))
			}
		}
		for _, p := range here {
			p.give()
		}
		if h.n != 0 || len(h.bySource) != 0 {
			t.Fatalf("%d left", h.n)
		}
	})
}
