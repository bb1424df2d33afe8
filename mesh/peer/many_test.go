package peer

import (
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// open counts the node's connections.
func (x *node) open() (n int) {
	for _, s := range x.State().Peers {
		if s.Connected {
			n++
		}
	}
	return n
}

// A node with more peers than it keeps connections to: the others rest, are called
// when there is something to say, and not before.
func TestRests(t *testing.T) {
	bubble(t, 10, func(t *testing.T, w *world) {
		const kept = 3
		hub, others := w.nodes[4], append(append([]*node{}, w.nodes[:4]...), w.nodes[5:]...)
		hub.stop()
		hub.start(func(o *Options) { o.kept = kept })
		hub.set(w.nodes...)
		for _, x := range others {
			x.set(hub)
		}
		all := func() {
			t.Helper()
			for _, x := range others {
				w.joined(hub, x)
			}
		}
		after(time.Minute)
		all()
		if n := hub.open(); n != kept {
			t.Errorf("%d connections are open", n)
		}
		dialed := w.dialed
		after(30 * time.Minute)
		if w.dialed != dialed || hub.open() != kept {
			t.Errorf("%d connections were made while nothing was to be said", w.dialed-dialed)
		}
		after(40 * time.Minute)
		all()
		for _, x := range others {
			if s := hub.of(x); s.Epoch < 2 || s.Age > 30*time.Minute || s.Err != "" {
				t.Errorf("node %d: %+v", x.i, s)
			}
		}
		// What one of the resting changes, the other learns at once.
		hub.netd.restart()
		after(lookEvery + 3*time.Second)
		all()
		x := others[0]
		x.netd.restart()
		after(lookEvery + 3*time.Second)
		all()
		hub.Renew()
		epoch := hub.of(x).Epoch
		after(3 * time.Second)
		all()
		if hub.of(x).Epoch == epoch {
			t.Error("a resting peer was left out of a renewal")
		}
	})
}

// Hundreds of connections that say nothing, or half of something, from a peer's own
// address, do not keep that peer out, and take no more than their places.
func TestHalfOpen(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.nodes[0], w.nodes[1]
	a.stop()
	b.stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.address = l.Addr().String()
	a.start(func(o *Options) { o.Listener, o.dial = l, nil })
	b.start(func(o *Options) { o.dial = nil })
	var crowd []net.Conn
	defer func() {
		for _, c := range crowd {
			c.Close()
		}
	}()
	for i := range 300 {
		c, err := net.Dial("tcp", a.address)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			c.Write([]byte{22, 3, 1, 2, 0, 1, 0})
		}
		crowd = append(crowd, c)
	}
	a.set(b)
	b.set(a)
	took := until(t, "the peer's connection", func() bool { return a.of(b).Connected && a.of(b).Declared && b.of(a).Declared })
	if n := a.quiet.Len(); n > halfOpenPerSource {
		t.Errorf("%d half-open connections of one source are kept", n)
	}
	t.Logf("connected after %s", took.Round(time.Millisecond))
	w.joined(a, b)
}

// BenchmarkIdle measures what one end of a connection occupies on which nothing is
// said: B/peer is both ends with their pipes, which are memory here, too.
func BenchmarkIdle(b *testing.B) {
	w := newWorld(b, 1)
	hub := w.nodes[0]
	n := 500
	var views []View
	var rogues []*rogue
	creds := make([]*node, n)
	for i := range n {
		c := w.ca.NewNode(b, profilepb.Role_ROLE_WORKER).Credentials
		creds[i] = &node{w: w, creds: c}
		a := hub.mesh().As4()
		a[2], a[3] = byte(1+i/200), byte(1+i%200)
		views = append(views, View{ID: c.Identity().NodeID, Mesh: addr(a)})
	}
	if err := hub.Set(hub.mesh_(15), views); err != nil {
		b.Fatal(err)
	}
	before := occupied()
	for _, c := range creds {
		r, err := w.rogue(hub, c.creds, nil)
		if err != nil {
			b.Fatal(err)
		}
		rogues = append(rogues, r)
	}
	var wg sync.WaitGroup
	for _, r := range rogues {
		wg.Go(func() {
			mine := freshKey()
			r.say(r.x.tell(announcement{keys: keys{current: mine}, port: 1}, time.Now())...)
			shown := false
			for r.mem.inForce == nil || !shown {
				f, err := r.next()
				if err != nil {
					b.Error(err)
					return
				}
				var out []*peerpb.Frame
				if f.GetProve() != nil {
					r.prove(mine, mine)
					shown = true
				} else if f.GetAnnounce() == nil {
					if out, _, err = r.x.hear(f, time.Now()); err != nil {
						b.Error(err)
						return
					}
				}
				more, _, err := r.x.act(time.Now())
				if err != nil {
					b.Error(err)
					return
				}
				r.say(append(out, more...)...)
			}
		})
	}
	wg.Wait()
	until(b, "all of them", func() bool { return hub.netd.count() == n })
	b.ReportMetric(float64(occupied()-before)/float64(n), "B/peer")
	b.ReportMetric(0, "ns/op")
	for _, r := range rogues {
		r.conn.Close()
	}
	hub.stop()
}

func occupied() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
