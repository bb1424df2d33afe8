package raftstore_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// awayWhileJoined cuts m3 off, lets m4 join, and hands leadership to it.
func awayWhileJoined(t *testing.T, c *simCluster) (away, newcomer *simMember) {
	t.Helper()
	away = c.all[2]
	time.Sleep(time.Second) // simulated time: it has what there is
	c.net.split([]string{away.id}, c.ids())
	time.Sleep(3 * time.Second) // simulated time
	newcomer = c.add("m4", 4)
	c.start(newcomer)
	c.net.split([]string{away.id}, c.ids())
	c.change(func(ctx context.Context, leader *raftstore.Store) error { return leader.AddVoter(ctx, "m4", "m4:1") })
	for range 50 {
		if m := c.leader(); m == newcomer {
			return away, newcomer
		} else if err := m.current().Membership().LeadershipTransferToServer("m4", "m4@m4:1").Error(); err != nil {
			t.Log(err)
		}
		time.Sleep(200 * time.Millisecond) // simulated time
	}
	t.Fatal("the newcomer does not lead")
	return nil, nil
}

func writeSim(t *testing.T, m *simMember, id string) {
	t.Helper()
	if err := m.current().Update(waitContext(t), func(tx *raftstore.Tx) error {
		return things.Put(tx, &testpb.Thing{Id: id})
	}); err != nil {
		t.Fatal(err)
	}
}

// TestLeaderThatJoinedMeanwhile: a manager that was away follows a leader that
// it has never heard of, by entries or by a snapshot, while that goes on leading.
func TestLeaderThatJoinedMeanwhile(t *testing.T) {
	for name, writes := range map[string]int{"entries": 1, "snapshot": 60} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c := newSimCluster(t, 1, 3)
				defer c.close()
				c.slowNet(5 * time.Millisecond)
				away, newcomer := awayWhileJoined(t, c)
				for i := range writes {
					writeSim(t, newcomer, string(rune('A'+i)))
				}
				time.Sleep(2 * time.Second) // simulated time: snapshots
				c.net.heal()
				time.Sleep(15 * time.Second) // simulated time
				if lead := c.leader(); lead != newcomer {
					t.Fatalf("leadership moved to %s: this shows nothing", lead.id)
				}
				if id, _ := away.current().Leader(); id != newcomer.id {
					t.Errorf("%s follows %q, not the leader %s", away.id, id, newcomer.id)
				}
				servers := away.current().Servers()
				if !slices.ContainsFunc(servers, func(s raftstore.Server) bool { return s.ID == newcomer.id }) {
					t.Errorf("it has the configuration %v", servers)
				}
				c.agree()
			})
		})
	}
}

// TestRemovedServerIsNamedByNobody has one that joined and was removed, while a
// manager was away, try to lead that manager, which hears no leader.
func TestRemovedServerIsNamedByNobody(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newSimCluster(t, 1, 3)
		defer c.close()
		c.slowNet(5 * time.Millisecond)
		away, removed := awayWhileJoined(t, c)
		_ = removed.current().Membership().LeadershipTransferToServer("m1", "m1@m1:1").Error() // c.leader tells
		time.Sleep(time.Second)                                                                // simulated time
		c.change(func(ctx context.Context, leader *raftstore.Store) error { return leader.RemoveServer(ctx, removed.id) })
		leader := c.leader()
		if leader == removed {
			t.Fatal("the removed server leads")
		}
		c.crash(removed)
		c.net.heal()
		// The leader does not reach it, the other voter does.
		c.net.block(leader.id, away.id, true)
		l, transport := c.net.home(removed.id)
		l.allow(func(string) bool { return false })
		evil := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: simDialer{l, transport.Dial}, Timeout: time.Second, Logger: hclog.NewNullLogger()})
		const far = 1000
		for range 20 {
			head := simHeader(removed.id)
			target := raft.ServerAddress(away.id + "@" + away.id + ":1")
			if err := evil.AppendEntries(raft.ServerID(away.id), target, &raft.AppendEntriesRequest{RPCHeader: head, Term: far,
				Entries: []*raft.Log{{Index: 1 << 20, Term: far, Type: raft.LogNoop}}}, &raft.AppendEntriesResponse{}); err == nil {
				t.Fatal("entries of a removed server are taken")
			}
			time.Sleep(500 * time.Millisecond) // simulated time
		}
		if err := evil.Close(); err != nil {
			t.Error(err)
		}
		if away.current().PeerAllowed(removed.id) {
			t.Error("the removed server is let in")
		}
		if term := away.current().Membership().Stats()["term"]; len(term) > 3 {
			t.Errorf("its term is %s", term)
		}
	})
}
