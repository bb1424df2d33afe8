package peer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Two nodes that are told of each other have one pre-shared key, once; and a third
// has others.
func TestPeersMeet(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.know(a, b, c)
		after(time.Second)
		w.joined(a, b, c)
		if bytes.Equal(a.netd.peer(b.id()).PresharedKey, a.netd.peer(c.id()).PresharedKey) {
			t.Error("two pairs have one pre-shared key")
		}
		if got := a.netd.peer(b.id()); got.Endpoint != "192.0.2.2:51820" || got.Address != "198.18.0.2" || got.KeepaliveSeconds != 0 {
			t.Errorf("%v", got)
		}
		for _, x := range w.nodes {
			for _, o := range w.nodes {
				if s := x.of(o); x != o && (!s.Connected || s.Epoch == 0 || s.Err != "" || !s.Declared) {
					t.Errorf("node %d of %d: %+v", x.i, o.i, s)
				}
			}
			if s := x.State(); len(s.Degraded) > 0 || s.Exchanges != 2 {
				t.Errorf("node %d: %+v", x.i, s)
			}
		}
		if w.dialed != 3 {
			t.Errorf("%d connections were dialled for 3 pairs", w.dialed)
		}
		calls := a.netd.calls
		after(30 * time.Minute)
		if a.netd.calls != calls {
			t.Errorf("netd was told %d times more while nothing happened", a.netd.calls-calls)
		}
	})
}

// The order in which managers tell the two, and who can reach whom, makes no
// difference but in time.
func TestWhoDials(t *testing.T) {
	type told struct{ first, second int } // 0 is the lower id
	for name, c := range map[string]struct {
		told
		between   time.Duration // from the first that is told to the second
		cut       [2]int        // from, to; equal: none
		within    time.Duration // after the second
		keepalive bool
	}{
		"both at once":              {told{0, 1}, 0, [2]int{}, 500 * time.Millisecond, false},
		"the lower one first":       {told{0, 1}, time.Minute, [2]int{}, 200 * time.Millisecond, false},
		"the higher one first":      {told{1, 0}, time.Minute, [2]int{}, 200 * time.Millisecond, false},
		"the lower one cannot dial": {told{0, 1}, 0, [2]int{0, 1}, helpAfter + 500*time.Millisecond, false},
		"the higher one cannot":     {told{0, 1}, 0, [2]int{1, 0}, 500 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world) {
				if c.cut[0] != c.cut[1] {
					w.cut[w.nodes[c.cut[0]].address+" "+w.nodes[c.cut[1]].address] = true
				}
				w.nodes[c.first].set(w.nodes...)
				after(c.between)
				w.nodes[c.second].set(w.nodes...)
				after(c.within)
				w.joined(w.nodes...)
				after(time.Minute)
				w.joined(w.nodes...)
				if n := w.nodes[0].State().Exchanges; n > 2 {
					t.Errorf("%d exchanges", n)
				}
			})
		})
	}
}

// Both dial at the same moment, again and again: one connection is left.
func TestBothDial(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Second)
		for i := range 20 {
			for _, x := range w.nodes {
				x.mu.Lock()
				for _, pr := range x.pairs {
					if l := pr.link; l != nil {
						x.drop(l, errors.New("cut by the test"), time.Now())
						l.cut()
					}
					pr.nextDial = time.Now()
				}
				x.mu.Unlock()
				poke(x.kick)
			}
			after(time.Second)
			w.joined(a, b)
			a.mu.Lock()
			la := a.pairs[b.id()].link
			a.mu.Unlock()
			b.mu.Lock()
			lb := b.pairs[a.id()].link
			b.mu.Unlock()
			if la == nil || lb == nil || la.dialled == lb.dialled {
				t.Fatalf("round %d: the two do not have one connection: %v, %v", i, la, lb)
			}
		}
	})
}

// A pre-shared key lasts an hour, also where no connection stays; both have the
// same at every time at which nobody is speaking.
func TestHourly(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Second)
		seen := map[string]bool{}
		for range 100 {
			w.joined(a, b)
			seen[string(a.netd.peer(b.id()).PresharedKey)] = true
			if s := a.of(b); s.Age > 67*time.Minute || s.Stale {
				t.Errorf("a pre-shared key is %s old", s.Age)
			}
			after(6 * time.Minute)
		}
		if n := len(seen); n < 9 || n > 12 {
			t.Errorf("%d pre-shared keys in ten hours", n)
		}
		if n := b.State().Exchanges; n != a.State().Exchanges || int(n) != len(seen) && int(n) != len(seen)+1 {
			t.Errorf("%d exchanges for %d keys", n, len(seen))
		}
	})
}

// Renew, and a peer that is removed, make new keys with all others at once. A
// removed peer is gone without being asked.
func TestRemoved(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.know(a, b, c)
		after(time.Minute)
		before := a.netd.peer(b.id())
		w.sever(a, c, true)
		a.set(a, b)
		after(0)
		if a.netd.peer(c.id()) != nil {
			t.Error("a removed peer is still in force")
		}
		after(50 * time.Millisecond)
		w.joined(a, b)
		if now := a.netd.peer(b.id()); bytes.Equal(now.PresharedKey, before.PresharedKey) {
			t.Error("no new key was made when a peer was removed")
		}
		before = a.netd.peer(b.id())
		after(time.Minute)
		b.Renew() // the higher one asks
		after(time.Second)
		w.joined(a, b)
		if now := a.netd.peer(b.id()); bytes.Equal(now.PresharedKey, before.PresharedKey) {
			t.Error("no new key was made when it was asked for")
		}
		if s := c.of(a); s.Connected || s.Err == "" {
			t.Errorf("the removed one: %+v", s)
		}
	})
}

// netd is started anew and has another key: the pairs are whole again without
// anybody's help, over the connections there are.
func TestNetdRestarts(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.know(a, b, c)
		after(time.Minute)
		dialed := w.dialed
		for _, x := range []*node{b, a, c} {
			x.netd.restart()
			after(lookEvery + 200*time.Millisecond)
			w.joined(a, b, c)
		}
		a.netd.restart()
		b.netd.restart()
		after(lookEvery + 200*time.Millisecond)
		w.joined(a, b, c)
		if w.dialed != dialed {
			t.Error("connections were made anew for it")
		}
		// The kernel's WireGuard keeps key and sessions, but netd forgets what was
		// declared.
		keep := *b.netd.peer(a.id())
		b.netd.mu.Lock()
		b.netd.gen = 0
		b.netd.mu.Unlock()
		after(lookEvery + 200*time.Millisecond)
		w.joined(a, b, c)
		if got := b.netd.peer(a.id()); !bytes.Equal(got.PresharedKey, keep.PresharedKey) {
			t.Error("sessions that went on were given other keys")
		}
	})
}

// redoubtd is started anew: what is in force stays in force until the pair has made
// something new, and what is no peer any more goes.
func TestRedoubtdRestarts(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.know(a, b, c)
		after(time.Minute)
		w.sever(a, b, true)
		a.stop()
		a.start(nil)
		after(time.Minute)
		if a.netd.peer(b.id()) == nil || a.netd.peer(c.id()) == nil {
			t.Fatal("peers were lost before anybody said who is one")
		}
		a.set(a, b)
		after(time.Minute)
		if a.netd.peer(c.id()) != nil {
			t.Error("one that is no peer any more stays")
		}
		if err := joined(a, b); err != nil {
			t.Errorf("a peer that cannot be reached lost what it had: %v", err)
		}
		if s := a.of(b); s.Connected || s.Epoch != 0 || s.Err == "" {
			t.Errorf("%+v", s)
		}
		w.sever(a, b, false)
		after(2 * redialMax)
		w.joined(a, b)
		if s := a.of(b); !s.Connected || s.Epoch == 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A peer that cannot be reached keeps its pre-shared key, for days, and that is
// seen.
func TestUnreachable(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Minute)
		w.sever(a, b, true)
		a.mu.Lock()
		l := a.pairs[b.id()].link
		a.mu.Unlock()
		l.cut()
		after(4 * time.Hour)
		w.joined(a, b)
		for _, x := range w.nodes {
			if s := x.State(); !s.Peers[0].Stale || len(s.Degraded) != 1 || s.Peers[0].Err == "" {
				t.Errorf("node %d: %+v", x.i, s)
			}
		}
		if w.dialed > 4*2*int(time.Hour/redialMax)*2 {
			t.Errorf("%d attempts in four hours", w.dialed)
		}
		w.sever(a, b, false)
		after(2 * redialMax)
		w.joined(a, b)
		if s := a.State(); len(s.Degraded) != 0 || s.Peers[0].Age > time.Minute*2 {
			t.Errorf("%+v", s)
		}
	})
}

// netd refuses, or does not answer: it is told again, and a removal does not wait
// for that.
func TestNetdFails(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		for range 3 {
			a.netd.refusals = append(a.netd.refusals, errors.New("no"))
		}
		w.know(a, b, c)
		after(5 * time.Second)
		w.joined(a, b, c)
		a.netd.mu.Lock()
		a.netd.down = true
		a.netd.mu.Unlock()
		after(time.Minute)
		if s := a.State(); len(s.Degraded) != 1 {
			t.Errorf("%+v", s)
		}
		a.set(a, b)
		after(time.Second)
		a.netd.mu.Lock()
		a.netd.down = false
		a.netd.mu.Unlock()
		a.set(a, b)
		after(50 * time.Millisecond)
		if a.netd.peer(c.id()) != nil {
			t.Error("the removal waits")
		}
		if s := a.State(); len(s.Degraded) != 0 {
			t.Errorf("%+v", s)
		}
		if err := a.Set(a.mesh_(0), nil); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		if a.netd.peer(b.id()) != nil {
			t.Error("the node left the mesh and has peers")
		}
		after(time.Minute)
		calls := a.netd.calls
		after(time.Minute)
		if a.netd.calls != calls {
			t.Error("netd is told of nothing again and again")
		}
	})
}

// What managers say and cannot be is left out, and no more.
func TestSetRefuses(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		bad := c.view()
		bad.Mesh = b.mesh()
		views := []View{a.view(), b.view(), bad, {ID: "x"}, {ID: freshID(), Mesh: a.mesh()}, {ID: freshID(), Mesh: b.mesh().Next().Next(), Underlay: "nowhere"}}
		err := a.Set(a.mesh_(15), views)
		if n := len(slices.Collect(lines(err))); n != 4 {
			t.Errorf("%d are refused: %v", n, err)
		}
		if len(a.State().Peers) != 1 {
			t.Errorf("%+v", a.State().Peers)
		}
		b.set(a, b)
		after(time.Second)
		w.joined(a, b)
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{}, {ID: "x"}, {ID: freshID()}, {ID: freshID(), UnderlayMTU: -1}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	if text := fmt.Sprintf("%v %+v %x %v %d", psk{1, 2}, entry{psk: psk{1, 2}}, psk{1, 2}, secrets{of: []shared{{psk: psk{1, 2}}}}, psk{1, 2}); bytes.Contains([]byte(text), []byte("[1 2 0")) {
		t.Errorf("a key is printed: %s", text)
	}
}

// A node leaves its cluster, which takes everything out of netd, and joins another
// one: what netd was told for the first counts for nothing.
func TestANodeLeavesAndJoins(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Minute)
		w.joined(a, b)
		a.stop()
		var gen mesh.Generation
		if _, err := a.netd.Declare(t.Context(), &netdpb.FabricRequest{Generation: gen.Next()}); err != nil {
			t.Fatal(err)
		}
		a.start(nil)
		a.set(b)
		after(time.Minute)
		w.joined(a, b)
	})
}
