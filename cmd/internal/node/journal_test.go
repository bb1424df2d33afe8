package node

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// written are lines of a journal from a number on, each behind the one before.
func written(from, n int) (out []*keydpb.JournalLine) {
	for seq := from; seq < from+n; seq++ {
		out = append(out, &keydpb.JournalLine{Seq: uint64(seq), At: int64(seq), Event: "unlock", Outcome: "ok", Hash: []byte{1, byte(seq)}, Prev: []byte{1, byte(seq - 1)}})
	}
	return out
}

// TestJournalIsRecordedOnce: whoever tells it again, from another line, or of
// another manager.
func TestJournalIsRecordedOnce(t *testing.T) {
	store := raftstoretest.New(t, tables()...)
	m := &managerState{n: &Node{log: slog.New(slog.DiscardHandler)}, store: store}
	id := ident.New()
	if err := store.Update(t.Context(), func(tx *raftstore.Tx) error {
		return pkistore.Nodes.Put(tx, &pkipb.Node{Id: id, Name: "m", Role: profilepb.Role_ROLE_MANAGER})
	}); err != nil {
		t.Fatal(err)
	}
	tell := func(seq uint64, hash []byte, lost bool, lines []*keydpb.JournalLine) error {
		return m.recordJournal(t.Context(), id, seq, hash, &keydpb.ReadJournalResponse{Lost: lost, Lines: lines, Seq: 99, Hash: []byte{9, 9}})
	}
	has := func(records int, seq uint64) {
		t.Helper()
		at, err := m.journalled(id)
		if n := len(recordsIn(t, store)); err != nil || n != records || at.GetSeq() != seq {
			t.Fatalf("%d records, and the journal is at %v; want %d and %d", n, at, records, seq)
		}
	}
	if err := tell(0, nil, false, written(1, 3)); err != nil {
		t.Fatal(err)
	}
	has(3, 3)
	if err := tell(0, nil, false, written(1, 3)); !errors.Is(err, errElsewhere) {
		t.Errorf("twice: %v", err)
	}
	other := written(4, 1)
	other[0].Prev = []byte{1, 2}
	if err := tell(3, []byte{1, 2}, false, other); !errors.Is(err, errElsewhere) {
		t.Errorf("behind a line that is another: %v", err)
	}
	if err := tell(3, []byte{1, 3}, false, written(5, 1)); err == nil {
		t.Error("a line is left out")
	}
	forged := written(4, 1)
	forged[0].Prev = []byte("another")
	if err := tell(3, []byte{1, 3}, false, forged); err == nil {
		t.Error("a line that does not follow")
	}
	has(3, 3)
	if err := tell(3, []byte{1, 3}, false, written(4, 2)); err != nil {
		t.Fatal(err)
	}
	has(5, 5)
	// It was cut, and goes on.
	if err := tell(5, []byte{1, 5}, true, written(2, 1)); err != nil {
		t.Fatal(err)
	}
	has(7, 2)
	if r := recordsIn(t, store)[5]; r.GetOutcome() != auditpb.Outcome_OUTCOME_FAULT || r.GetCaller().GetNode() != id {
		t.Errorf("what was lost is told as %v", r)
	}
	if at, _ := m.journalled(id); at.GetAt() != 5 {
		t.Errorf("it would read again what it read: %v", at)
	}
	// It was cut, and nothing was written since.
	if err := tell(2, []byte{1, 2}, true, nil); err != nil {
		t.Fatal(err)
	}
	has(8, 99)
	id = ident.New()
	if err := tell(0, nil, false, written(1, 1)); err == nil {
		t.Error("the journal of nobody")
	}
}
