package raftstore_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// testClock is a clock that is off, and fit to lead or not.
type testClock struct {
	ahead atomic.Int64
	unfit atomic.Bool
	asked atomic.Int64
	next  string
}

func (c *testClock) Confirm(context.Context) (string, error) {
	c.asked.Add(1)
	if c.unfit.Load() {
		return c.next, errors.New("the clock is off")
	}
	return "", nil
}

func (c *testClock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *testClock) waitAsked(t *testing.T, times int64) {
	t.Helper()
	end, tick := waitContext(t).Done(), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for c.asked.Load() < times {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("its clock is not asked for")
		}
	}
}

// TestUnconfirmedClockStampsNothing: of three managers a's clock is an hour ahead
// and it is elected again and again. It never leads, nothing gets its time, and
// who it names takes over.
func TestUnconfirmedClockStampsNothing(t *testing.T) {
	links, clocks := []*link{newLink(t, "a"), newLink(t, "b"), newLink(t, "c")}, []*testClock{{next: "c"}, {}, {}}
	for i, l := range links {
		l.clock = clocks[i]
	}
	all := newClusterOn(t, links...)
	a := all[0]
	put(t, a.Store, &testpb.Thing{Id: "before"})
	clocks[0].ahead.Store(int64(time.Hour))
	clocks[0].unfit.Store(true)
	if err := a.TransferLeadership(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	leader := leaderOf(t, all[1], all[2])
	for _, id := range []string{"x", "y", "z"} {
		asked := clocks[0].asked.Load()
		// Back to a, which may not and says c.
		f := leader.Membership().LeadershipTransferToServer("a", raft.ServerAddress(raftstore.JoinAddr("a", a.hostport())))
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
		clocks[0].waitAsked(t, asked+1)
		if leader = putAt(t, &testpb.Thing{Id: id}, all...); leader.id == "a" {
			t.Fatal("a manager whose clock is off leads")
		}
	}
	if leader.id != "c" {
		t.Errorf("%s leads, a named c", leader.id)
	}
	if err := leader.View(func(r *raftstore.ReadTx) error {
		if d := time.Until(r.Clock()); d > time.Minute {
			t.Errorf("the cluster's clock is %v ahead", d)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	clocks[0].unfit.Store(false) // mended: it may again
	clocks[0].ahead.Store(0)
	if err := leader.Membership().LeadershipTransferToServer("a", raft.ServerAddress(raftstore.JoinAddr("a", a.hostport()))).Error(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, a.Store)
}

// TestLeaderAloneIsAskedAgain: with nobody to hand over to, a leader begins once
// its clock is confirmed.
func TestLeaderAloneIsAskedAgain(t *testing.T) {
	l, clock := newLink(t, "a"), &testClock{}
	clock.unfit.Store(true)
	l.clock = clock
	a := openMemberOn(t, l, t.TempDir(), raftstoretest.NewSealer())
	if err := a.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	a.Stand()
	clock.waitAsked(t, 2)
	if a.IsLeader() {
		t.Fatal("it leads by a clock that was not confirmed")
	}
	clock.ahead.Store(int64(-time.Hour))
	clock.unfit.Store(false)
	leaderOf(t, a)
	put(t, a.Store, &testpb.Thing{Id: "x"})
	if err := a.View(func(r *raftstore.ReadTx) error {
		if d := time.Since(r.Clock()); d < 59*time.Minute {
			t.Errorf("stamped %v ago, not by the clock it was given", d)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
