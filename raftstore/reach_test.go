package raftstore_test

import (
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
