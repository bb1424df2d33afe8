package peer

import (
	"testing"
	"time"
)

// A node behind a NAT, which to managers is where its peers see it, too, is told that
// nobody can call it, and keeps the NAT open; others do not.
func TestBehindNAT(t *testing.T) {
	for _, i := range []int{0, 1, 2} { // the lowest id, one between, the highest
		bubble(t, 3, func(t *testing.T, w *world) {
			x := w.nodes[i]
			w.mu.Lock()
			w.inside[x.address] = "10.0.0.7:41234"
			for _, o := range w.nodes {
				w.cut[o.address+" "+x.address] = true
			}
			w.mu.Unlock()
			w.know(w.nodes...)
			after(time.Minute)
			w.joined(w.nodes...)
			for _, a := range w.nodes {
				for _, b := range w.nodes {
					if a == b {
						continue
					}
					if got, want := a.netd.peer(b.id()).KeepaliveSeconds > 0, a == x; got != want {
						t.Errorf("node %d behind a NAT: node %d keeps the way to node %d open: %t", x.i, a.i, b.i, got)
					}
				}
			}
		})
	}
}
