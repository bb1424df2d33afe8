package dispatcher

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// sessionFrom is one that comes from that host.
func (w *world) sessionFrom(node, host string) *client {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	ctx = authz.NewContext(ctx, authz.Identity{NodeID: node, Source: &net.TCPAddr{IP: net.ParseIP(host), Port: 40000}})
	c := &client{w: w, ctx: ctx, cancel: cancel, up: make(chan *schedulerpb.AgentMessage), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer cancel()
		c.err = w.d.Session(c)
	}()
	c.send(hello())
	synctest.Wait()
	return c
}

// addresses are those that the node was recorded at, one for each entry that changed it.
func (w *world) addresses(node string) func() []string {
	w.t.Helper()
	watch, err := w.store.Watch(func(*raftstore.ReadTx) error { return nil }, store.Nodes)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			events, err := watch.Next(w.t.Context())
			if err != nil {
				return
			}
			for _, e := range events {
				if old, now, ok := store.Nodes.Event(e); ok && now.GetId() == node && old.GetAddress() != now.GetAddress() {
					out = append(out, now.GetAddress())
				}
			}
		}
	}()
	return func() []string {
		synctest.Wait()
		watch.Close()
		<-done
		return out
	}
}

// A node whose sessions come from ever another address costs the log, and all other
// nodes, a few changes a minute, and is where it was last once that is over.
func TestMovesAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		n, other := w.addNode(), w.addNode()
		recorded, others := w.addresses(n), w.addresses(other)
		hosts := []string{"192.0.2.1", "192.0.2.2"}
		begun := time.Now()
		for i := 0; time.Since(begun) < 50*time.Second; i++ {
			w.sessionFrom(n, hosts[i%2])
			w.settle(2500 * time.Millisecond)
		}
		if got := w.node(n).GetAddress(); got != hosts[0] {
			t.Errorf("it is recorded at %s within the minute, want the third one's", got)
		}
		c := w.sessionFrom(n, "192.0.2.3")
		w.sessionFrom(other, hosts[1])
		w.settle(time.Second)
		if got := w.node(other).GetAddress(); got != hosts[1] {
			t.Errorf("another node's first address is recorded as %q", got)
		}
		c.beat(time.Minute - time.Since(begun) + time.Second)
		if got := w.node(n); got.GetAddress() != "192.0.2.3" || got.GetAddressBefore() != hosts[1] {
			t.Errorf("after the minute it is at %q, before at %q; want the newest", got.GetAddress(), got.GetAddressBefore())
		}
		c.beat(2 * time.Minute)
		if got := strings.Count(w.log.String(), "ever other addresses"); got != 1 {
			t.Errorf("it was said %d times", got)
		}
		if got, want := recorded(), append([]string{hosts[0], hosts[1], hosts[0]}, "192.0.2.3"); !slices.Equal(got, want) {
			t.Errorf("recorded at %v, want %v", got, want)
		}
		others()
	})
}

// Where a session replaces one that still lives, from another address, the record says
// so, and since when; where the one before had ended, it says when.
func TestWhereANodeIs(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		want := func(address, before string, since time.Duration) {
			t.Helper()
			got := w.node(n)
			if age := time.Since(time.Unix(0, got.GetAddressSince())); got.GetAddress() != address || got.GetAddressBefore() != before || age < since-time.Second || age > since+time.Second {
				t.Errorf("at %q for %v, before at %q; want %q, %v, %q", got.GetAddress(), age, got.GetAddressBefore(), address, since, before)
			}
		}
		c := w.sessionFrom(n, "192.0.2.1")
		c.beat(30 * time.Second)
		want("192.0.2.1", "", 30*time.Second)
		thief := w.sessionFrom(n, "192.0.2.66")
		thief.beat(10 * time.Second)
		want("192.0.2.66", "192.0.2.1", 10*time.Second)
		thief.cancel()
		w.settle(time.Second)
		c = w.sessionFrom(n, "192.0.2.66")
		c.beat(10 * time.Second)
		want("192.0.2.66", "192.0.2.1", 21*time.Second)
		c.cancel()
		w.settle(time.Second)
		w.sessionFrom(n, "192.0.2.1").beat(5 * time.Second)
		want("192.0.2.1", "", 5*time.Second)
	})
}
