package peer

import (
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// hearing is what a node heard of others' endpoints: by node, network and task.
type hearing struct {
	mu    sync.Mutex
	of    map[string]map[string]map[string]bool
	calls int
}

func (w *hearing) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of = map[string]map[string]map[string]bool{}
}

func (w *hearing) take(node, network string, tasks map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	if w.of[node] == nil {
		w.of[node] = map[string]map[string]bool{}
	}
	if w.of[node][network] = maps.Clone(tasks); tasks == nil {
		delete(w.of[node], network)
	}
}

func (w *hearing) get(node, network string) map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[node][network]
}

// share puts the nodes on a network, as managers would tell each of them.
func (w *world) share(network string, nodes ...*node) {
	var ids []string
	for _, x := range nodes {
		ids = append(ids, x.id())
	}
	for _, x := range nodes {
		x.Share(network, ids)
	}
}

// heard fails unless all the others have of x what it says.
func (w *world) heard(x *node, network string, want map[string]bool, others ...*node) {
	w.t.Helper()
	for _, o := range others {
		if got := o.words.get(x.id(), network); o != x && !maps.Equal(got, want) {
			w.t.Errorf("node %d of node %d: %v, want %v; %+v", o.i, x.i, got, want, o.State().Statements)
		}
	}
}

// What a node says of its tasks is heard by all on the network, and by nobody else;
// who is cut off and comes back is told the whole.
func TestStatements(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *world) {
		a, b, c, d := w.nodes[0], w.nodes[1], w.nodes[2], w.nodes[3]
		n, m := ident.New(), ident.New()
		task, other := ident.New(), ident.New()
		w.know(w.nodes...)
		w.share(n, a, b, c)
		w.share(m, a, d)
		a.Tell(n, map[string]bool{task: true})
		a.Tell(m, map[string]bool{other: true})
		after(time.Second)
		w.heard(a, n, map[string]bool{task: true}, b, c)
		w.heard(a, n, nil, d)
		w.heard(a, m, map[string]bool{other: true}, d)
		w.heard(a, m, nil, b, c)

		// At once, and not only after a while.
		a.Tell(n, map[string]bool{task: false, other: true})
		after(0)
		w.heard(a, n, map[string]bool{task: false, other: true}, b, c)
		// Faster than it is said: only what holds in the end matters.
		for i := range 50 {
			a.Tell(n, map[string]bool{task: i%2 == 0})
		}
		a.Tell(n, map[string]bool{task: true})
		after(sayAgain)
		w.heard(a, n, map[string]bool{task: true}, b, c)
		if s := a.State().Statements; s.Told > 9 {
			t.Errorf("it said all of it: %+v", s)
		}

		// Cut off, it hears through the third; alone, nothing; and then the whole.
		cut := func(x, y *node, off bool) {
			w.sever(x, y, off)
			if !off {
				return
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			x.pairs[y.id()].link.cut()
		}
		cut(a, b, true)
		after(time.Second)
		a.Tell(n, map[string]bool{task: false})
		after(0)
		w.heard(a, n, map[string]bool{task: false}, b, c)
		if s := b.State().Statements; s.Relayed != 1 {
			t.Errorf("it was not relayed: %+v", s)
		}
		cut(b, c, true)
		after(time.Second)
		a.Tell(n, map[string]bool{task: true})
		after(time.Second)
		w.heard(a, n, map[string]bool{task: false}, b)
		w.heard(a, n, map[string]bool{task: true}, c)
		cut(a, b, false)
		after(time.Minute)
		w.heard(a, n, map[string]bool{task: true}, b, c)

		// A new process begins anew, also with a clock that was put back.
		a.stop()
		after(time.Second)
		a.start(nil)
		a.mu.Lock()
		a.speech.boot -= uint64(time.Hour)
		a.mu.Unlock()
		w.know(a, b, c, d)
		w.share(n, a, b, c)
		a.Tell(n, map[string]bool{other: true})
		after(time.Minute)
		w.heard(a, n, map[string]bool{other: true}, b, c)

		// Who leaves the network is forgotten; a peer that is none any more, too.
		b.Share(n, []string{b.id(), c.id()})
		w.heard(a, n, nil, b)
		c.set(b, d)
		w.heard(a, n, nil, c)
		for _, x := range w.nodes {
			if s := x.State().Statements; s.Forged+s.Stale+s.Malformed+s.Replayed > 0 {
				t.Errorf("node %d: %+v", x.i, s)
			}
		}
	})
}

// A peer may know of a network before this node does: what it said then is asked for.
func TestSpokenTooEarly(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		n, task := ident.New(), ident.New()
		w.know(a, b)
		after(time.Second)
		a.Share(n, []string{a.id(), b.id()})
		a.Tell(n, map[string]bool{task: true})
		after(time.Second)
		w.heard(a, n, nil, b)
		b.Share(n, []string{a.id(), b.id()})
		after(0)
		w.heard(a, n, map[string]bool{task: true}, b)
		if s := b.State().Statements; s.Foreign != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// On a network of many nodes, one tells few of them at first, and all know it at once.
func TestRelays(t *testing.T) {
	bubble(t, 11, func(t *testing.T, w *world) {
		n, task := ident.New(), ident.New()
		const relays = 3
		for _, x := range w.nodes {
			x.mu.Lock()
			x.o.direct, x.o.relays = 4, relays
			x.mu.Unlock()
		}
		w.know(w.nodes...)
		w.share(n, w.nodes...)
		after(time.Minute)
		a := w.nodes[5]
		a.Tell(n, map[string]bool{task: true})
		after(0)
		w.heard(a, n, map[string]bool{task: true}, w.nodes...)
		s := a.State().Statements
		if s.Told != relays || s.Swept != 0 {
			t.Errorf("it told %d itself", s.Told)
		}
		after(time.Second)
		if s := a.State().Statements; s.Told != relays || s.Swept != 0 {
			t.Errorf("all had confirmed, and it told %d", s.Told)
		}
		// Relays that pass nothing on cost a moment: first some of those that might be
		// chosen, then all of them.
		lazy := func(nodes ...*node) {
			for _, x := range nodes {
				x.mu.Lock()
				x.o.lazy = true
				x.mu.Unlock()
			}
		}
		lazy(w.nodes[6:10]...)
		a.Tell(n, map[string]bool{task: false})
		after(confirmWithin)
		w.heard(a, n, map[string]bool{task: false}, w.nodes...)
		lazy(w.nodes...)
		before := a.State().Statements.Swept
		a.Tell(n, map[string]bool{task: true})
		after(confirmWithin)
		w.heard(a, n, map[string]bool{task: true}, w.nodes...)
		if swept, want := a.State().Statements.Swept-before, uint64(len(w.nodes)-1-relays); swept != want {
			t.Errorf("it told %d after all, want %d", swept, want)
		}
		var sum Statements
		for _, x := range w.nodes {
			s := x.State().Statements
			sum.Repeated += s.Repeated
			sum.Replayed += s.Replayed
		}
		if sum.Repeated+sum.Replayed > 0 {
			t.Errorf("they were told twice: %+v", sum)
		}
	})
}

func (w *hearing) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// Whatever is cut, restarted and said meanwhile: once nothing disturbs them, all have
// of each what it says, and of nobody anything else.
func TestStatementsConverge(t *testing.T) {
	for seed := range uint64(2) {
		bubble(t, 4, func(t *testing.T, w *world) {
			rng := rand.New(rand.NewPCG(seed, 0))
			n := ident.New()
			var tasks []string
			for range 3 {
				tasks = append(tasks, ident.New())
			}
			says := map[*node]map[string]bool{}
			for _, x := range w.nodes {
				x.mu.Lock()
				x.o.direct, x.o.relays = 2, 1
				x.mu.Unlock()
			}
			w.know(w.nodes...)
			w.share(n, w.nodes...)
			for range 60 {
				x, y := w.nodes[rng.IntN(4)], w.nodes[rng.IntN(4)]
				switch rng.IntN(12) {
				case 0:
					w.sever(x, y, true)
					x.mu.Lock()
					if pr := x.pairs[y.id()]; pr != nil {
						pr.link.cut()
					}
					x.mu.Unlock()
				case 1:
					w.sever(x, y, false)
				case 2: // a new process
					x.stop()
					x.start(nil)
					x.set(w.nodes...)
					w.share(n, w.nodes...)
					x.Tell(n, says[x])
				case 3: // managers take it off the network, and put it there again
					x.Share(n, nil)
					after(time.Duration(rng.IntN(2000)) * time.Millisecond)
					w.share(n, w.nodes...)
					x.Tell(n, says[x])
				default:
					says[x] = map[string]bool{}
					for _, task := range tasks[:rng.IntN(4)] {
						says[x][task] = rng.IntN(2) == 0
					}
					x.Tell(n, says[x])
				}
				after(time.Duration(rng.IntN(300)) * time.Millisecond)
			}
			for _, x := range w.nodes {
				for _, y := range w.nodes {
					w.sever(x, y, false)
				}
			}
			after(3 * time.Minute)
			for _, x := range w.nodes {
				w.heard(x, n, says[x], w.nodes...)
				if s := x.State().Statements; s.Forged+s.Malformed+s.Stale > 0 {
					t.Errorf("node %d: %+v", x.i, s)
				}
			}
		})
	}
}
