package raftstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// TestAllDisksStall holds every disk, as a storage that all share does: nobody
// can take over, nobody stops, and all go on when it is back.
func TestAllDisksStall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newSimCluster(t, 1, 3)
		defer c.close()
		c.slowNet(5 * time.Millisecond)
		time.Sleep(time.Second) // simulated time: all follow
		lead := c.leader()
		for _, m := range c.all {
			m.disk.hang(8 * time.Second) // each half of a write
		}
		outcome := lead.begin("held")
		time.Sleep(12 * time.Second) // simulated time
		if lead.current() == nil || lead.current().Stalled() == 0 {
			t.Error("the leader's disk did not stall for long: this proves nothing")
		}
		time.Sleep(time.Second) // simulated time
		for _, m := range c.all {
			m.disk.setSlow(0)
		}
		time.Sleep(20 * time.Second) // simulated time
		<-outcome
		for _, m := range c.all {
			if s := m.current(); s == nil || s.Err() != nil {
				t.Errorf("%s stopped", m.id)
			}
		}
		c.change(func(ctx context.Context, s *raftstore.Store) error {
			return s.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "after"}) })
		})
		c.agree()
	})
}
