package raftstore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// A follower comes back with an entry that its leader lost, while the next leader
// writes its first one: it waits to try again with what it had when it was elected,
// and says then that more is committed.
func TestStaleEntryBehindALeadersFirstMessage(t *testing.T) {
	for _, seed := range []uint64{2, 3} { // one for each kind of log
		inBubble(t, func(t *testing.T) {
			c := newSimCluster(t, seed, 3)
			defer c.close()
			c.slowNet(time.Millisecond)
			c.agree()
			old := c.leader()
			var stale, next *simMember
			for _, m := range c.all {
				switch {
				case m == old:
				case stale == nil:
					stale = m
				default:
					next = m
				}
			}
			c.net.split([]string{next.id}, []string{old.id, stale.id})
			c.net.reset(next.id) // nothing is under way to it
			before := old.current().LastIndex()
			old.disk.hang(time.Hour)
			outcome := old.begin("lost")
			time.Sleep(100 * time.Millisecond) // simulated time
			if got := stale.current().LastIndex(); got <= before {
				t.Errorf("the follower has %d entries: there is nothing that the leader can lose", got)
			}
			c.crash(old)
			<-outcome // of a life that is over: nobody hears of it
			c.crash(stale)
			old.disk.setSlow(0)
			synctest.Wait() // who crashed is gone
			c.net.heal()
			c.start(old)

			// Its first entry takes four seconds: it fails to reach the other one
			// eight times meanwhile, and waits for more than a second then.
			next.disk.hang(2 * time.Second)
			next.disk.setOnly(opAppend)
			next.current().Stand()
			for next.current().LastIndex() <= before {
				time.Sleep(time.Millisecond) // simulated time: until it is written
			}
			next.disk.setSlow(0)
			next.disk.endLife() // what has just begun takes no time either
			c.start(stale)
			c.change(func(ctx context.Context, s *raftstore.Store) error {
				return s.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "kept"}) })
			})
			c.agree()
			if stale.sees(t, "lost") {
				t.Errorf("%s has applied what nobody else has", stale.id)
			}
		})
	}
}
