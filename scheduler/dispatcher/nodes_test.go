package dispatcher

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"google.golang.org/grpc/codes"
)

func TestOnlyNodes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.connect("").wantEnd(codes.PermissionDenied)
		w.connect(ident.New()).wantEnd(codes.PermissionDenied) // no record of it
		c := w.connect(w.addNode())
		c.send(heartbeat())
		c.wantEnd(codes.InvalidArgument) // hello comes first
		c = w.connect(w.addNode())
		w.settle(helloTimeout + time.Second)
		c.wantEnd(codes.DeadlineExceeded)
	})
}

func TestOneSessionPerNode(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		old := w.session(n)
		now := w.session(n)
		old.wantEnd(codes.Aborted)
		now.beat(30 * time.Second)
		now.wantOpen()
		if s := w.d.Sessions(); len(s) != 1 || s[0].AppliedIndex != 7 {
			t.Errorf("sessions %v", s)
		}
		w.wantNode(n, ready)
	})
}

func TestRemovedNode(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		c := w.session(n)
		w.update(func(tx *raftstore.Tx) error { return store.Nodes.Delete(tx, n) })
		c.wantEnd(codes.PermissionDenied)
		w.connect(n).wantEnd(codes.PermissionDenied)
	})
}

func TestNodeStates(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		w.settle(time.Minute)
		w.wantNode(n, unknown)
		c := w.session(n)
		w.settle(time.Second)
		w.wantNode(n, ready)
		if got := w.node(n).GetDescription().GetHostname(); got != "n1" {
			t.Errorf("hostname %q", got)
		}
		c.beat(time.Minute)
		w.wantNode(n, ready)
		// A reconnect within the time is invisible.
		before := w.store.AppliedIndex()
		c.cancel()
		w.settle(9 * time.Second) // 14 s since the last heartbeat
		c = w.session(n)
		c.beat(time.Minute)
		w.wantNode(n, ready)
		if n := w.store.AppliedIndex() - before; n != 0 {
			t.Errorf("a reconnect made %d entries", n)
		}
		// Silence ends the session and the node, and not early.
		w.settle(9 * time.Second) // 14 s since the last heartbeat
		w.wantNode(n, ready)
		w.settle(2 * time.Second)
		w.wantNode(n, down)
		c.wantEnd(codes.DeadlineExceeded)
		w.session(n)
		w.settle(time.Second)
		w.wantNode(n, ready)
	})
}

func TestLeaderChange(t *testing.T) {
	inWorld(t, func(w *world) {
		back, away := w.addNode(), w.addNode()
		c, c2 := w.session(back), w.session(away)
		mute := w.connect(back) // said nothing yet
		w.settle(time.Second)
		begin := time.Now()
		w.stop()
		if d := time.Since(begin); d > time.Second {
			t.Errorf("the term took %v to end", d)
		}
		mute.wantEnd(codes.Unavailable)
		c.wantEnd(codes.Unavailable)
		c2.wantEnd(codes.Unavailable)
		w.connect(back).wantEnd(codes.Unavailable)
		w.settle(5 * time.Minute)
		w.lead()
		w.settle(14 * time.Second)
		w.wantNode(back, ready)
		w.wantNode(away, ready)
		c = w.session(back)
		c.beat(10 * time.Second)
		w.wantNode(back, ready)
		w.wantNode(away, down)
	})
}
