package cow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// model is what a Map must be like, and every state that was ever taken of it.
type model struct {
	w    Writer[int]
	want map[Key]int
	old  []Map[int]
	was  []map[Key]int
}

func (m *model) take() {
	m.old, m.was = append(m.old, m.w.Map()), append(m.was, maps.Clone(m.want))
}

func key(n int) Key { return Key{fmt.Sprint(n / 7), fmt.Sprint(n % 7)} }

// Any history of changes reads as a sorted map does, and what was read before a
// change is not touched by it.
func TestLikeASortedMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{want: map[Key]int{}, w: Map[int]{}.Write()}
		span := rapid.SampledFrom([]int{20, 300, 5000}).Draw(t, "span")
		steps := rapid.IntRange(1, 12).Draw(t, "steps")
		for range steps {
			from, n := rapid.IntRange(0, span).Draw(t, "from"), rapid.IntRange(1, span).Draw(t, "n")
			what := rapid.SampledFrom([]string{"rise", "fall", "random", "delete", "delete random"}).Draw(t, "what")
			r := rand.New(rand.NewPCG(uint64(from), uint64(n)))
			for i := range n {
				k := key(from + i)
				switch what {
				case "fall":
					k = key(from + n - i)
				case "random", "delete random":
					k = key(r.IntN(span))
				}
				if what == "delete" || what == "delete random" {
					m.w.Delete(k)
					delete(m.want, k)
				} else {
					m.w.Set(k, i)
					m.want[k] = i
				}
			}
			m.take()
		}
		for i, old := range m.old {
			if why := differs(old, m.was[i]); why != "" {
				t.Fatalf("state %d of %d: %s", i, len(m.old), why)
			}
		}
	})
}

func differs(m Map[int], want map[Key]int) string {
	keys := slices.SortedFunc(maps.Keys(want), compare)
	starts := []int{0, len(keys) / 3, len(keys) - 1}
	for _, s := range starts {
		if s < 0 || s >= len(keys) {
			continue
		}
		at := s
		for k, v := range m.From(keys[s]) {
			if at >= len(keys) || k != keys[at] || v != want[k] {
				return fmt.Sprintf("from %v on, entry %d is %v = %d", keys[s], at-s, k, v)
			}
			at++
		}
		if at != len(keys) {
			return fmt.Sprintf("from %v on there are %d entries, not %d", keys[s], at-s, len(keys)-s)
		}
	}
	for k, v := range want {
		if got, ok := m.Get(k); !ok || got != v {
			return fmt.Sprintf("%v is %d, %v, not %d", k, got, ok, v)
		}
	}
	if _, ok := m.Get(Key{"none", ""}); ok {
		return "a key is found that never was"
	}
	for k := range m.From(Key{}) {
		if _, ok := want[k]; !ok {
			return fmt.Sprintf("%v should be gone", k)
		}
	}
	if m.root == nil {
		return ""
	}
	return crooked(m.root, true)
}

// crooked says what is wrong with the shape of a tree: its cost depends on it.
func crooked[V any](n *node[V], root bool) string {
	switch {
	case n.kids == nil && len(n.items) == 0:
		return "an empty leaf"
	case n.kids == nil:
		return ""
	case len(n.kids) < 2:
		return "a node with one child"
	}
	depth := -1
	for _, c := range n.kids {
		d := 0
		for k := c.node; k.kids != nil; k = k.kids[0].node {
			d++
		}
		if depth >= 0 && d != depth {
			return "leaves at different depths"
		}
		depth = d
		if why := crooked(c.node, false); why != "" {
			return why
		}
	}
	return ""
}

// Iteration may stop anywhere.
func TestStops(t *testing.T) {
	w := Map[int]{}.Write()
	for i := range 1000 {
		w.Set(key(i), i)
	}
	for stop := range 100 {
		n := 0
		for range w.Map().From(Key{}) {
			if n++; n > stop {
				break
			}
		}
		if n != stop+1 {
			t.Fatalf("%d entries were yielded, not %d", n, stop+1)
		}
	}
}

// Who changes a map while somebody walks it does not change the walk.
func TestWalkOfAFormerState(t *testing.T) {
	w := Map[int]{}.Write()
	for i := range 500 {
		w.Set(key(i), i)
	}
	n := 0
	for k := range w.Map().From(Key{}) {
		w.Delete(k)
		w.Set(Key{k.A + "x", k.B}, 1)
		n++
	}
	if n != 500 {
		t.Errorf("the walk saw %d of 500", n)
	}
}

// Any number read a state, and begin to write from it, while others do.
func TestManyAtOnce(t *testing.T) {
	w := Map[int]{}.Write()
	want := map[Key]int{}
	for i := range 2000 {
		w.Set(key(i), i)
		want[key(i)] = i
	}
	m := w.Map()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			mine := maps.Clone(want)
			w := m.Write()
			for i := range 500 {
				k := key((i*13 + g) % 2500)
				if i%3 == 0 {
					w.Delete(k)
					delete(mine, k)
				} else {
					w.Set(k, -g)
					mine[k] = -g
				}
				if i%100 == 0 { // it writes on from a state that others read
					w = w.Map().Write()
				}
			}
			if why := differs(w.Map(), mine); why != "" {
				t.Errorf("writer %d: %s", g, why)
			}
		})
		wg.Go(func() {
			if why := differs(m, want); why != "" {
				t.Errorf("reader %d: %s", g, why)
			}
		})
	}
	wg.Wait()
	if why := differs(m, want); why != "" {
		t.Errorf("afterwards: %s", why)
	}
}

func BenchmarkSet(b *testing.B) {
	var m Map[int]
	w := m.Write()
	for i := range 100_000 {
		w.Set(Key{A: fmt.Sprintf("%026d", i*7919%100_000)}, i)
	}
	m = w.Map()
	keys := make([]Key, 1024)
	for i := range keys {
		keys[i] = Key{A: fmt.Sprintf("%026d", rand.IntN(100_000))}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		w := m.Write()
		w.Set(keys[i%len(keys)], i)
		m = w.Map()
	}
}
