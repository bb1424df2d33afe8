package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestFollowedSince: what confirms a read is a majority's answers to requests
// sent after it was asked for, in the term that counts.
func TestFollowedSince(t *testing.T) {
	servers := []raft.Server{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "n", Suffrage: raft.Nonvoter}}
	asked := time.Now()
	before, after := asked.Add(-time.Millisecond), asked.Add(time.Millisecond)
	answer := func(p *progress, id raft.ServerID, term uint64, sent time.Time, yes bool) {
		p.answered(id, sent, &raft.AppendEntriesRequest{Term: term}, &raft.AppendEntriesResponse{Term: term, Success: yes})
	}
	for name, tc := range map[string]struct {
		answers func(*progress)
		want    bool
	}{
		"nobody answered":            {func(*progress) {}, false},
		"to an earlier request":      {func(p *progress) { answer(p, "b", 1, before, true) }, false},
		"to a request of that time":  {func(p *progress) { answer(p, "b", 1, asked, true) }, true},
		"to a later request":         {func(p *progress) { answer(p, "b", 1, after, true) }, true},
		"by a refusal":               {func(p *progress) { answer(p, "b", 1, after, false) }, false},
		"by one without a vote":      {func(p *progress) { answer(p, "n", 1, after, true) }, false},
		"late, after a later answer": {func(p *progress) { answer(p, "b", 1, after, true); answer(p, "b", 1, before, true) }, true},
		"of an earlier term":         {func(p *progress) { answer(p, "c", 2, before, true); answer(p, "b", 1, after, true) }, false},
		"forgotten with the term":    {func(p *progress) { answer(p, "b", 1, after, true); answer(p, "c", 2, before, true) }, false},
	} {
		p := newProgress(newWitness())
		tc.answers(p)
		if got := p.followedSince(asked, "a", servers); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
	if !newProgress(newWitness()).followedSince(asked, "a", servers[:1]) {
		t.Error("one alone is a majority")
	}
}
