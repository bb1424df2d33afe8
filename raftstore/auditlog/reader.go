package auditlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Reader reads a log whose older entries somebody keeps. It belongs to one
// goroutine.
type Reader struct {
	Log Log
	// Segment returns a full segment, whose root must be want: one of Open or Decode.
	// Nil: no older entries are to be had.
	Segment func(number uint64, want Hash) (Segment, error)

	last  *Segment // full, read last
	nodes tree     // over its entries; nil until they are needed
	open  tree     // over those of the segment that is not full; nil likewise
}

var errRange = errors.New("the audit log has no such entry")

// segment returns a full segment, or the one that is not full.
func (r *Reader) segment(n uint64) (*Segment, error) {
	full := r.Log.Segments()
	switch first := full - uint64(len(r.Log.kept)); {
	case r.last != nil && r.last.Number == n:
		return r.last, nil
	case n > full:
		return nil, errRange
	case n == full:
		return &Segment{Number: n, Entries: r.Log.open}, nil
	case n >= first:
		r.last = &r.Log.kept[n-first]
	case r.Segment == nil:
		return nil, fmt.Errorf("the entries of segment %d are not here", n)
	default:
		s, err := r.Segment(n, r.Log.over[0][n])
		if err != nil {
			return nil, err
		}
		r.last = &s
	}
	r.nodes = r.last.nodes
	return r.last, nil
}

// FullSegment returns a full one.
func (r *Reader) FullSegment(n uint64) (Segment, error) {
	if n >= r.Log.Segments() {
		return Segment{}, errRange
	}
	s, err := r.segment(n)
	if err == nil && s.unheld {
		err = s.hold()
	}
	if err != nil {
		return Segment{}, err
	}
	return *s, nil
}

// Entry returns the n-th entry, from 0.
func (r *Reader) Entry(n uint64) (Entry, error) {
	if n >= r.Log.Size() {
		return Entry{}, errRange
	}
	s, err := r.segment(n / SegmentEntries)
	if err != nil {
		return Entry{}, err
	}
	return s.entry(n % SegmentEntries)
}

// ReadHashes implements tlog.HashReader.
func (r *Reader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		h, err := r.node(level, uint64(n))
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}

// node is the n-th whole node of a level.
func (r *Reader) node(level int, n uint64) (Hash, error) {
	if (n+1)<<level > r.Log.Size() {
		return Hash{}, errRange
	}
	if level >= segmentLevel {
		return r.Log.over[level-segmentLevel][n], nil
	}
	each := uint64(SegmentEntries) >> level // nodes of that level in a segment
	if n/each == r.Log.Segments() {
		if r.open == nil {
			r.open = treeOf(r.Log.leaves)
		}
		return r.open[level][n%each], nil
	}
	s, err := r.segment(n / each)
	if err != nil {
		return Hash{}, err
	}
	if r.nodes == nil {
		r.nodes = s.tree()
	}
	return r.nodes[level][n%each], nil
}

// Root is the root of the tree over the first size entries.
func (r *Reader) Root(size uint64) (Hash, error) {
	if size > r.Log.Size() {
		return Hash{}, errRange
	}
	return tlog.TreeHash(int64(size), r)
}

// Prove proves that the n-th entry is in the tree of the first size entries; see
// tlog.CheckRecord.
func (r *Reader) Prove(n, size uint64) (tlog.RecordProof, error) {
	if n >= size || size > r.Log.Size() {
		return nil, errRange
	}
	return tlog.ProveRecord(int64(size), int64(n), r)
}

// ProveTree proves that the tree of size entries begins with that of before; see
// tlog.CheckTree.
func (r *Reader) ProveTree(before, size uint64) (tlog.TreeProof, error) {
	if before == 0 || before > size || size > r.Log.Size() {
		return nil, errRange
	}
	return tlog.ProveTree(int64(size), int64(before), r)
}

// ErrMissing is what an error of Reader.Segment is where there is no such segment:
// that is no damage.
var ErrMissing = errors.New("it is not here")

// Verify reads everything and returns the first error; what is read from others
// must be what was appended. What is missing it goes past, and returns that where
// nothing else is wrong. told, if not nil, is told of each segment's end.
func (r *Reader) Verify(ctx context.Context, told func(entries uint64)) error {
	var missing error
	for n := range r.Log.Segments() {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := r.segment(n)
		if errors.Is(err, ErrMissing) {
			missing = cmp.Or(missing, err)
			continue
		}
		if err != nil {
			return err
		}
		if n >= r.Log.Segments()-uint64(len(r.Log.kept)) {
			if treeOf(leaves(s.Entries)).root() != r.Log.over[0][n] {
				return &BadError{n, -1}
			}
		} else if s.unheld {
			if err := s.hold(); err != nil {
				return err
			}
		}
		if told != nil {
			told((n + 1) * SegmentEntries)
		}
	}
	open := Segment{Number: r.Log.Segments(), Entries: r.Log.open, nodes: tree{r.Log.leaves}}
	if err := open.hold(); err != nil {
		return err
	}
	return missing
}
