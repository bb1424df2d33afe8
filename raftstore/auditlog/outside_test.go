package auditlog

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// TestOutside: a segment that was taken out of the log, with what leads from it to a
// root, proves itself and each of its entries in that tree, and nothing else.
func TestOutside(t *testing.T) {
	kept := map[uint64][]byte{}
	r := reader(grown(t, 9*SegmentEntries+77, kept), kept)
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Uint64Range(0, r.Log.Segments()-1).Draw(rt, "segment")
		size := rapid.Uint64Range((n+1)*SegmentEntries, r.Log.Size()).Draw(rt, "size")
		root, err := r.Root(size)
		if err != nil {
			rt.Fatal(err)
		}
		any := n*SegmentEntries + rapid.Uint64Range(0, SegmentEntries-1).Draw(rt, "entry")
		whole, err := r.Prove(any, size)
		if err != nil {
			rt.Fatal(err)
		}
		above, err := Above(whole)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := r.FullSegment(n)
		if err != nil {
			rt.Fatal(err)
		}
		s, err := Parse(got.Encode(), n)
		if err != nil {
			rt.Fatal(err)
		}
		if err := s.In(size, root, above); err != nil {
			rt.Fatal(err)
		}
		at := n*SegmentEntries + rapid.Uint64Range(0, SegmentEntries-1).Draw(rt, "another entry")
		if err := tlog.CheckRecord(s.Proof(at, above), int64(size), root, int64(at), entry(int(at)).Hash()); err != nil {
			rt.Fatalf("entry %d: %v", at, err)
		}
		for what, err := range map[string]error{
			"another root":   s.In(size, Hash{1}, above),
			"a smaller tree": s.In((n+1)*SegmentEntries-1, root, above),
			"no tree":        s.In(1<<62, root, above),
			"another place":  Segment{Number: n + 1, Entries: s.Entries}.In(size, root, above),
			"far away":       Segment{Number: 1 << 60, Entries: s.Entries}.In(size, root, above),
		} {
			if err == nil {
				rt.Errorf("%s: it is in it", what)
			}
		}
		b := got.Encode()
		b[rapid.IntRange(0, len(b)-1).Draw(rt, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		if s, err := Parse(b, n); err == nil && s.In(size, root, above) == nil {
			rt.Error("a changed segment is in it")
		}
	})
	if _, err := Above(make(tlog.RecordProof, segmentLevel-1)); err == nil {
		t.Error("less than a segment has by itself is a proof of it")
	}
	a, b := Hash{1}, Hash{2}
	if Digest(0, []Hash{a, b}) == Digest(0, []Hash{b, a}) || Digest(0, []Hash{a}) == Digest(1, []Hash{a}) || Digest(0, []Hash{a}) == Digest(0, []Hash{a, b}) {
		t.Error("different segments have one digest")
	}
}
