package raftstore_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// barrierIn asks for a barrier and gives up after d.
func barrierIn(s *raftstore.Store, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return s.Barrier(ctx)
}

// TestBarrierAsksVoters cuts a leader off from all voters, but not from a
// server without a vote: its answer must not stand for theirs.
func TestBarrierAsksVoters(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newSimCluster(t, 1, 3)
		defer c.close()
		guest := c.add("guest", 9)
		c.start(guest)
		c.change(func(ctx context.Context, leader *raftstore.Store) error {
			return leader.AddNonvoter(ctx, "guest", "guest:1")
		})
		leader := c.leader()
		// Messages take no time at all: were raft asked again and again without a
		// pause, no time would pass.
		time.Sleep(time.Second) // simulated time: the guest follows
		for _, m := range c.all {
			if m != leader && m != guest {
				c.net.split([]string{leader.id}, []string{m.id})
			}
		}
		if err := barrierIn(leader.current(), 3*time.Second); err == nil {
			t.Fatal("a leader that reaches no voter but itself gives a barrier")
		}
	})
}

// TestBarrierWantsNewAnswers holds the voters' answers back, lets no further
// message reach them, and then delivers what they had answered before the
// question was asked. They may have elected another leader since.
func TestBarrierWantsNewAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newSimCluster(t, 1, 3)
		defer c.close()
		leader := c.leader()
		c.slowNet(5 * time.Millisecond)
		time.Sleep(time.Second) // simulated time: connections are up
		synctest.Wait()
		for _, m := range c.all {
			if m != leader {
				c.net.block(m.id, leader.id, true)
			}
		}
		time.Sleep(120 * time.Millisecond) // simulated time: a heartbeat was sent to each, and answered
		for _, m := range c.all {
			if m != leader {
				c.net.block(leader.id, m.id, true)
			}
		}
		got := make(chan error, 1)
		go func() { got <- barrierIn(leader.current(), 3*time.Second) }()
		synctest.Wait() // it has asked
		for _, m := range c.all {
			if m != leader {
				c.net.block(m.id, leader.id, false)
			}
		}
		if err := <-got; err == nil {
			t.Fatal("answers from before the question gave a barrier")
		}
	})
}

// TestBarrierWhileAManagerLeaves asks who leads, and takes the only other voter out
// before it answers: raft forgets such a question, and readers must not wait for ever.
func TestBarrierWhileAManagerLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newSimCluster(t, 1, 2)
		defer c.close()
		leader := c.leader()
		other := c.all[0]
		if other == leader {
			other = c.all[1]
		}
		time.Sleep(time.Second) // simulated time: connections are up
		c.net.split([]string{leader.id}, []string{other.id})
		got := make(chan error, 1)
		go func() { got <- barrierIn(leader.current(), 10*time.Second) }()
		synctest.Wait() // it has asked
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := leader.current().RemoveServer(ctx, other.id); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Errorf("a reader that asked before: %v", err)
		}
		if err := barrierIn(leader.current(), 10*time.Second); err != nil {
			t.Errorf("a reader that asked after: %v", err)
		}
	})
}
