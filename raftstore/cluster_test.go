package raftstore_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

func TestClusterReplicates(t *testing.T) {
	all := newCluster(t)
	a, b, c := all[0], all[1], all[2]
	put(t, a.Store, &testpb.Thing{Id: "x", Name: "n"})
	waitFor(t, b, "x")
	waitFor(t, c, "x")
	if x, y := get(t, a.Store, "x"), get(t, c.Store, "x"); x.GetMeta().String() != y.GetMeta().String() {
		t.Errorf("meta differs: %v and %v", x.GetMeta(), y.GetMeta())
	}
	if err := b.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "y"}) }); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Errorf("a follower writes: %v", err)
	}
	if err := b.Barrier(waitContext(t)); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Errorf("a follower has a barrier: %v", err)
	}
	if err := a.Barrier(waitContext(t)); err != nil {
		t.Errorf("barrier: %v", err)
	}
	if id, hp := b.Leader(); id != "a" || hp != a.hostport() {
		t.Errorf("b takes %s at %s for the leader", id, hp)
	}
	servers := c.Servers()
	if len(servers) != 3 || !servers[0].Leader || servers[1].Leader || !servers[2].Voter || servers[2].Addr != c.hostport() {
		t.Errorf("servers %+v", servers)
	}
	if a.PeerAllowed("stranger") || !a.PeerAllowed("c") {
		t.Error("the wrong peers are allowed")
	}
	for _, bad := range [][2]string{{"", "h:1"}, {"i@d", "h:1"}, {"id", "host"}} {
		if err := a.AddVoter(waitContext(t), bad[0], bad[1]); err == nil {
			t.Errorf("server %q at %q is added", bad[0], bad[1])
		}
	}
}

func TestLeaderCloses(t *testing.T) {
	all := newCluster(t)
	put(t, all[0].Store, &testpb.Thing{Id: "x"})
	if at := all[0].LeaderLost(); !at.IsZero() {
		t.Errorf("the first leader lost one at %v", at)
	}
	began := time.Now()
	if err := all[0].Close(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	next := leaderOf(t, all[1], all[2])
	if at := next.LeaderLost(); at.Before(began) || at.After(time.Now()) {
		t.Errorf("the leader that closed after %v was lost at %v", began, at)
	}
	get(t, next.Store, "x")
	putAt(t, &testpb.Thing{Id: "y"}, all[1], all[2])
}

func TestTransferAndRemoval(t *testing.T) {
	all := newCluster(t)
	a := all[0]
	if err := a.TransferLeadership(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	next := leaderOf(t, all[1], all[2])
	if err := a.TransferLeadership(waitContext(t)); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Fatalf("a follower hands over: %v", err)
	}
	if err := next.RemoveServer(waitContext(t), "a"); err != nil {
		t.Fatal(err)
	}
	if next.PeerAllowed("a") || len(next.Servers()) != 2 {
		t.Fatalf("a is still in: %+v", next.Servers())
	}
	put(t, next.Store, &testpb.Thing{Id: "x"})
}

// TestNewServerGetsASnapshot adds a server when the log no longer reaches back.
func TestNewServerGetsASnapshot(t *testing.T) {
	ctx := waitContext(t)
	a := newMember(t, "a")
	a.bootstrap(t)
	for i := range 50 {
		put(t, a.Store, &testpb.Thing{Id: fmt.Sprint(i), Name: fmt.Sprint("n", i), Payload: make([]byte, 8<<10)})
	}
	if err := a.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	b := newMember(t, "b", "a")
	w, err := b.Watch(nil, things)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddVoter(ctx, b.id, b.hostport()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(ctx); !errors.Is(err, raftstore.ErrLagged) {
		t.Fatalf("the watch of a replaced state says %v", err)
	}
	put(t, a.Store, &testpb.Thing{Id: "last"})
	waitFor(t, b, "last")
	if err := b.View(func(r *raftstore.ReadTx) error {
		if n := things.Count(r); n != 51 {
			return fmt.Errorf("%d objects", n)
		}
		if got := ids(things.By(r, "name", "n17")); len(got) != 1 || got[0] != "17" {
			return fmt.Errorf("the index gives %v", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestStrangersAreNotHeard(t *testing.T) {
	m := newMember(t, "m", "friend")
	for _, id := range []string{"stranger", "friend"} {
		c, err := net.Dial("tcp", m.hostport())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(c, id); err != nil {
			t.Fatal(err)
		}
		if id == "stranger" { // it is hung up on; a friend is not
			if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			var timeout net.Error
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("the stranger reads: %v", err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m.link.mu.Lock()
	defer m.link.mu.Unlock()
	if fmt.Sprint(m.link.seen) != "[stranger]" {
		t.Fatalf("refused: %v", m.link.seen)
	}
}
