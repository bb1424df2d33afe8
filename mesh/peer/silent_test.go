package peer

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// silence is which peers a node was said to be silent.
type silence struct {
	mu    sync.Mutex
	nodes map[string]bool
	calls int
}

func (s *silence) take(nodes map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes = nodes
	s.calls++
}

func (s *silence) get() (map[string]bool, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes, s.calls
}

// answers is what the tunnel between the two says to a question.
func (w *world) answers(ctx context.Context, from, to netip.Addr) bool {
	w.mu.Lock()
	off := w.off[from] || w.off[to]
	w.mu.Unlock()
	if off {
		<-ctx.Done()
	}
	return !off
}

// power takes a node off the net, or puts it back; its connections end when the
// others' kernels miss it.
func (x *node) power(on bool) {
	x.w.mu.Lock()
	x.w.off[x.mesh()] = !on
	x.w.mu.Unlock()
	for _, o := range x.w.nodes {
		if o == x {
			continue
		}
		x.w.sever(x, o, !on)
		if on {
			continue
		}
		o.mu.Lock()
		if pr := o.pairs[x.id()]; pr != nil {
			pr.link.cut()
		}
		o.mu.Unlock()
	}
}

func (w *world) silent(x *node, want ...*node) {
	w.t.Helper()
	ids := map[string]bool{}
	for _, o := range want {
		ids[o.id()] = true
	}
	if got, _ := x.silence.get(); !maps.Equal(got, ids) {
		w.t.Errorf("to node %d are silent %v, want %v", x.i, got, ids)
	}
}

// silentBound is within what time a node that is gone is known to be, from the moment
// that its connection ended.
const silentBound = silentAfter + askLifeFor + time.Second

// A node without power is silent to all others in time, not to itself, and not any
// more once it is back.
func TestSilence(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *world) {
		a, b, c, d := w.nodes[0], w.nodes[1], w.nodes[2], w.nodes[3]
		w.know(w.nodes...)
		after(time.Minute)
		w.joined(w.nodes...)
		if _, calls := a.silence.get(); calls > 0 {
			t.Error("somebody was silent from the beginning")
		}
		b.power(false)
		after(silentAfter - time.Second)
		for _, x := range w.nodes {
			w.silent(x)
		}
		after(silentBound - silentAfter + time.Second)
		w.silent(a, b)
		w.silent(c, b)
		w.silent(d, b)
		w.silent(b) // all are silent to it: it is itself cut off
		if q := a.of(b); !q.Silent || q.Degraded == "" {
			t.Errorf("%+v", q)
		}
		after(10 * time.Minute)
		w.silent(b)
		w.silent(a, b)
		b.power(true)
		after(askLifeEvery + askLifeFor)
		for _, x := range w.nodes {
			w.silent(x)
		}
		after(time.Minute)
		w.joined(w.nodes...)
		// Two of three are no reason to be judged by the one that is left of them.
		c.power(false)
		d.power(false)
		after(silentBound)
		w.silent(a, c, d)
		w.silent(b, c, d)
		b.power(false) // now nobody answers a
		after(silentBound)
		w.silent(a)
	})
}

// The kernel of a node that is cut off misses its peers one after the other: the first
// is not judged either.
func TestCutOffByAndBy(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.know(w.nodes...)
		after(time.Minute)
		w.mu.Lock()
		w.off[b.mesh()] = true
		w.mu.Unlock()
		for _, x := range []*node{a, c} {
			w.sever(b, x, true)
			b.mu.Lock()
			b.pairs[x.id()].link.cut()
			b.mu.Unlock()
			after(silentAfter / 2)
		}
		after(silentBound)
		if got, calls := b.silence.get(); calls > 0 {
			t.Errorf("it judged others, %d times, in the end %v", calls, got)
		}
		w.silent(a, b)
	})
}

// With 7946 closed between two nodes the tunnel answers, and whoever answers on 7946
// is not asked.
func TestNotSilent(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.know(w.nodes...)
		after(time.Minute)
		w.sever(a, b, true)
		a.mu.Lock()
		a.pairs[b.id()].link.cut()
		a.mu.Unlock()
		w.mu.Lock()
		w.off[c.mesh()] = true // its tunnels are cut, its port is open
		w.mu.Unlock()
		after(time.Hour)
		for _, x := range w.nodes {
			w.silent(x)
			if _, calls := x.silence.get(); calls > 0 {
				t.Errorf("node %d judged somebody", x.i)
			}
		}
		// A single peer is the same for whoever is cut off and for whoever is not.
		a.set(a, b)
		w.mu.Lock()
		w.off[b.mesh()] = true
		w.mu.Unlock()
		after(askLifeEvery + silentBound)
		w.silent(a, b)
		// A process that begins while nobody is there finds out as well, once netd has
		// the peer from before.
		a.stop()
		a.start(nil)
		a.set(a, b)
		after(askLifeEvery + silentBound)
		w.silent(a, b)
	})
}

// Bytes that come through the tunnel are a sign of life; a peer whose connection rests
// is called where it does not answer them.
func TestSignsInTheTunnel(t *testing.T) {
	p := &Peers{kick: make(chan struct{}, 1)}
	now := time.Now()
	pr := &pair{}
	pr.resting, pr.lost, pr.unanswered = true, now, 5
	p.counted(pr, 100, 100, now)
	p.counted(pr, 100, 200, now)
	p.counted(pr, 100, 300, now.Add(muteAfter))
	if pr.resting || pr.lost.IsZero() {
		t.Errorf("it does not answer: %+v", pr.hearkening)
	}
	p.counted(pr, 101, 300, now)
	if !pr.lost.IsZero() || pr.unanswered != 0 || !pr.unheard.IsZero() {
		t.Errorf("it answered: %+v", pr.hearkening)
	}
	p.counted(pr, 0, 0, now) // netd was started anew
	pr.lost = now
	p.counted(pr, 1, 1, now)
	if pr.lost.IsZero() {
		t.Error("a counter that began anew is no sign of life")
	}
}
