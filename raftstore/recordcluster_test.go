package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// record appends n records, many at a time.
func record(t testing.TB, s *raftstore.Store, prefix string, n int) {
	t.Helper()
	ctx := waitContext(t)
	work := make(chan int)
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			for i := range work {
				if err := s.Update(ctx, func(tx *raftstore.Tx) error { return tx.Record(fmt.Append(nil, prefix, i)) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}

func rootAt(t testing.TB, s *raftstore.Store, size uint64) auditlog.Hash {
	t.Helper()
	r, err := s.Records()
	if err != nil {
		t.Fatal(err)
	}
	h, err := r.Root(size)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func sizeOf(t testing.TB, s *raftstore.Store) uint64 {
	t.Helper()
	r, err := s.Records()
	if err != nil {
		t.Fatal(err)
	}
	return r.Log.Size()
}

// TestRecorder: whatever an Update under its context writes has a record, with
// what was there before; what writes nothing has none, nor what fails.
func TestRecorder(t *testing.T) {
	m := openMemberOn(t, on(t, "a", later), t.TempDir(), raftstoretest.NewSealer())
	m.bootstrap(t)
	put(t, m.Store, &testpb.Thing{Id: "x", Name: "before"})
	put(t, m.Store, &testpb.Thing{Id: "gone"})
	if n := sizeOf(t, m.Store); n != 0 {
		t.Fatalf("%d records of nobody", n)
	}
	ctx := raftstore.WithRecorder(waitContext(t), func(tx *raftstore.Tx) (out []byte, err error) {
		for c := range tx.Changes() {
			old, _ := c.Old.(*testpb.Thing)
			now, _ := c.New.(*testpb.Thing)
			out = fmt.Appendf(out, "%s/%s:%s>%s;", c.Table, c.ID, old.GetName(), now.GetName())
		}
		return out, nil
	})
	refused := errors.New("refused")
	for _, fn := range []func(tx *raftstore.Tx) error{
		func(tx *raftstore.Tx) error { things.Get(tx, "x"); return nil },
		func(tx *raftstore.Tx) error { return errors.Join(things.Put(tx, &testpb.Thing{Id: "z"}), refused) },
		func(tx *raftstore.Tx) error {
			return errors.Join(things.Put(tx, &testpb.Thing{Id: "z"}), things.Delete(tx, "z"))
		},
	} {
		if err := m.Update(ctx, fn); err != nil && !errors.Is(err, refused) {
			t.Fatal(err)
		}
	}
	if n := sizeOf(t, m.Store); n != 0 {
		t.Fatalf("%d records of nothing", n)
	}
	if err := m.Update(ctx, func(tx *raftstore.Tx) error {
		x, _ := things.Get(tx, "x")
		return errors.Join(
			things.Put(tx, &testpb.Thing{Meta: x.GetMeta(), Id: "x", Name: "after"}),
			things.Put(tx, &testpb.Thing{Id: "new", Name: "made"}),
			things.Delete(tx, "gone"))
	}); err != nil {
		t.Fatal(err)
	}
	r, err := m.Records()
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Entry(0)
	if want := "things/x:before>after;things/new:>made;things/gone:>;"; err != nil || string(e.Record) != want || r.Log.Size() != 1 {
		t.Fatalf("the record is %q of %d, %v; want %q", e.Record, r.Log.Size(), err, want)
	}
	failing := raftstore.WithRecorder(waitContext(t), func(*raftstore.Tx) ([]byte, error) { return nil, refused })
	if err := m.Update(failing, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "unseen"}) }); !errors.Is(err, refused) {
		t.Fatalf("a change without its record: %v", err)
	}
	large := raftstore.WithRecorder(waitContext(t), func(*raftstore.Tx) ([]byte, error) { return make([]byte, auditlog.MaxRecordBytes+1), nil })
	if err := m.Update(large, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "unseen"}) }); !errors.Is(err, auditlog.ErrRecord) {
		t.Fatalf("a change with a record that is too large: %v", err)
	}
	_ = m.View(func(r *raftstore.ReadTx) error {
		if _, there := things.Get(r, "unseen"); there {
			t.Error("a change was made without its record")
		}
		return nil
	})
}

// TestNoRecordsBeforeTheirLevel: a version before knows of none, and its cluster
// goes on.
func TestNoRecordsBeforeTheirLevel(t *testing.T) {
	m := openMemberOn(t, on(t, "a", older), t.TempDir(), raftstoretest.NewSealer())
	m.bootstrap(t)
	ctx := raftstore.WithRecorder(waitContext(t), func(*raftstore.Tx) ([]byte, error) { return []byte("r"), nil })
	if err := m.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "x"}) }); err != nil {
		t.Fatal(err)
	}
	var level *raftstore.LevelError
	if err := m.Update(ctx, func(tx *raftstore.Tx) error { return tx.Record([]byte("r")) }); !errors.As(err, &level) || sizeOf(t, m.Store) != 0 {
		t.Fatalf("a record alone: %v", err)
	}
}

// TestManagersHaveOneRoot: three managers, one of which comes late, by a snapshot,
// and gets what it lacks from another.
func TestManagersHaveOneRoot(t *testing.T) {
	ctx := waitContext(t)
	all := newClusterOn(t, on(t, "a", later), on(t, "b", later))
	a, b := all[0], all[1]
	raised(t, a)
	const n = 4*auditlog.SegmentEntries + 100
	record(t, a.Store, "r", n)
	if err := a.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	late := openMemberOn(t, on(t, "late", later), t.TempDir(), raftstoretest.NewSealer(), "a", "b")
	if err := a.AddNonvoter(ctx, late.id, late.hostport()); err != nil {
		t.Fatal(err)
	}
	put(t, a.Store, &testpb.Thing{Id: "last"})
	waitFor(t, b, "last")
	waitFor(t, late, "last")
	if want := rootAt(t, a.Store, n); rootAt(t, b.Store, n) != want || rootAt(t, late.Store, n) != want {
		t.Fatal("the managers have different roots")
	}
	verify(t, a.Store)
	verify(t, b.Store)

	lacks, err := late.MissingRecords(0)
	if err != nil || len(lacks) != 2 {
		t.Fatalf("the late one lacks %v, %v", lacks, err)
	}
	var missing *raftstore.MissingError
	r, err := late.Records()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(ctx, nil); !errors.As(err, &missing) {
		t.Fatalf("it verifies what it lacks: %v", err)
	}
	from, err := a.Records()
	if err != nil {
		t.Fatal(err)
	}
	for _, segment := range lacks {
		s, err := from.Segment(segment, from.Log.Roots()[segment])
		if err != nil {
			t.Fatal(err)
		}
		forged := auditlog.Segment{Number: s.Number, Entries: append([]auditlog.Entry{{Index: 1, Record: []byte("forged")}}, s.Entries[1:]...)}
		if err := late.KeepRecords(segment, forged.Encode()); err == nil {
			t.Fatal("it takes a forged segment")
		}
		if err := late.KeepRecords(segment, s.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, late.Store)
}

// TestAwaitRecords: a record alone, which changes no table, is waited for at a follower
// as well, and no longer than it takes.
func TestAwaitRecords(t *testing.T) {
	ctx := waitContext(t)
	all := newClusterOn(t, on(t, "a", later), on(t, "b", later))
	a, b := all[0], all[1]
	raised(t, a)
	for i := range uint64(20) {
		heard := make(chan error, 1)
		go func() { heard <- b.AwaitRecords(ctx, i+1) }()
		if err := a.Update(ctx, func(tx *raftstore.Tx) error { return tx.Record([]byte("alone")) }); err != nil {
			t.Fatal(err)
		}
		if err := <-heard; err != nil || sizeOf(t, b.Store) != i+1 {
			t.Fatalf("after %d records: %v", i+1, err)
		}
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.AwaitRecords(short, 21); !errors.Is(err, context.Canceled) {
		t.Errorf("more than there are: %v", err)
	}
	waits := make(chan error, 1)
	go func() { waits <- b.AwaitRecords(ctx, 21) }()
	closeStore(t, b.Store)
	if err := <-waits; !errors.Is(err, raftstore.ErrClosed) {
		t.Errorf("the store is closed: %v", err)
	}
}

// TestDropRecords: files that are dropped are gone, and not lacking; the newest segments
// are none, what is behind them is to be had, the root is what it was, and who begins
// with a state that dropped them does not want them.
func TestDropRecords(t *testing.T) {
	ctx := waitContext(t)
	s := raftstoretest.New(t, later...)
	const n = 6*auditlog.SegmentEntries + 100
	record(t, s, "r", n)
	root := rootAt(t, s, n)
	has := func(number uint64) error {
		r, err := s.Records()
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Entry(number)
		return err
	}
	lacks := func(from uint64, want int) {
		t.Helper()
		if l, err := s.MissingRecords(from); err != nil || len(l) != want {
			t.Errorf("of those from %d on it lacks %v, %v", from, l, err)
		}
	}
	if err := s.DropRecords(0); err != nil || has(0) != nil {
		t.Fatalf("nothing was dropped: %v", err)
	}
	for range 2 {
		if err := s.DropRecords(3); err != nil {
			t.Fatal(err)
		}
		lacks(3, 0)
		lacks(0, 3)
	}
	if err := has(3*auditlog.SegmentEntries - 1); !errors.Is(err, auditlog.ErrMissing) {
		t.Errorf("a record that was dropped: %v", err)
	}
	if err := has(3 * auditlog.SegmentEntries); err != nil {
		t.Errorf("the one behind it: %v", err)
	}
	if err := s.DropRecords(1000); err != nil {
		t.Fatal(err)
	}
	if err := has(4 * auditlog.SegmentEntries); err != nil || rootAt(t, s, n) != root {
		t.Errorf("what is in the state: %v", err)
	}
	lacks(4, 0)
	var salvaged bytes.Buffer
	if _, err := s.Salvage(ctx, &salvaged); err != nil {
		t.Fatal(err)
	}
	c := importConfig(t, "n", 2)
	c.Tables = later
	if err := raftstore.Import(c, &salvaged, func(d *raftstore.Draft) (raftstore.Position, error) {
		return raftstore.Position{}, d.CopyRecords(s, 4)
	}); err != nil {
		t.Fatal(err)
	}
}

func verify(t testing.TB, s *raftstore.Store) {
	t.Helper()
	r, err := s.Records()
	if err == nil {
		err = r.Verify(context.Background(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSegmentsGetANewKey: they are sealed anew with the rest, and read after
// another start.
func TestSegmentsGetANewKey(t *testing.T) {
	dir, ring := t.TempDir(), testseal.NewRing(1)
	c := rekeyConfig(dir, ring, raftstore.LogWAL)
	c.Tables = later
	s := begun(t, c)
	const n = 5 * auditlog.SegmentEntries
	record(t, s, "r", n)
	root := rootAt(t, s, n)
	ring.Add(2)
	if _, err := s.Rekey(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	ring.Drop(1)
	wantEpochs(t, dir, 2)
	verify(t, s)
	closeStore(t, s)
	c = rekeyConfig(dir, ring, raftstore.LogWAL)
	c.Tables = later
	s = begun(t, c)
	if sizeOf(t, s) != n || rootAt(t, s, n) != root {
		t.Fatal("it is another log after a start")
	}
	verify(t, s)
	closeStore(t, s)
}

// TestRecordsOutliveAnIncarnation: older segments go with a state that is taken over
// from a store, and are missing where they do not.
func TestRecordsOutliveAnIncarnation(t *testing.T) {
	ctx := waitContext(t)
	from := raftstoretest.New(t, later...)
	const n = 5 * auditlog.SegmentEntries
	record(t, from, "r", n)
	root := rootAt(t, from, n)
	var salvaged bytes.Buffer
	if _, err := from.Salvage(ctx, &salvaged); err != nil {
		t.Fatal(err)
	}
	for _, taken := range []bool{true, false} {
		state := bytes.NewReader(salvaged.Bytes())
		c := importConfig(t, "n", 2)
		c.Tables = later
		if err := raftstore.Import(c, state, func(d *raftstore.Draft) (raftstore.Position, error) {
			if taken {
				return raftstore.Position{}, d.CopyRecords(from, 0)
			}
			return raftstore.Position{}, nil
		}); err != nil {
			t.Fatal(err)
		}
		c.Transport.Listener = raftstoretest.NewListener()
		s, err := raftstore.Open(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		raftstoretest.WaitLeader(t, s)
		lacks, err := s.MissingRecords(0)
		if err != nil || len(lacks) > 0 == taken || rootAt(t, s, n) != root {
			t.Errorf("taken over: %v; it lacks %v, %v", taken, lacks, err)
		}
		if taken {
			verify(t, s)
		}
		record(t, s, "after", 3*auditlog.SegmentEntries)
		closeStore(t, s)
	}
}
