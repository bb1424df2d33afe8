// Package auditlog is the log of records that nothing can be taken out of or
// changed in without its root changing: a Merkle tree as of RFC 6962, over
// entries of opaque bytes.
//
// # What it owns
//
// A Log, which is a value: the roots of all full segments of 1,024 entries, the
// entries of the newest ones, and those of the one that is not full. It is what the
// replicated state machine has; older entries are elsewhere, and what a Log has
// of them is enough to tell whether they are the ones. A segment is a whole
// subtree, so its root is a node of the tree, and every proof is put together
// from these roots and the entries of one segment. A Reader does that, and reads
// older entries from whoever keeps them. Hashes and proofs are those of
// golang.org/x/mod/sumdb/tlog.
//
// # What it refuses
//
// It opens no file, knows no key and does not look into a record. Nothing is
// ever removed: a Log that is full refuses.
package auditlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a node of the tree.
type Hash = tlog.Hash

// Entry is one record, with the entry of the replicated log that brought it and
// the cluster's clock then, in unix nanoseconds. It does not change.
type Entry struct {
	Index  uint64
	Clock  int64
	Record []byte
}

// AppendLeaf appends what is hashed: index and clock, eight bytes each and
// big-endian, and then the record.
func (e Entry) AppendLeaf(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, e.Index)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Clock))
	return append(b, e.Record...)
}

// Hash is the leaf's.
func (e Entry) Hash() Hash { return tlog.RecordHash(e.AppendLeaf(make([]byte, 0, 16+len(e.Record)))) }

var (
	// ErrFull: there is no room for another entry.
	ErrFull = fmt.Errorf("the audit log is full: it has room for %d entries", int64(MaxEntries))
	// ErrRecord: the record is empty or too large.
	ErrRecord = fmt.Errorf("a record of the audit log has 1 to %d bytes", MaxRecordBytes)
)

// Log is the log at some length. It does not change: Append gives another. The
// zero Log is empty.
type Log struct {
	over   tree      // the roots of all full segments, and the nodes over them
	kept   []Segment // the newest of those, in order
	open   []Entry   // of the segment that is not full
	leaves []Hash    // of those
	tail   *int      // how much of the arrays of both is in use, by whichever Log
}

// Size is how many entries there are.
func (l Log) Size() uint64 { return uint64(len(l.over.hashes()))*SegmentEntries + uint64(len(l.open)) }

// Segments is how many of them are full.
func (l Log) Segments() uint64 { return uint64(len(l.over.hashes())) }

// Kept are the newest full segments, as far as their entries are here.
func (l Log) Kept() []Segment { return slices.Clip(l.kept) }

// Open are the entries of the segment that is not full.
func (l Log) Open() []Entry { return slices.Clip(l.open) }

// Roots are those of all full segments.
func (l Log) Roots() []Hash { return slices.Clip(l.over.hashes()) }

// Check says why an entry with that record could not be appended.
func (l Log) Check(record []byte) error {
	switch {
	case len(record) == 0 || len(record) > MaxRecordBytes:
		return ErrRecord
	case l.Size() >= MaxEntries:
		return ErrFull
	}
	return nil
}

// Append returns the log with one more entry, which it keeps. It is for one
// goroutine at a time; what was read from l stays as it is.
func (l Log) Append(e Entry) (Log, error) {
	if err := l.Check(e.Record); err != nil {
		return l, err
	}
	if l.tail == nil || *l.tail != len(l.open) { // somebody appended to the same Log
		l.open, l.leaves, l.tail = slices.Clone(l.open), slices.Clone(l.leaves), new(int)
	}
	l.open, l.leaves = append(l.open, e), append(l.leaves, e.Hash())
	if *l.tail = len(l.open); len(l.open) < SegmentEntries {
		return l, nil
	}
	s := Segment{Number: l.Segments(), Entries: l.open, nodes: treeOf(l.leaves)}
	l.over = l.over.with(s.Root())
	l.kept = append(slices.Clip(l.kept), s)
	l.open, l.leaves, l.tail = nil, nil, nil
	return l, nil
}

// Oldest is the oldest segment whose entries are here and need not be: newest
// others, full ones, are here as well.
func (l Log) Oldest(newest int) (Segment, bool) {
	if len(l.kept) <= newest {
		return Segment{}, false
	}
	return l.kept[0], true
}

// Without returns the log without the entries of its oldest segment.
func (l Log) Without() Log {
	l.kept = l.kept[1:]
	return l
}

// Restored is the log of these parts, of which nothing is believed: what is
// here must have the root that it is said to have.
func Restored(roots []Hash, entries []Entry) (Log, error) {
	full, open := len(entries)/SegmentEntries, len(entries)%SegmentEntries
	if full > len(roots) {
		return Log{}, errors.New("there are entries of more segments than there are roots")
	}
	l := Log{over: treeOf(slices.Clone(roots))}
	for i := range full {
		s := Segment{Number: uint64(len(roots) - full + i), Entries: slices.Clone(entries[i*SegmentEntries : (i+1)*SegmentEntries])}
		if s.nodes = s.tree(); s.Root() != roots[s.Number] {
			return Log{}, fmt.Errorf("the entries of segment %d have another root", s.Number)
		}
		l.kept = append(l.kept, s)
	}
	for _, e := range entries[len(entries)-open:] {
		var err error
		if l, err = l.Append(e); err != nil {
			return Log{}, err
		}
	}
	return l, nil
}
