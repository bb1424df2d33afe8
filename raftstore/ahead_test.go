package raftstore

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// What was decoded ahead counts for its entry alone, and once.
func TestDecodedAhead(t *testing.T) {
	puts := func(name string) []byte {
		return marshal(t, &raftstorepb.Command{Now: 1, Transactions: []*raftstorepb.Transaction{tx(putOp(t, 0, &testpb.Thing{Id: "a", Name: name}))}})
	}
	damaged := []byte{0xff}
	for _, tc := range []struct {
		what             string
		foreseen, entry  raft.Log
		name             string // of what is stored; "" where the entry halts
		keptBefore, kept bool
	}{
		{"its entry", raft.Log{Index: 2, Term: 3, Data: puts("x")}, raft.Log{Index: 2, Term: 3, Data: damaged}, "x", true, false},
		{"another term's", raft.Log{Index: 2, Term: 3, Data: puts("x")}, raft.Log{Index: 2, Term: 4, Data: puts("y")}, "y", true, false},
		{"a later one's", raft.Log{Index: 2, Term: 3, Data: puts("x")}, raft.Log{Index: 3, Term: 3, Data: puts("y")}, "y", true, false},
		{"an earlier one's", raft.Log{Index: 2, Term: 3, Data: puts("x")}, raft.Log{Index: 1, Term: 3, Data: puts("y")}, "y", true, true},
		{"no command", raft.Log{Index: 2, Term: 3, Type: raft.LogNoop}, raft.Log{Index: 2, Term: 3, Data: puts("y")}, "y", false, false},
		{"what does not decode", raft.Log{Index: 2, Term: 3, Data: damaged}, raft.Log{Index: 2, Term: 3, Data: damaged}, "", false, false},
	} {
		f := newTestFSM(t)
		f.foresee(&tc.foreseen)
		if (f.ahead.kept != nil) != tc.keptBefore {
			t.Errorf("%s: decoded ahead: %v", tc.what, f.ahead.kept)
		}
		_, applied := f.Apply(&tc.entry).([]error)
		r, err := f.read()
		if tc.name == "" {
			if applied || err == nil {
				t.Errorf("%s: it was applied", tc.what)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", tc.what, err)
		}
		if o, ok := things.Get(r, "a"); !ok || o.GetName() != tc.name {
			t.Errorf("%s: %v is stored, want %s", tc.what, o, tc.name)
		}
		if (f.ahead.kept != nil) != tc.kept {
			t.Errorf("%s: kept afterwards: %v", tc.what, f.ahead.kept)
		}
		f.foresee(&tc.entry) // too late
		if f.ahead.kept != nil && !tc.kept {
			t.Errorf("%s: decoded once more", tc.what)
		}
	}
}

// An entry that was decoded ahead gives the state that it gives without.
func TestDecodedAheadIsTheSame(t *testing.T) {
	with, without := newTestFSM(t), newTestFSM(t)
	for i, ops := range [][]*raftstorepb.Op{
		{putOp(t, 0, &testpb.Thing{Id: "a", Name: "x"}), putOp(t, 0, &testpb.Thing{Id: "b", Name: "y"})},
		{putOp(t, 1, &testpb.Thing{Id: "a", Name: "z"})},
		{putOp(t, 1, &testpb.Thing{Id: "a", Name: "stale"})},
		{{Table: "things", Id: "b", ExpectVersion: 1}},
	} {
		l := &raft.Log{Index: uint64(i + 1), Term: 1, Data: marshal(t, &raftstorepb.Command{Now: int64(i), Transactions: []*raftstorepb.Transaction{tx(ops...)}})}
		with.foresee(l)
		a, b := with.Apply(l).([]error), without.Apply(l).([]error)
		if len(a) != 1 || len(b) != 1 || (a[0] == nil) != (b[0] == nil) {
			t.Fatalf("entry %d: %v with, %v without", l.Index, a, b)
		}
	}
	for name, f := range map[string]*fsm{"with": with, "without": without} {
		r, err := f.read()
		if err != nil {
			t.Fatal(err)
		}
		a, okA := things.Get(r, "a")
		_, okB := things.Get(r, "b")
		if !okA || a.GetName() != "z" || a.GetMeta().GetVersion() != 2 || okB {
			t.Errorf("%s: %v; the other is there: %v", name, a, okB)
		}
	}
}
