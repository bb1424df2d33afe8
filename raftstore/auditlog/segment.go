package auditlog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Segment is a full one: the entries from Number × SegmentEntries on.
type Segment struct {
	Number  uint64
	Entries []Entry

	nodes tree // over the entries, where they were hashed already
	// unheld: the nodes are those of the log, and whether the entries are theirs was
	// not looked at.
	unheld bool
}

// Root is the segment's node of the tree.
func (s Segment) Root() Hash { return s.tree().root() }

func (s Segment) tree() tree {
	if s.nodes != nil {
		return s.nodes
	}
	return treeOf(leaves(s.Entries))
}

// leaves are tlog.RecordHash of each entry, hashed in one buffer.
func leaves(entries []Entry) []Hash {
	out := make([]Hash, len(entries))
	var b []byte
	for i, e := range entries {
		b = e.AppendLeaf(append(b[:0], leafPrefix))
		out[i] = sha256.Sum256(b)
	}
	return out
}

// leafPrefix tells leaves from nodes: RFC 6962, section 2.1.
const leafPrefix = 0

// Encode is the segment as it is kept: each entry as index, clock, the record's
// length in four bytes, big-endian, and the record; then the hashes of all
// leaves, by which an entry that was changed is told from those beside it.
func (s Segment) Encode() []byte {
	size := len(s.Entries) * (entryHeadBytes + len(Hash{}))
	for _, e := range s.Entries {
		size += len(e.Record)
	}
	out := make([]byte, 0, size)
	for _, e := range s.Entries {
		out = binary.BigEndian.AppendUint64(out, e.Index)
		out = binary.BigEndian.AppendUint64(out, uint64(e.Clock))
		out = binary.BigEndian.AppendUint32(out, uint32(len(e.Record)))
		out = append(out, e.Record...)
	}
	h := s.nodes.hashes()
	if h == nil {
		h = leaves(s.Entries)
	}
	for _, h := range h {
		out = append(out, h[:]...)
	}
	return out
}

var errSegment = errors.New("it is no encoding of a segment")

// BadError says which entry is not the one that was appended, or that one of the
// segment's is.
type BadError struct {
	Segment uint64
	// Entry is the first bad one; negative where it cannot be told which.
	Entry int64
}

func (e *BadError) Error() string {
	if e.Entry < 0 {
		return fmt.Sprintf("entries %d to %d are not those that were appended", e.Segment*SegmentEntries, (e.Segment+1)*SegmentEntries-1)
	}
	return fmt.Sprintf("entry %d is not the one that was appended", e.Entry)
}

// Decode returns the segment of that number and root. What is in b is not
// believed: anything else than what was appended is an error, a *BadError where
// the encoding is one of a segment.
func Decode(b []byte, number uint64, want Hash) (Segment, error) {
	s, err := Open(b, number, want)
	if err == nil {
		err = s.hold()
	}
	if err != nil {
		return Segment{}, err
	}
	return s, nil
}

// hold holds all entries against the nodes over them.
func (s *Segment) hold() error {
	for i, h := range leaves(s.Entries) {
		if h != s.nodes[0][i] {
			return s.bad(i)
		}
	}
	s.unheld = false
	return nil
}

// entry is the i-th, held against its leaf.
func (s *Segment) entry(i uint64) (Entry, error) {
	e := s.Entries[i]
	if s.unheld && e.Hash() != s.nodes[0][i] {
		return Entry{}, s.bad(int(i))
	}
	return e, nil
}

func (s *Segment) bad(i int) error {
	return &BadError{s.Number, int64(s.Number)*SegmentEntries + int64(i)}
}

// Parse is Decode where no root is known yet: entries and hashes belong together, and
// are the log's where the root is.
func Parse(b []byte, number uint64) (Segment, error) {
	s, err := parse(b, number)
	if err == nil {
		err = s.hold()
	}
	if err != nil {
		return Segment{}, err
	}
	return s, nil
}

// Open is Decode for a Reader, which is asked for one entry or none: the hashes of
// all leaves, as b has them, are those of the log, and each entry is held against its
// own as it is read.
func Open(b []byte, number uint64, want Hash) (Segment, error) {
	s, err := parse(b, number)
	if err != nil {
		return Segment{}, err
	}
	if s.nodes.root() != want {
		if treeOf(leaves(s.Entries)).root() == want { // the entries are, their hashes are not
			return Segment{}, errSegment
		}
		return Segment{}, &BadError{number, -1}
	}
	return s, nil
}

// parse reads an encoding; whether its parts belong together is not looked at.
func parse(b []byte, number uint64) (Segment, error) {
	s := Segment{Number: number, Entries: make([]Entry, SegmentEntries), unheld: true}
	for i := range s.Entries {
		if len(b) < entryHeadBytes {
			return Segment{}, errSegment
		}
		e := Entry{Index: binary.BigEndian.Uint64(b), Clock: int64(binary.BigEndian.Uint64(b[8:]))}
		n := binary.BigEndian.Uint32(b[16:])
		if b = b[entryHeadBytes:]; n == 0 || n > MaxRecordBytes || int(n) > len(b) {
			return Segment{}, errSegment
		}
		e.Record, b = b[:n:n], b[n:]
		s.Entries[i] = e
	}
	if len(b) != SegmentEntries*len(Hash{}) {
		return Segment{}, errSegment
	}
	said := make([]Hash, SegmentEntries)
	for i := range said {
		copy(said[i][:], b[i*len(Hash{}):])
	}
	s.nodes = treeOf(said)
	return s, nil
}
