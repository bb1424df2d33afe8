package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// Managers that lose each other, in simulated time.

// partitioned returns a cluster that has settled, its leader and another.
func partitioned(t *testing.T) (c *simCluster, leader, other *simMember) {
	t.Helper()
	c = newSimCluster(t, 1, 3)
	c.slowNet(5 * time.Millisecond)
	time.Sleep(time.Second) // simulated time: all follow
	leader = c.leader()
	for _, m := range c.all {
		if m != leader {
			other = m
		}
	}
	return c, leader, other
}

// waitSim waits for a condition, in simulated time.
func waitSim(t *testing.T, what string, within time.Duration, holds func() bool) {
	t.Helper()
	for begin := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func TestLeaderCutOff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, old, _ := partitioned(t)
		defer c.close()
		a := old.current()
		for i := range 20 {
			put(t, a, &testpb.Thing{Id: fmt.Sprint("before-", i)})
		}
		leading, lost := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			once := sync.OnceFunc(func() { close(lost) })
			if err := a.WhileLeader(ctx, func(ctx context.Context) {
				close(leading)
				<-ctx.Done()
				once()
			}); !errors.Is(err, context.Canceled) {
				t.Errorf("WhileLeader ended with %v", err)
			}
		})
		receive(t, "a to lead", leading)
		c.net.split([]string{old.id}, c.ids())
		err := a.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "unacknowledged"}) })
		if err == nil {
			t.Fatal("a leader without followers acknowledges a write")
		}
		if !errors.Is(err, raftstore.ErrUncertain) && !errors.Is(err, raftstore.ErrNotLeader) {
			t.Fatalf("the cut-off leader says %v", err)
		}
		if err := a.Barrier(waitContext(t)); !errors.Is(err, raftstore.ErrNotLeader) {
			t.Fatalf("the cut-off leader gives a barrier: %v", err)
		}
		receive(t, "a to notice that it leads no more", lost)
		next := c.leader()
		for i := range 20 {
			get(t, next.current(), fmt.Sprint("before-", i)) // everything acknowledged is there, at once
		}
		put(t, next.current(), &testpb.Thing{Id: "after"})
		c.net.heal()
		waitSim(t, "the former leader follows", time.Minute, func() bool { return old.sees(t, "after") })
		if err := a.View(func(r *raftstore.ReadTx) error {
			if n := things.Count(r); n != 21 {
				return fmt.Errorf("the former leader has %d objects, want 21", n)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// A server that was cut off, and meanwhile wanted to be elected again and again,
// comes back without deposing anybody: it asks before it raises its term.
func TestCutOffServerDoesNotDepose(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c, leader, lone := partitioned(t)
		defer c.close()
		term := leader.current().Term()
		c.net.split([]string{lone.id}, c.ids())
		waitSim(t, "it notices that it is cut off", time.Minute, func() bool {
			id, _ := lone.current().Leader()
			return id == ""
		})
		for i := range 50 { // ten of its election timeouts, in which the others work
			put(t, leader.current(), &testpb.Thing{Id: fmt.Sprint("meanwhile-", i)})
			time.Sleep(100 * time.Millisecond) // simulated time
		}
		c.net.heal()
		waitSim(t, "it follows again", time.Minute, func() bool { return lone.sees(t, "meanwhile-49") })
		put(t, leader.current(), &testpb.Thing{Id: "after"}) // fails where it leads no more
		if now := leader.current().Term(); now != term || !leader.current().IsLeader() {
			t.Errorf("the term went from %d to %d: the leader was deposed", term, now)
		}
	})
}

// TestFailoverOnProcessDeath: a leader whose port refuses connections is replaced
// long before an election timeout, and one whose connections alone break is not.
// Two followers may stand at the same time, and split the votes: not every time.
func TestFailoverOnProcessDeath(t *testing.T) {
	for range 5 {
		if failover(t) <= simElectionTimeout/2 {
			return
		}
	}
	t.Error("it took as long as the leader's silence would have, each time")
}

// failover is how long it took.
func failover(t *testing.T) (took time.Duration) {
	inBubble(t, func(t *testing.T) {
		c, old, _ := partitioned(t)
		defer c.close()
		put(t, old.current(), &testpb.Thing{Id: "x"})
		for range 5 {
			c.net.reset("")
			time.Sleep(time.Second) // simulated time: dialled again
			if lead := c.leader(); lead != old {
				t.Fatalf("connections that broke made %s the leader", lead.id)
			}
		}
		put(t, old.current(), &testpb.Thing{Id: "y"})
		begin := time.Now()
		c.crash(old) // from here on it refuses
		waitSim(t, "another leads", time.Minute, func() bool { return c.leaderNow() != nil })
		next := c.leaderNow()
		put(t, next.current(), &testpb.Thing{Id: "z"})
		took = time.Since(begin)
		t.Logf("a write after %v", took)
		if err := next.current().Barrier(waitContext(t)); err != nil {
			t.Error(err)
		}
	})
	return took
}
