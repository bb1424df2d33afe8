package dispatcher

import (
	"strings"
	"sync/atomic"
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

// A manager that did not run for longer than nodes may be silent calls none of
// them down for it: who goes on is as before, and who does not is missed after the
// rest of its time.
func TestPausedManager(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		var pause atomic.Int64
		w.d.config.Managers = func() []string {
			time.Sleep(time.Duration(pause.Swap(0))) // deadlines are not looked at meanwhile
			return nil
		}
		w.lead()
		back, away, gone := w.addNode(), w.addNode(), w.addNode()
		w.session(gone)
		w.settle(20 * time.Second)
		w.wantNode(gone, down)
		c := w.session(back)
		w.session(away)
		c.beat(5 * time.Second) // away has 10 s left
		pause.Store(int64(time.Minute))
		w.settle(time.Minute + time.Second)
		w.wantNode(back, ready)
		c.beat(8 * time.Second)
		w.wantNode(back, ready)
		w.wantNode(away, ready)
		w.wantNode(gone, down)
		c.beat(4 * time.Second)
		w.wantNode(back, ready)
		w.wantNode(away, down)
		// What was heard since the pause counts from then, not from the pause's length on.
		c.cancel()
		w.settle(10 * time.Second) // 14 s since the last heartbeat
		w.wantNode(back, ready)
		w.settle(2 * time.Second)
		w.wantNode(back, down)
		if !strings.Contains(w.log.String(), "did not run for a while") {
			t.Error("nobody was told of the pause")
		}
	})
}
