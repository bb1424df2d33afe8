package raftstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// A server that was cut off, and meanwhile wanted to be elected again and again,
// comes back without deposing anybody: it asks before it raises its term.
func TestCutOffServerDoesNotDepose(t *testing.T) {
	all := newCluster(t)
	leader := leaderOf(t, all...)
	var lone *member
	for _, m := range all {
		if m != leader {
			lone = m
		}
	}
	put(t, leader.Store, &testpb.Thing{Id: "before"})
	waitFor(t, lone, "before")
	term := leader.Membership().Stats()["term"]
	lone.link.setCut(true)
	ctx := waitContext(t)
	for { // until it has lost its leader and stands for election
		changed := lone.LeaderChanged()
		if id, _ := lone.Leader(); id == "" {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("it does not notice that it is cut off")
		}
	}
	// Several of its election timeouts, during which the others work.
	for i, until := 0, time.Now().Add(2*time.Second); time.Now().Before(until); i++ {
		put(t, leader.Store, &testpb.Thing{Id: fmt.Sprint("meanwhile-", i)})
	}
	put(t, leader.Store, &testpb.Thing{Id: "last"})
	lone.link.setCut(false)
	waitFor(t, lone, "last")
	put(t, leader.Store, &testpb.Thing{Id: "after"}) // fails where it leads no more
	if now := leader.Membership().Stats()["term"]; now != term || !leader.IsLeader() {
		t.Errorf("the term went from %s to %s: the leader was deposed", term, now)
	}
}
