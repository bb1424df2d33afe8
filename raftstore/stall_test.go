package raftstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// TestStalledDisk holds a leader's disk: another must lead soon, and the one
// whose disk it was follows when that is back.
func TestStalledDisk(t *testing.T) {
	for _, membership := range []bool{false, true} {
		inBubble(t, func(t *testing.T) {
			c := newSimCluster(t, 1, 3)
			defer c.close()
			c.slowNet(5 * time.Millisecond)
			time.Sleep(time.Second) // simulated time: all follow
			old := c.leader()
			old.disk.hang(15 * time.Second)
			store, start := old.current(), time.Now()
			done := make(chan struct{})
			go func() { // a command is replicated while the disk hangs; for a configuration, raft waits for it
				defer close(done)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if membership {
					_ = store.AddNonvoter(ctx, "another", "another:1")
				} else {
					_ = store.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "held"}) })
				}
			}()
			for next := (*simMember)(nil); next == nil; {
				time.Sleep(100 * time.Millisecond) // simulated time
				for _, m := range c.all {
					if s := m.current(); m != old && s != nil && s.IsLeader() {
						next = m
					}
				}
				if time.Since(start) > 15*time.Second {
					t.Error("a leader whose disk is held leads on")
					break
				}
			}
			t.Logf("membership=%v: another leads after %v; the old one says it stalls for %v and stopped for %v", membership, time.Since(start), store.Stalled(), store.Err())
			if stopped := store.Err() != nil; stopped != membership {
				t.Errorf("the store stopped: %v; it must where raft itself waits for the disk, and only there", stopped)
			}
			if !membership && store.Stalled() == 0 {
				t.Error("it does not say that its disk stalls")
			}
			<-done
			c.mend()
			c.agree()
		})
	}
}
