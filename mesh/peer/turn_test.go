package peer

import (
	"bytes"
	"testing"
	"time"
)

// turned reports whether the node has another key than that one, and all of those
// peers have it.
func (x *node) turned(was []byte) bool { return !bytes.Equal(x.netd.public(), was) }

// The key of a node changes when it is asked for, and its peers were prepared.
func TestKeyTurns(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		w.know(w.nodes...)
		after(time.Minute)
		for _, x := range w.nodes {
			was := x.netd.public()
			for _, o := range w.nodes {
				o.netd.alive[x.id()], x.netd.alive[o.id()] = true, true
			}
			if err := x.RotateKey(); err != nil {
				t.Fatal(err)
			}
			after(2 * time.Second)
			if !x.turned(was) {
				t.Fatalf("node %d has its old key: %+v", x.i, x.State())
			}
			if s := x.State(); s.NextPublicKey != nil || len(s.Degraded) > 0 {
				t.Errorf("%+v", s)
			}
			w.joined(w.nodes...)
			for _, o := range w.nodes {
				if p := o.netd.peer(x.id()); p != nil && p.Next != nil {
					t.Errorf("node %d still expects another key of node %d", o.i, x.i)
				}
			}
		}
	})
}

// A peer has the next key, with the pre-shared key that its node will use, before
// that uses it.
func TestPeersArePrepared(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Minute)
		for _, x := range []*node{a, b} {
			o := a
			if x == a {
				o = b
			}
			before := *o.netd.peer(x.id())
			// o's netd takes nothing: x must not go on without it.
			o.netd.mu.Lock()
			o.netd.down = true
			o.netd.mu.Unlock()
			x.netd.alive[o.id()] = true
			was := x.netd.public()
			if err := x.RotateKey(); err != nil {
				t.Fatal(err)
			}
			after(time.Minute)
			if x.turned(was) || x.State().NextPublicKey == nil {
				t.Fatal("the key was changed although the peer's netd does not have it")
			}
			if err := x.RotateKey(); err == nil {
				t.Error("a second change began")
			}
			o.netd.mu.Lock()
			o.netd.down = false
			o.netd.mu.Unlock()
			after(declareMax + 10*time.Second)
			if !x.turned(was) {
				t.Fatalf("the key was not changed: %+v", x.State())
			}
			w.joined(a, b)
			if got := o.netd.peer(x.id()); bytes.Equal(got.PublicKey, before.PublicKey) {
				t.Error("the peer has the old key")
			}
		}
	})
}

// All change at the same moment, as after a power cut of all: the higher id goes
// first, and none is left behind.
func TestAllTurnAtOnce(t *testing.T) {
	bubble(t, 4, func(t *testing.T, w *world) {
		w.know(w.nodes...)
		after(time.Minute)
		was := map[int][]byte{}
		for _, x := range w.nodes {
			was[x.i] = x.netd.public()
			for _, o := range w.nodes {
				x.netd.alive[o.id()] = true
			}
		}
		for _, x := range w.nodes {
			if err := x.RotateKey(); err != nil {
				t.Fatal(err)
			}
		}
		after(20 * time.Second)
		for _, x := range w.nodes {
			if !x.turned(was[x.i]) {
				t.Errorf("node %d has its old key: %+v", x.i, x.State())
			}
		}
		w.joined(w.nodes...)
	})
}

// A peer that is gone holds a change up for as long as its session lasts; one that
// lives and confirms nothing lets it be given up.
func TestTurnWithoutOne(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		w.know(a, b, c)
		after(time.Minute)
		c.stop()
		was := a.netd.public()
		a.netd.alive[b.id()], a.netd.alive[c.id()] = true, true
		if err := a.RotateKey(); err != nil {
			t.Fatal(err)
		}
		after(rotateTimeout / 2)
		if a.turned(was) {
			t.Fatal("a peer with a session was left behind")
		}
		w.joined(a, b)
		a.netd.mu.Lock()
		a.netd.alive[c.id()] = false
		a.netd.mu.Unlock()
		after(2 * rotateAlone)
		if !a.turned(was) {
			t.Fatalf("a peer that is gone holds it up: %+v", a.State())
		}
		w.joined(a, b)
		if a.netd.peer(c.id()) != nil {
			t.Error("the one that is gone is in force, with a key for another key")
		}
		c.start(nil)
		c.set(a, b, c)
		after(2 * redialMax)
		w.joined(a, b, c)

		was = b.netd.public()
		c.stop()
		b.netd.alive[c.id()] = true
		if err := b.RotateKey(); err != nil {
			t.Fatal(err)
		}
		after(rotateTimeout + time.Minute)
		if s := b.State(); b.turned(was) || s.NextPublicKey != nil || len(s.Degraded) == 0 {
			t.Errorf("the change was not given up: %+v", s)
		}
		w.joined(a, b)
		if p := a.netd.peer(b.id()); p.Next != nil {
			t.Error("the peer still expects the key that was given up")
		}
		b.netd.mu.Lock()
		b.netd.alive[c.id()] = false
		b.netd.mu.Unlock()
		after(rotateAgain)
		if err := b.RotateKey(); err != nil && b.State().NextPublicKey == nil {
			t.Fatal(err)
		}
		after(rotateTimeout)
		if s := b.State(); s.NextPublicKey != nil {
			t.Errorf("it goes on for ever: %+v", s)
		}
		if err := b.RotateKey(); err != nil {
			t.Fatal(err)
		}
		after(2 * rotateAlone)
		if s := b.State(); !b.turned(was) || len(s.Degraded) > 0 {
			t.Errorf("%+v", s)
		}
		w.joined(a, b)
	})
}

// On schedule, without being asked; one that cannot be reached is not left behind
// for it before the key is twice as old.
func TestOnSchedule(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		a.stop()
		const every = 2 * time.Hour
		a.start(func(o *Options) { o.RotateEvery, o.look = every, time.Minute })
		w.know(a, b)
		seen := map[string]bool{}
		for range 12 {
			after(every / 2)
			w.joined(a, b)
			seen[string(a.netd.public())] = true
		}
		if n := len(seen); n < 6 || n > 7 {
			t.Errorf("%d keys in %s", n, 6*every)
		}
		w.sever(a, b, true)
		a.mu.Lock()
		a.pairs[b.id()].link.cut()
		since := a.own.since
		a.mu.Unlock()
		was := a.netd.public()
		after(time.Until(since.Add(2*every - time.Minute)))
		w.joined(a, b)
		if s := a.State(); a.turned(was) || len(s.Degraded) == 0 {
			t.Errorf("a peer was left behind: %+v", s)
		}
		after(3 * rotateAgain)
		if !a.turned(was) {
			t.Errorf("the key is never changed: %+v", a.State())
		}
		w.sever(a, b, false)
		after(2 * redialMax)
		w.joined(a, b)
	})
}
