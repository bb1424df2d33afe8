package peer

import (
	"testing"
	"time"
)

// shake is what WireGuard does between two nodes that send: a session lasts for
// three minutes, and after two another is made, with the right pre-shared key alone.
func shake(a, b *node) {
	for _, x := range [2][2]*node{{a, b}, {b, a}} {
		x[0].netd.mu.Lock()
		at, ok := x[0].netd.shook[x[1].id()]
		x[0].netd.mu.Unlock()
		if ok && time.Since(at) < rekeyAfter {
			return
		}
	}
	if joined(a, b) != nil {
		return
	}
	for _, x := range [2][2]*node{{a, b}, {b, a}} {
		x[0].netd.mu.Lock()
		x[0].netd.shook[x[1].id()] = time.Now()
		x[0].netd.mu.Unlock()
	}
}

// Whoever cuts the connection in the middle of an exchange, wherever that is, and keeps
// it cut, ends no tunnel: the two find out which pre-shared key both have.
func TestCutForGood(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Minute)
		split := 0
		const rounds = 14
		for round := range rounds {
			shake(a, b)
			a.mu.Lock()
			l := a.pairs[b.id()].link
			a.mu.Unlock()
			if l == nil {
				t.Fatal("no connection")
			}
			// Cut after some more bytes, in one direction and then in the other. A Commit
			// is longer than a step.
			if out := l.raw.(pipe).Conn.(*buffered); round < 10 {
				out.out.limit(40 * round)
			} else {
				out.in.limit(60 * (round - 10))
			}
			w.sever(a, b, true)
			a.Renew()
			after(20 * time.Second)
			if joined(a, b) != nil {
				split++
			}
			longest := time.Duration(0)
			for range 150 {
				after(2 * time.Second)
				shake(a, b)
				a.netd.mu.Lock()
				longest = max(longest, time.Since(a.netd.shook[b.id()]))
				a.netd.mu.Unlock()
			}
			if longest > 3*time.Minute {
				t.Errorf("round %d: the tunnel was without a session: %v since the last handshake; %+v", round, longest, a.of(b))
			}
			w.joined(a, b)
			w.sever(a, b, false)
			after(2 * time.Minute)
			w.joined(a, b)
		}
		if split == 0 {
			t.Error("no cut has split the pre-shared key")
		}
		t.Logf("%d of %d cuts split the pre-shared key", split, rounds)
	})
}

// The same before there was any: there is a tunnel as soon as they meet again.
func TestCutAtFirst(t *testing.T) {
	for n := range 12 {
		bubble(t, 2, func(t *testing.T, w *world) {
			a, b := w.nodes[0], w.nodes[1]
			w.know(a, b)
			limited := make(chan struct{})
			go func() {
				defer close(limited)
				for range 1000 {
					a.mu.Lock()
					if pr := a.pairs[b.id()]; pr != nil && pr.link != nil {
						pr.link.raw.(pipe).Conn.(*buffered).out.limit(100 * n)
						a.mu.Unlock()
						return
					}
					a.mu.Unlock()
					time.Sleep(time.Microsecond)
				}
			}()
			<-limited
			after(time.Second)
			if a.netd.peer(b.id()) != nil {
				w.joined(a, b)
			}
			after(time.Minute)
			w.joined(a, b)
		})
	}
}
