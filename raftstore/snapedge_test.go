package raftstore_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// A follower of a leader whose messages come late, twice, or whose answers are
// lost: the test says what comes in, the follower is a real store.
type edgeBed struct {
	t           *testing.T
	lead, f     *member
	dir         string
	sealer      raftstore.Sealer
	conf        raft.Configuration
	snap        []byte // the state up to at
	at, term    uint64
	first, last uint64 // the entries that there are
}

func newEdgeBed(t *testing.T) *edgeBed {
	b := &edgeBed{t: t, lead: newMember(t, "a"), dir: t.TempDir(), sealer: raftstoretest.NewSealer()}
	b.lead.bootstrap(t)
	for _, id := range []string{"s1", "s2", "s3"} {
		put(t, b.lead.Store, &testpb.Thing{Id: id})
	}
	var out bytes.Buffer
	if err := b.lead.Export(func(uint64) (io.Writer, error) { return &out, nil }); err != nil {
		t.Fatal(err)
	}
	b.snap, b.at, b.term = out.Bytes(), b.lead.LastIndex(), b.lead.Term()
	for _, id := range []string{"e1", "e2", "e3", "e4"} {
		put(t, b.lead.Store, &testpb.Thing{Id: id})
	}
	b.first, b.last = 1, b.lead.LastIndex()
	b.open()
	b.conf = raft.Configuration{Servers: []raft.Server{
		{ID: "a", Address: raft.ServerAddress(raftstore.JoinAddr("a", b.lead.hostport()))},
		{ID: "f", Suffrage: raft.Nonvoter, Address: raft.ServerAddress(raftstore.JoinAddr("f", b.f.hostport()))}}}
	return b
}

func (b *edgeBed) open() {
	l := newLink(b.t, "f")
	s, err := raftstore.Open(b.t.Context(), raftstore.Config{Dir: b.dir, NodeID: "f", ClusterID: "cluster",
		Tables: []raftstore.Registered{things}, Sealer: b.sealer, Logger: slog.New(slog.DiscardHandler), InitialPeers: []string{"a"},
		Transport: raftstore.Transport{Listener: l, Advertise: raftstore.JoinAddr("f", l.Addr().String()), Dial: l.dial}})
	if err != nil {
		b.t.Fatal(err)
	}
	l.allowed <- s.PeerAllowed
	b.f = &member{Store: s, link: l, id: "f"}
	b.t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			b.t.Error(err)
		}
	})
}

func (b *edgeBed) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a"), Addr: []byte(b.lead.Advertise())}
}

// entries sends the leader's entries from..to, after the one before.
func (b *edgeBed) entries(from, to, commit uint64) bool {
	b.t.Helper()
	req := &raft.AppendEntriesRequest{RPCHeader: b.header(), Term: b.term, LeaderCommitIndex: commit}
	for i := from - 1; i <= to; i++ {
		if i == 0 {
			continue
		}
		l, err := raftstore.Entry(b.lead.Store, i)
		if err != nil {
			b.t.Fatal(err)
		}
		if i < from {
			req.PrevLogEntry, req.PrevLogTerm = i, l.Term
		} else {
			req.Entries = append(req.Entries, l)
		}
	}
	resp, err := raftstore.Receive(b.f.Store, "a", req, nil)
	if err != nil {
		b.t.Fatalf("entries %d to %d: %v", from, to, err)
	}
	return resp.(*raft.AppendEntriesResponse).Success
}

// install sends the snapshot, of the given terms.
func (b *edgeBed) install(term, lastTerm uint64) (bool, error) {
	b.t.Helper()
	resp, err := raftstore.Receive(b.f.Store, "a", &raft.InstallSnapshotRequest{RPCHeader: b.header(),
		SnapshotVersion: raft.SnapshotVersionMax, Term: term, LastLogIndex: b.at, LastLogTerm: lastTerm,
		Configuration: raft.EncodeConfiguration(b.conf), ConfigurationIndex: 1, Size: int64(len(b.snap))}, b.snap)
	if err != nil {
		return false, err
	}
	return resp.(*raft.InstallSnapshotResponse).Success, nil
}

func (b *edgeBed) installed() {
	b.t.Helper()
	if ok, err := b.install(b.term, b.term); err != nil || !ok {
		b.t.Fatalf("the snapshot was not taken: %v", err)
	}
}

// whole wants every entry at the follower, now and when it is opened again.
func (b *edgeBed) whole() {
	b.t.Helper()
	waitFor(b.t, b.f, "e4")
	if got := b.f.LastIndex(); got != b.last {
		b.t.Fatalf("the follower ends at %d, want %d", got, b.last)
	}
	if err := b.f.Close(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	b.open()
	if got := b.f.LastIndex(); got != b.last {
		b.t.Fatalf("opened again, the follower ends at %d, want %d", got, b.last)
	}
}

// The answer to the first entries after a snapshot is lost: they come again.
func TestEntriesAfterASnapshotComeAgain(t *testing.T) {
	b := newEdgeBed(t)
	b.installed()
	for range 2 {
		if !b.entries(b.at+1, b.at+2, b.at+1) {
			t.Fatal("refused: the leader would go back, and send its snapshot again and again")
		}
	}
	if !b.entries(b.at+3, b.last, b.last) {
		t.Fatal("refused")
	}
	b.whole()
}

// A snapshot comes late, or a second time: this server has more already.
func TestSnapshotComesLate(t *testing.T) {
	b := newEdgeBed(t)
	b.installed()
	if !b.entries(b.at+1, b.at+2, b.at+2) {
		t.Fatal("refused")
	}
	waitFor(t, b.f, "e2")
	b.installed()
	if got := b.f.AppliedIndex(); got != b.at+2 {
		t.Fatalf("the state went back to %d", got)
	}
	if !b.entries(b.at+1, b.at+2, b.at+2) || !b.entries(b.at+3, b.last, b.last) {
		t.Fatal("refused")
	}
	b.whole()
}

// A snapshot comes to a server that has entries behind it, of which it does not
// know that they are committed.
func TestSnapshotIsBehindTheLog(t *testing.T) {
	b := newEdgeBed(t)
	if !b.entries(1, b.at+2, 1) {
		t.Fatal("refused")
	}
	b.installed()
	if got := b.f.LastIndex(); got != b.at+2 {
		t.Fatalf("what was acknowledged ended at %d, and ends at %d", b.at+2, got)
	}
	if !b.entries(b.at+3, b.last, b.last) {
		t.Fatal("refused")
	}
	b.whole()
}

// A snapshot comes to a server whose log is another one there: raft would go by
// the end of a log that is gone. The store stops, and is right when it is opened.
func TestSnapshotAgainstAnotherLog(t *testing.T) {
	b := newEdgeBed(t)
	if !b.entries(1, b.at+2, 1) {
		t.Fatal("refused")
	}
	if ok, err := b.install(b.term+1, b.term+1); ok || err == nil {
		t.Fatal("raft goes on with the end of a log that is gone")
	}
	<-b.f.Done()
	if err := b.f.Err(); err == nil || !strings.Contains(err.Error(), "start") {
		t.Fatalf("the store stopped: %v", err)
	}
	if err := b.f.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.open()
	if got := b.f.LastIndex(); got != b.at {
		t.Fatalf("opened again, the follower ends at %d, want %d", got, b.at)
	}
	waitFor(t, b.f, "s3")
}

// The leader's newest snapshot is older than this server's, which has nothing
// else: what it sends begins with entries that are nowhere in the log here.
func TestLeaderWithAnOlderSnapshot(t *testing.T) {
	b := newEdgeBed(t)
	b.installed()
	for from := uint64(2); from <= b.at; from++ {
		if !b.entries(from, b.at, b.last) {
			t.Fatalf("entries %d to %d, which the snapshot has, are refused", from, b.at)
		}
		if got := b.f.LastIndex(); got != b.at {
			t.Fatalf("the log ends at %d, behind a snapshot up to %d", got, b.at)
		}
	}
	if !b.entries(b.at-1, b.at+2, b.last) || !b.entries(b.at+3, b.last, b.last) {
		t.Fatal("refused")
	}
	b.whole()
}
