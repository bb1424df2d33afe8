package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// recordingFSM is a state machine at a level that knows of records, which keeps
// older segments in dir.
func recordingFSM(t testing.TB, dir string) *fsm {
	f, err := newFSM([]Registered{things, NewTable[*testpb.Novel]("novels")}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	f.level = recordSince
	f.archive = newArchive(dir, newBinder(&Config{ClusterID: "c", NodeID: "n", Sealer: testseal.New()}))
	return f
}

func recorded(record string, ops ...*raftstorepb.Op) *raftstorepb.Transaction {
	return &raftstorepb.Transaction{Ops: ops, Record: []byte(record)}
}

func logOf(t testing.TB, f *fsm) *auditlog.Reader {
	r, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	return &auditlog.Reader{Log: r.r.view.records(), Segment: f.archive.read}
}

func rootOf(t testing.TB, f *fsm) auditlog.Hash {
	t.Helper()
	r := logOf(t, f)
	h, err := r.Root(r.Log.Size())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestRecordGoesWithItsTransaction: a record is appended where its transaction
// succeeds, and nowhere else.
func TestRecordGoesWithItsTransaction(t *testing.T) {
	f := recordingFSM(t, t.TempDir())
	results := apply(t, f, 5, 100,
		recorded("one", putOp(t, 0, &testpb.Thing{Id: "a", Name: "n"})),
		recorded("refused", putOp(t, 0, &testpb.Thing{Id: "b", Name: "n"})), // the name is taken
		recorded("alone"),
		tx(putOp(t, 0, &testpb.Thing{Id: "c"})),
		recorded(strings.Repeat("x", auditlog.MaxRecordBytes+1), putOp(t, 0, &testpb.Thing{Id: "d"})),
		&raftstorepb.Transaction{Record: []byte("conflict"), Reads: []*raftstorepb.Precondition{{Table: "things", Id: "a", Version: 4}}},
	)
	var dup *DuplicateError
	if results[0] != nil || !errors.As(results[1], &dup) || results[2] != nil || results[3] != nil ||
		!errors.Is(results[4], auditlog.ErrRecord) || !errors.Is(results[5], ErrConflict) {
		t.Fatalf("results %v", results)
	}
	r := logOf(t, f)
	var got []string
	for n := range r.Log.Size() {
		e, err := r.Entry(n)
		if err != nil || e.Index != 5 || e.Clock != 100 {
			t.Fatalf("entry %d is %v, %v", n, e, err)
		}
		got = append(got, string(e.Record))
	}
	if fmt.Sprint(got) != "[one alone]" {
		t.Fatalf("the log has %q", got)
	}
	state, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	if _, there := things.Get(state, "d"); there {
		t.Error("a transaction was done whose record was refused")
	}
}

// TestRecordBeforeItsLevel halts: some manager would not understand it.
func TestRecordBeforeItsLevel(t *testing.T) {
	f := newTestFSM(t)
	data := marshal(t, &raftstorepb.Command{Now: 1, Transactions: []*raftstorepb.Transaction{recorded("r")}})
	if err, ok := f.Apply(&raft.Log{Index: 1, Data: data}).(error); !ok || !strings.Contains(err.Error(), "before the store's level") {
		t.Fatalf("it answers %v", err)
	}
}

// fill appends n records, in entries of a hundred.
func fill(t testing.TB, f *fsm, n int) {
	for n > 0 {
		var txs []*raftstorepb.Transaction
		for range min(n, 100) {
			txs = append(txs, recorded(fmt.Sprint("record ", n)))
			n--
		}
		for _, err := range apply(t, f, f.index+1, int64(f.index), txs...) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestLogInSnapshot: a state machine that begins with a snapshot has the same
// root, goes on the same, and says which entries it lacks.
func TestLogInSnapshot(t *testing.T) {
	f, g := recordingFSM(t, t.TempDir()), recordingFSM(t, t.TempDir())
	fill(t, f, 5*auditlog.SegmentEntries+9)
	r, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := writeSnapshot(&buf, f.order, &r.r); err != nil {
		t.Fatal(err)
	}
	if err := g.Restore(io.NopCloser(bytes.NewReader(buf.Bytes()))); err != nil {
		t.Fatal(err)
	}
	fill(t, f, auditlog.SegmentEntries)
	fill(t, g, auditlog.SegmentEntries)
	if rootOf(t, f) != rootOf(t, g) {
		t.Fatal("the roots differ")
	}
	if err := logOf(t, f).Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if err := logOf(t, g).Verify(t.Context(), nil); !errors.As(err, &missing) || missing.Segment != 0 {
		t.Fatalf("what it lacks: %v", err)
	}
	for i := range buf.Len() { // whatever is changed is found, or is no part of the log
		if i%997 != 0 {
			continue
		}
		b := bytes.Clone(buf.Bytes())
		b[i] ^= 4
		h := recordingFSM(t, t.TempDir())
		if h.Restore(io.NopCloser(bytes.NewReader(b))) == nil && h.state.audit.Size() > 0 {
			fill(t, h, auditlog.SegmentEntries)
			if rootOf(t, h) != rootOf(t, f) && h.clock == f.clock {
				t.Fatalf("byte %d was changed and another log restored", i)
			}
		}
	}
}

// TestSegmentOnDisk changes files: each is found and named.
func TestSegmentOnDisk(t *testing.T) {
	dir := t.TempDir()
	f := recordingFSM(t, dir)
	fill(t, f, 6*auditlog.SegmentEntries)
	path := filepath.Join(dir, "0000000000000002")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(whole, []byte("record ")) {
		t.Error("a segment lies on the disk in clear")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("it has mode %v, %v", info.Mode(), err)
	}
	other, err := os.ReadFile(filepath.Join(dir, "0000000000000001"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for what, content := range map[string][]byte{"flipped": flipped, "cut": whole[:len(whole)-1], "empty": {}, "exchanged": other} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := logOf(t, f).Verify(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "segment 2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// By hand, with the key.
	s, err := f.archive.open(1, f.state.audit.Roots()[1], auditlog.Decode)
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Replace(s.Encode(), s.Entries[3].Record, bytes.Repeat([]byte("y"), len(s.Entries[3].Record)), 1)
	if err := f.archive.writeSealed(1, plain); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	var bad *auditlog.BadError
	if err := logOf(t, f).Verify(t.Context(), nil); !errors.As(err, &bad) || bad.Entry != 1027 {
		t.Errorf("an entry changed by hand: %v", err)
	}
}

// TestSegmentsAreWrittenAhead: a segment that is full is offered to be written, and one
// that was is not written again when it leaves; one that was not, or was written as
// another, is.
func TestSegmentsAreWrittenAhead(t *testing.T) {
	dir := t.TempDir()
	f := recordingFSM(t, dir)
	index := uint64(10)
	fill := func() {
		t.Helper()
		for range auditlog.SegmentEntries {
			index++
			for _, err := range apply(t, f, index, int64(index), recorded("record")) {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	fill()
	f.archive.writeAhead(<-f.archive.full)
	fill()
	f.archive.writeAhead(<-f.archive.full)
	f.archive.mu.Lock()
	f.archive.written[1] = auditlog.Hash{1} // as of before a snapshot
	f.archive.mu.Unlock()
	before := modified(t, f.archive.path(0))
	if err := os.Remove(f.archive.path(1)); err != nil {
		t.Fatal(err)
	}
	fill() // the first leaves
	fill() // the second leaves
	fill() // the third leaves, which nobody wrote
	if !modified(t, f.archive.path(0)).Equal(before) {
		t.Error("what was written ahead was written again")
	}
	if err := logOf(t, f).Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if len(f.archive.written) > 0 {
		t.Errorf("%d segments are remembered that have left", len(f.archive.written))
	}
}

// TestDroppedStaysDropped: the log is applied again from before segments were dropped, and
// whoever still writes one of them then leaves no file.
func TestDroppedStaysDropped(t *testing.T) {
	f := recordingFSM(t, t.TempDir())
	index := uint64(10)
	if err := f.archive.drop(1); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		for range auditlog.SegmentEntries {
			index++
			for _, err := range apply(t, f, index, int64(index), recorded("record")) {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		f.archive.writeAhead(<-f.archive.full)
	}
	if f.archive.has(0) || !f.archive.has(1) {
		t.Errorf("the first segment has a file: %t; the second: %t", f.archive.has(0), f.archive.has(1))
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// TestNoSegmentNoGoingOn: where a segment cannot be kept, the manager stops, and
// nothing of the entry is done.
func TestNoSegmentNoGoingOn(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := recordingFSM(t, blocked)
	fill(t, f, 3*auditlog.SegmentEntries-1)
	index := f.index
	data := marshal(t, &raftstorepb.Command{Transactions: []*raftstorepb.Transaction{recorded("last", putOp(t, 0, &testpb.Thing{Id: "x"}))}})
	if err, ok := f.Apply(&raft.Log{Index: index + 1, Data: data}).(error); !ok || !errors.Is(err, errArchive) {
		t.Fatalf("it answers %v", err)
	}
	if f.index != index || f.halted == nil {
		t.Error("it goes on")
	}
}

// BenchmarkRecords appends records of 300 bytes, 64 an entry, each with a write.
//
//	go test -run NONE -bench Records ./raftstore/
func BenchmarkRecords(b *testing.B) {
	f := recordingFSM(b, b.TempDir())
	record := bytes.Repeat([]byte("x"), 300)
	version := uint64(0)
	for b.Loop() {
		c := &raftstorepb.Command{Now: 1}
		for i := range 64 {
			t := &raftstorepb.Transaction{Record: record}
			if i == 0 {
				t.Ops = append(t.Ops, putOp(b, version, &testpb.Thing{Id: "a"}))
			}
			c.Transactions = append(c.Transactions, t)
		}
		data, err := proto.Marshal(c)
		if err != nil {
			b.Fatal(err)
		}
		version = f.index + 1
		if _, ok := f.Apply(&raft.Log{Index: version, Data: data}).([]error); !ok {
			b.Fatal(f.halted)
		}
	}
	b.ReportMetric(float64(64*b.N)/b.Elapsed().Seconds(), "records/s")
}
