package dispatcher

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// When a node was last heard is known while it has a session, once it is down, and to
// the next leader; how the wall clock is set meanwhile changes nothing.
func TestLastHeard(t *testing.T) {
	inWorld(t, func(w *world) {
		want := func(what, n string, ago, unsure time.Duration) {
			t.Helper()
			heard, ok := w.d.LastHeard(n)
			if got := time.Since(heard); !ok || got < ago || got > ago+unsure {
				t.Errorf("%s: heard %v ago, %v; want %v", what, got, ok, ago)
			}
		}
		since := func(n string) int64 { return w.node(n).GetDownSince() }
		n := w.addNode()
		w.update(func(tx *raftstore.Tx) error { return store.SetNodeRole(tx, n, true) })
		if at, ok := w.d.LastHeard(n); ok {
			t.Error("heard before it was ever there:", at)
		}
		c := w.session(n)
		c.beat(time.Minute)
		want("with a session", n, 0, 5*time.Second)
		beats := func(what string, want bool) {
			t.Helper()
			if w.d.Beats(n) != want {
				t.Errorf("%s: beats: %v", what, !want)
			}
		}
		beats("with a session", true)
		w.settle(8 * time.Second)
		beats("silent", false)
		c.beat(5 * time.Second)
		beats("heard again", true)
		if since(n) != 0 {
			t.Error("it is up, and down since", since(n))
		}
		last := time.Now()
		c.cancel()
		w.settle(time.Second)
		beats("without a session", false)
		w.settle(9 * time.Second)
		want("before it is down", n, 10*time.Second, 5*time.Second)
		w.settle(time.Minute)
		w.wantNode(n, down)
		want("down", n, 70*time.Second, 5*time.Second)
		if at := time.Unix(0, since(n)); at.After(last) || at.Before(last.Add(-5*time.Second)) {
			t.Errorf("down since %v, last heard about %v", at, last)
		}
		was := since(n)
		w.stop()
		if _, ok := w.d.LastHeard(n); ok {
			t.Error("who does not lead knows it")
		}
		w.settle(time.Minute)
		w.lead()
		w.settle(time.Second)
		want("with the next leader", n, 131*time.Second, 5*time.Second)
		if since(n) != was {
			t.Error("it was recorded anew")
		}
		w.session(n)
		w.settle(time.Second)
		want("back", n, 0, 2*time.Second)
		if since(n) != 0 {
			t.Error("it is back, and down since", since(n))
		}

		// Nobody led for an hour: it may have been away for all of it.
		w.stop()
		w.settle(time.Hour)
		w.lead()
		w.settle(time.Second)
		want("of before the hour", n, time.Hour, time.Minute)
		w.settle(20 * time.Second)
		w.wantNode(n, down)
		if away := time.Since(time.Unix(0, since(n))); away < time.Hour {
			t.Errorf("down for %v", away)
		}
	})
}
