package raftstore_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// A follower has entries of a leader that lost them. The next leader's first
// message ends before these, and says that as many are committed by now, which
// are its own.
func TestWhatNobodyComparedIsNotCommitted(t *testing.T) {
	b := newEdgeBed(t)
	if !b.entries(1, b.at+2, b.at) { // up to e2
		t.Fatal("refused")
	}
	waitFor(t, b.f, "s3")
	w, err := b.f.Watch(nil, things)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	own, err := raftstore.Entry(b.lead.Store, b.at+3) // e3, in the place of e1
	if err != nil {
		t.Fatal(err)
	}
	own.Index, own.Term = b.at+1, b.term+1
	for _, entries := range [][]*raft.Log{nil, {own}} {
		resp, err := raftstore.Receive(b.f.Store, "a", &raft.AppendEntriesRequest{RPCHeader: b.header(), Term: b.term + 1,
			PrevLogEntry: b.at, PrevLogTerm: b.term, Entries: entries, LeaderCommitIndex: b.at + 2}, nil)
		if err != nil || !resp.(*raft.AppendEntriesResponse).Success {
			t.Fatalf("refused: %v", err)
		}
	}
	events, err := w.Next(waitContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, o, _ := things.Event(events[0]); o.GetId() != "e3" {
		t.Fatalf("the follower applied %s, which the leader does not have", o.GetId())
	}
}

// What was applied is another entry at the leader. However that came about, the
// store stops, and opens with a state of what the leader has.
func TestWhatWasAppliedIsNotExchanged(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		b := newEdgeBed(t)
		if !b.entries(1, b.at+2, b.at+2) { // up to e2
			t.Fatal("refused")
		}
		waitFor(t, b.f, "e2")
		want := "start this manager again"
		if snapshot {
			want = "join again"
			if err := b.f.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		b.stopsAt(b.at+2, want)
		b.open()
		if snapshot {
			b.stopsAt(b.at+2, want)
			continue
		}
		if !b.exchange(b.at + 2) {
			t.Fatal("refused")
		}
		waitFor(t, b.f, "e3")
		if err := b.f.View(func(r *raftstore.ReadTx) error {
			if _, ok := things.Get(r, "e2"); ok {
				t.Error("what the leader does not have is still there")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

// exchange sends the last but one entry, e3, in the place of another one, by the
// next leader.
func (b *edgeBed) exchange(at uint64) bool {
	b.t.Helper()
	l, err := raftstore.Entry(b.lead.Store, b.last-1)
	if err != nil {
		b.t.Fatal(err)
	}
	l.Index, l.Term = at, b.term+1
	resp, err := raftstore.Receive(b.f.Store, "a", &raft.AppendEntriesRequest{RPCHeader: b.header(), Term: l.Term,
		PrevLogEntry: at - 1, PrevLogTerm: b.term, Entries: []*raft.Log{l}, LeaderCommitIndex: at}, nil)
	return err == nil && resp.(*raft.AppendEntriesResponse).Success
}

// stopsAt wants the store to stop rather than take that.
func (b *edgeBed) stopsAt(at uint64, why string) {
	b.t.Helper()
	if b.exchange(at) {
		b.t.Fatal("it goes on with a state that nobody else has")
	}
	<-b.f.Done()
	if err := b.f.Err(); err == nil || !strings.Contains(err.Error(), why) {
		b.t.Fatalf("the store stopped: %v", err)
	}
	if err := b.f.Close(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}
