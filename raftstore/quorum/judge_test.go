package quorum_test

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/quorum"
)

func TestJudge(t *testing.T) {
	servers := func(n int) (out []raftstore.Server) {
		for _, id := range []string{"me", "a", "b", "c", "d"}[:n] {
			out = append(out, raftstore.Server{ID: id, Voter: true})
		}
		return out
	}
	knows := func(term, index uint64) quorum.Testimony {
		return quorum.Testimony{Known: raftstore.Reach{Term: term, Index: index}}
	}
	leads := func(term, index uint64) quorum.Testimony {
		return quorum.Testimony{Known: raftstore.Reach{Term: term, Index: index}, Leads: true}
	}
	type answers = map[string]quorum.Testimony
	own := raftstore.Reach{Term: 5, Index: 100}
	without := append(servers(3)[1:], raftstore.Server{ID: "me"}) // the disk says that it has no vote
	for name, tc := range map[string]struct {
		own     raftstore.Reach
		servers []raftstore.Server
		answers answers
		want    quorum.Verdict
	}{
		"alone":                                  {own, servers(1), nil, quorum.UpToDate},
		"three, nobody answers":                  {own, servers(3), nil, quorum.Unknown},
		"three, one knows nothing":               {own, servers(3), answers{"a": knows(0, 0)}, quorum.UpToDate},
		"three, one knows as much":               {own, servers(3), answers{"a": knows(5, 100)}, quorum.UpToDate},
		"three, one knows a later term":          {own, servers(3), answers{"a": knows(6, 90)}, quorum.OldButNeeded},
		"three, the leader alone knows better":   {own, servers(3), answers{"a": leads(5, 101)}, quorum.OldButNeeded},
		"three, one of both knows better":        {own, servers(3), answers{"a": leads(4, 101), "b": knows(0, 0)}, quorum.OldCopy},
		"two, the other knows better":            {own, servers(2), answers{"a": knows(5, 101)}, quorum.OldButNeeded},
		"five, one answers":                      {own, servers(5), answers{"a": knows(0, 0)}, quorum.Unknown},
		"five, the leader answers":               {own, servers(5), answers{"a": leads(5, 100)}, quorum.UpToDate},
		"five, two answer":                       {own, servers(5), answers{"a": knows(0, 0), "b": knows(5, 99)}, quorum.UpToDate},
		"five, two of three know better":         {own, servers(5), answers{"a": knows(9, 9), "b": leads(9, 300), "c": knows(0, 0)}, quorum.OldCopy},
		"five, two answer and know better":       {own, servers(5), answers{"a": knows(9, 9), "b": leads(9, 300)}, quorum.OldButNeeded},
		"it says it of itself":                   {own, servers(3), answers{"me": leads(9, 9)}, quorum.Unknown},
		"a stranger knows better":                {own, servers(3), answers{"x": knows(9, 9)}, quorum.OldButNeeded},
		"no vote, one answers":                   {own, without, answers{"a": knows(0, 0)}, quorum.Unknown},
		"no vote, old":                           {own, without, answers{"a": leads(6, 0), "b": knows(0, 0)}, quorum.OldCopy},
		"three, the disk knows of two":           {own, servers(2), answers{"a": {Known: raftstore.Reach{Term: 6}, Leads: true, Index: 300, Servers: servers(3)}, "b": {Index: 200, Servers: servers(3)}}, quorum.OldCopy},
		"five, the disk knows of two":            {own, servers(2), answers{"a": {Known: raftstore.Reach{Term: 6}, Index: 300, Servers: servers(5)}, "b": knows(0, 0)}, quorum.OldButNeeded},
		"three, a liar says that it alone votes": {own, servers(3), answers{"a": {Known: raftstore.Reach{Term: 9, Index: 900}, Leads: true, Index: 900, Servers: servers(2)[1:]}}, quorum.OldButNeeded},
		"three, an answer is older":              {own, servers(3), answers{"a": {Index: 90, Servers: servers(1)}}, quorum.UpToDate},
		"new, nobody answers":                    {raftstore.Reach{}, nil, nil, quorum.Unknown},
		"new, not yet the leader":                {raftstore.Reach{}, nil, answers{"a": knows(0, 0)}, quorum.Unknown},
		"new":                                    {raftstore.Reach{}, nil, answers{"a": leads(0, 0)}, quorum.UpToDate},
		"emptied":                                {raftstore.Reach{}, nil, answers{"a": leads(5, 70)}, quorum.OldCopy},
		"emptied, no leader":                     {raftstore.Reach{}, nil, answers{"a": knows(5, 70)}, quorum.OldButNeeded},
	} {
		if got := quorum.Judge(quorum.Case{ID: "me", Own: tc.own, Servers: tc.servers, Answers: tc.answers}); got != tc.want {
			t.Errorf("%s: verdict %d, want %d", name, got, tc.want)
		}
	}
}
