package auditlog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

func entry(i int) Entry {
	return Entry{Index: uint64(i/3 + 1), Clock: int64(i) * 1e6, Record: []byte(fmt.Sprint("record ", i))}
}

// grown appends n entries and takes out of the log what may leave it.
func grown(t testing.TB, n int, kept map[uint64][]byte) Log {
	var l Log
	var err error
	for i := range n {
		if l, err = l.Append(entry(i)); err != nil {
			t.Fatal(err)
		}
		if s, more := l.Oldest(2); more {
			kept[s.Number] = s.Encode()
			l = l.Without()
		}
	}
	return l
}

func reader(l Log, kept map[uint64][]byte) *Reader {
	return &Reader{Log: l, Segment: func(n uint64, want Hash) (Segment, error) { return Open(kept[n], n, want) }}
}

// TestTreeIsTlogs holds roots and proofs against tlog's own storage of hashes.
func TestTreeIsTlogs(t *testing.T) {
	const n = 5*SegmentEntries + 77
	kept := map[uint64][]byte{}
	r := reader(grown(t, n, kept), kept)
	if r.Log.Size() != n || len(kept) != 3 {
		t.Fatalf("%d entries, %d segments kept", r.Log.Size(), len(kept))
	}
	var stored []tlog.Hash
	plain := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
		for _, i := range at {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i := range n {
		h, err := tlog.StoredHashes(int64(i), entry(i).AppendLeaf(nil), plain)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, h...)
	}
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Uint64Range(1, n).Draw(rt, "size")
		at := rapid.Uint64Range(0, size-1).Draw(rt, "entry")
		want, err := tlog.TreeHash(int64(size), plain)
		if got, gerr := r.Root(size); err != nil || gerr != nil || got != want {
			rt.Fatalf("the root of %d is %v, %v, want %v, %v", size, got, gerr, want, err)
		}
		e, err := r.Entry(at)
		if err != nil || !bytes.Equal(e.Record, entry(int(at)).Record) {
			rt.Fatalf("entry %d is %v, %v", at, e, err)
		}
		p, err := r.Prove(at, size)
		if err == nil {
			err = tlog.CheckRecord(p, int64(size), want, int64(at), e.Hash())
		}
		if err != nil {
			rt.Fatalf("entry %d of %d: %v", at, size, err)
		}
		before, err := r.Root(at + 1)
		if err != nil {
			rt.Fatal(err)
		}
		tp, err := r.ProveTree(at+1, size)
		if err == nil {
			err = tlog.CheckTree(tp, int64(size), want, int64(at+1), before)
		}
		if err != nil {
			rt.Fatalf("%d in %d: %v", at+1, size, err)
		}
	})
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, at := range []uint64{n, n + 1, 1 << 60} {
		if _, err := r.Entry(at); !errors.Is(err, errRange) {
			t.Errorf("entry %d of %d: %v", at, n, err)
		}
		if _, err := r.Prove(at, n); !errors.Is(err, errRange) {
			t.Errorf("proof of %d of %d: %v", at, n, err)
		}
	}
}

// TestSegmentIsJudged changes what is kept: bits, length, order, number.
func TestSegmentIsJudged(t *testing.T) {
	kept := map[uint64][]byte{}
	l := grown(t, 4*SegmentEntries, kept)
	whole := kept[1]
	if s, err := Decode(whole, 1, l.Roots()[1]); err != nil || !bytes.Equal(s.Encode(), whole) {
		t.Fatal(err)
	}
	var bad *BadError
	changed := func(at int) []byte { b := slices.Clone(whole); b[at] ^= 1; return b }
	if _, err := Decode(changed(16+entryHeadBytes), 1, l.Roots()[1]); err == nil {
		t.Error("a changed record is taken")
	}
	record := bytes.Index(whole, []byte("record 1030")) // the seventh of the segment
	if _, err := Decode(changed(record), 1, l.Roots()[1]); !errors.As(err, &bad) || bad.Entry != 1030 {
		t.Errorf("a changed record 1030: %v", err)
	}
	// By somebody who knows how: with the leaf's hash.
	forged, err := Decode(whole, 1, l.Roots()[1])
	if err != nil {
		t.Fatal(err)
	}
	forged.Entries[6].Record, forged.nodes = []byte("nothing happened"), nil
	if _, err := Decode(forged.Encode(), 1, l.Roots()[1]); !errors.As(err, &bad) || bad.Entry >= 0 || !strings.Contains(err.Error(), "entries 1024 to 2047") {
		t.Errorf("a forged segment: %v", err)
	}
	forged.Entries[6], forged.Entries[7] = entry(1031), entry(1030)
	if _, err := Decode(forged.Encode(), 1, l.Roots()[1]); err == nil {
		t.Error("entries in another order are taken")
	}
	if _, err := Decode(whole, 0, l.Roots()[0]); err == nil {
		t.Error("a segment is taken in another's place")
	}
	for cut := range len(whole) {
		if cut%97 == 0 {
			if _, err := Decode(whole[:cut], 1, l.Roots()[1]); err == nil {
				t.Fatalf("%d bytes of a segment are taken", cut)
			}
		}
	}
	if _, err := Decode(append(slices.Clone(whole), 0), 1, l.Roots()[1]); err == nil {
		t.Error("a byte more is taken")
	}
	kept[1] = changed(record)
	if err := reader(l, kept).Verify(t.Context(), nil); !errors.As(err, &bad) || bad.Entry != 1030 {
		t.Errorf("Verify: %v", err)
	}
}

// TestEntryIsHeld: of a segment that was opened, an entry is held against its leaf as
// it is read, and all of them where all are.
func TestEntryIsHeld(t *testing.T) {
	kept := map[uint64][]byte{}
	l := grown(t, 4*SegmentEntries, kept)
	kept[1][bytes.Index(kept[1], []byte("record 1030"))] ^= 1
	r := reader(l, kept)
	var bad *BadError
	if _, err := r.Entry(1030); !errors.As(err, &bad) || bad.Entry != 1030 {
		t.Errorf("a changed record: %v", err)
	}
	e, err := r.Entry(1031)
	if err != nil || string(e.Record) != "record 1031" {
		t.Errorf("the one beside it: %v, %v", e, err)
	}
	p, err := r.Prove(1031, l.Size())
	if err != nil || tlog.CheckRecord(p, int64(l.Size()), root1(t, l), 1031, e.Hash()) != nil {
		t.Errorf("it is not proved: %v", err)
	}
	if _, err := r.FullSegment(1); !errors.As(err, &bad) || bad.Entry != 1030 {
		t.Errorf("the segment goes to others: %v", err)
	}
	// What is in memory is judged, too.
	kept = map[uint64][]byte{}
	l = grown(t, 4*SegmentEntries, kept)
	l.kept[0].Entries = slices.Clone(l.kept[0].Entries)
	l.kept[0].Entries[3].Clock++
	if err := reader(l, kept).Verify(t.Context(), nil); err == nil {
		t.Error("a changed entry in memory is not found")
	}
	l = grown(t, 5, nil)
	l.open[2].Clock++
	if err := reader(l, nil).Verify(t.Context(), nil); !errors.As(err, &bad) || bad.Entry != 2 {
		t.Errorf("a changed entry of the segment that is not full: %v", err)
	}
}

// TestAppendLeavesOthers appends to one log twice.
func TestAppendLeavesOthers(t *testing.T) {
	a := grown(t, 10, nil)
	b, err := a.Append(entry(10))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Append(entry(99))
	if err != nil {
		t.Fatal(err)
	}
	ra, rb, rc := root1(t, a), root1(t, b), root1(t, c)
	if ra == rb || rb == rc || ra != root1(t, grown(t, 10, nil)) || rb != root1(t, grown(t, 11, nil)) {
		t.Error("a log was changed by what was appended to another")
	}
	for _, r := range [][]byte{nil, {}, make([]byte, MaxRecordBytes+1)} {
		if _, err := a.Append(Entry{Record: r}); !errors.Is(err, ErrRecord) {
			t.Errorf("a record of %d bytes: %v", len(r), err)
		}
	}
	full := Log{over: tree{make([]Hash, MaxEntries/SegmentEntries)}}
	if _, err := full.Append(entry(1)); !errors.Is(err, ErrFull) {
		t.Errorf("a full log: %v", err)
	}
}

func root1(t *testing.T, l Log) Hash {
	t.Helper()
	h, err := (&Reader{Log: l}).Root(l.Size())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestRestored(t *testing.T) {
	kept := map[uint64][]byte{}
	l := grown(t, 4*SegmentEntries+5, kept)
	var entries []Entry
	for _, s := range l.Kept() {
		entries = append(entries, s.Entries...)
	}
	entries = append(entries, l.Open()...)
	again, err := Restored(l.Roots(), entries)
	if err != nil || root1(t, again) != root1(t, l) || again.Size() != l.Size() {
		t.Fatalf("%v", err)
	}
	entries[3].Clock++
	if _, err := Restored(l.Roots(), entries); err == nil {
		t.Error("an entry that was changed is taken")
	}
	if _, err := Restored(l.Roots()[:1], entries); err == nil {
		t.Error("more segments than roots are taken")
	}
}

func FuzzDecode(f *testing.F) {
	kept := map[uint64][]byte{}
	l := grown(f, 3*SegmentEntries, kept)
	f.Add(kept[0])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Decode(b, 0, l.Roots()[0]); err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one segment")
		}
	})
}

// BenchmarkAppend, BenchmarkProve and BenchmarkVerify have records of 300 bytes.
//
//	go test -run NONE -bench . ./raftstore/auditlog
func BenchmarkAppend(b *testing.B) {
	var l Log
	record := bytes.Repeat([]byte("x"), 300)
	for i := range b.N {
		l, _ = l.Append(Entry{Index: uint64(i), Clock: int64(i), Record: record})
		if _, more := l.Oldest(2); more {
			l = l.Without()
		}
	}
}

func million(b *testing.B) (Log, map[uint64][]byte) {
	kept := map[uint64][]byte{}
	var l Log
	record := bytes.Repeat([]byte("x"), 300)
	for i := range 1_000_000 {
		l, _ = l.Append(Entry{Index: uint64(i), Clock: int64(i), Record: record})
		if s, more := l.Oldest(2); more {
			kept[s.Number], l = s.Encode(), l.Without()
		}
	}
	b.ResetTimer()
	return l, kept
}

func BenchmarkProve(b *testing.B) {
	l, kept := million(b)
	before := processorTime(b)
	for i := range b.N {
		if _, err := reader(l, kept).Prove(uint64(i)*7919%1_000_000, l.Size()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// processorTime is what this process has used up to now, whatever else the machine
// does.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkVerify(b *testing.B) {
	l, kept := million(b)
	for range b.N {
		if err := reader(l, kept).Verify(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLeaves: they are tlog's.
func TestLeaves(t *testing.T) {
	for i, h := range leaves([]Entry{entry(0), entry(1)}) {
		if h != tlog.RecordHash(entry(i).AppendLeaf(nil)) || h != entry(i).Hash() {
			t.Errorf("the hash of entry %d is %v", i, h)
		}
	}
}
