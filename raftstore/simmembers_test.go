package raftstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// changeMembers tries one change of the membership in the midst of whatever is
// going on, and returns how many were made. What became of one that was not
// answered, settle sees to.
func (c *simCluster) changeMembers(r *rand.Rand, m *simMember) int {
	c.t.Helper()
	what := r.IntN(4)
	if what == 0 && len(c.all) < raftstore.MaxManagers {
		c.made++
		m = c.add(fmt.Sprintf("n%d", c.made), uint64(100+c.made))
		c.start(m)
	}
	lead := c.leaderNow()
	if lead == nil {
		return 0
	}
	s := lead.current()
	if s == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	var err error
	switch {
	case what == 0:
		err = s.AddNonvoter(ctx, m.id, m.id+":1")
	case what == 1:
		err = s.AddVoter(ctx, m.id, m.id+":1")
	case what == 2 && c.votersBut(s, m) >= 2:
		err = s.DemoteVoter(ctx, m.id)
	case what == 3 && c.votersBut(s, m) >= 3 && !m.leaving:
		m.leaving = true
		err = s.RemoveServer(ctx, m.id)
	default:
		return 0
	}
	if err != nil {
		return 0
	}
	return 1
}

// votersBut counts the voters without m.
func (c *simCluster) votersBut(s *raftstore.Store, m *simMember) (n int) {
	for _, srv := range s.Servers() {
		if srv.Voter && srv.ID != m.id {
			n++
		}
	}
	return n
}

// settle makes every server a voter, but for those that were to leave: these
// are removed, and closed.
func (c *simCluster) settle() {
	c.t.Helper()
	for _, m := range c.all {
		c.change(func(ctx context.Context, leader *raftstore.Store) error {
			if m.leaving {
				return leader.RemoveServer(ctx, m.id)
			}
			return leader.AddVoter(ctx, m.id, m.id+":1")
		})
	}
	var stay []*simMember
	for _, m := range c.all {
		if m.leaving {
			m.disk.endLife()
			c.shut(m, m.current())
		} else {
			stay = append(stay, m)
		}
	}
	c.setMembers(stay)
	want := c.ids()
	slices.Sort(want)
	var got []string
	for _, srv := range c.leader().current().Servers() {
		if srv.Voter {
			got = append(got, srv.ID)
		}
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("the voters are %v, not %v", got, want)
	}
}

// checkClock compares an object with what was read of it before: the state's
// clock never goes back, and never further than a clock that may lead.
func (k *simClient) checkClock(o *testpb.Thing) {
	at := o.GetMeta().GetUpdatedAt()
	if old := k.seen[o.GetId()]; old.GetMeta().GetVersion() <= o.GetMeta().GetVersion() && old.GetMeta().GetUpdatedAt() > at {
		k.c.t.Errorf("%s: the clock went back from %d to %d", o.GetId(), old.GetMeta().GetUpdatedAt(), at)
	}
	if ahead := time.Until(time.Unix(0, at)); ahead > simFit {
		k.c.t.Errorf("%s was stamped %v ahead of the time", o.GetId(), ahead)
	}
}
