package raftstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// shortElectionTimeout lets a server stand again and again.
const shortElectionTimeout = 300 * time.Millisecond

// TestOldCopyIsKnown puts an old copy of a server's disk back after the others
// went on, compacted, and restarted: what they know of it is beyond its disk,
// and while it is dormant it gives nobody its vote.
func TestOldCopyIsKnown(t *testing.T) {
	t.Parallel()
	ctx := waitContext(t)
	dirA, sealerA := t.TempDir(), raftstoretest.NewSealer()
	a := openMember(t, dirA, sealerA, "a")
	a.bootstrap(t)
	dirB, sealerB := t.TempDir(), raftstoretest.NewSealer()
	b := openMember(t, dirB, sealerB, "b", "a")
	if err := a.AddNonvoter(ctx, b.id, b.hostport()); err != nil {
		t.Fatal(err)
	}
	if err := a.AddVoter(ctx, b.id, b.hostport()); err != nil {
		t.Fatal(err)
	}
	put(t, a.Store, &testpb.Thing{Id: "before"})
	waitFor(t, b, "before")
	if err := b.Close(ctx); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(dirB)); err != nil {
		t.Fatal(err)
	}
	b = openMemberOn(t, b.link.again(t), dirB, sealerB)
	if known, own := a.Witnessed()["b"], b.Opened(); known.Beyond(own) {
		t.Errorf("an honest disk looks old: %+v is known, %+v is there", known, own)
	}
	leaderOf(t, a, b)
	for i := range 30 {
		put(t, leaderOf(t, a, b).Store, &testpb.Thing{Id: fmt.Sprint("after-", i)})
	}
	waitFor(t, b, "after-29")
	waitFor(t, a, "after-29")
	if err := a.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	// A heartbeat later the leader knows that the last of them is committed.
	put(t, leaderOf(t, a, b).Store, &testpb.Thing{Id: "last"})
	for _, m := range []*member{b, a} {
		if err := m.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	l := a.link.again(t)
	l.timeout = shortElectionTimeout
	a = openMemberOn(t, l, dirA, sealerA)
	fake := openDormant(t, b.link.again(t), old, sealerB)
	known, own := a.Witnessed()["b"], fake.Opened()
	if !known.Beyond(own) || known.Index < own.Index+25 {
		t.Fatalf("%+v is known of a disk that has %+v", known, own)
	}
	// Two of two voters are up, and one may not vote.
	short, cancel := context.WithTimeout(ctx, 8*shortElectionTimeout)
	defer cancel()
	for short.Err() == nil {
		changed := a.LeaderChanged()
		if a.IsLeader() || fake.IsLeader() {
			t.Fatal("a leader was elected with the vote of a dormant server")
		}
		select {
		case <-changed:
		case <-short.Done():
		}
	}
	fake.Wake()
	if got := leaderOf(t, a, fake); got != a {
		t.Error("the server that lacks entries leads")
	}
}

// again is a link to the same address, once the last one is closed.
func (l *link) again(t testing.TB) *link {
	t.Helper()
	n := newLink(t, l.id)
	addr := l.Addr().String()
	if err := n.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.Listener, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	return n
}

func openDormant(t testing.TB, l *link, dir string, sealer raftstore.Sealer) *member {
	t.Helper()
	s, err := raftstore.Open(t.Context(), raftstore.Config{
		Dir: dir, NodeID: l.id, ClusterID: "cluster", Tables: []raftstore.Registered{things}, Sealer: sealer, Logger: slog.New(slog.DiscardHandler),
		Transport:       raftstore.Transport{Listener: l, Advertise: raftstore.JoinAddr(l.id, l.Addr().String()), Dial: l.dial},
		ElectionTimeout: shortElectionTimeout, Dormant: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	l.allowed <- s.PeerAllowed
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return &member{Store: s, link: l, id: l.id}
}
