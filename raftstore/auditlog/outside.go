package auditlog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"golang.org/x/mod/sumdb/tlog"
)

// A full segment can be kept outside of the cluster, and be held there against a root
// that somebody signed. Its proof is that of its first entry without the hashes that
// the segment has itself: those beside the path from the segment's node to the root.

// Above is the part of a proof of one of a full segment's entries that is the same for
// all of them.
func Above(proof tlog.RecordProof) ([]Hash, error) {
	if len(proof) < segmentLevel {
		return nil, errors.New("it is no proof of an entry of a full segment")
	}
	return proof[segmentLevel:], nil
}

// Proof proves that the n-th entry of the log, one of the segment's, is in a tree, where
// above is of it; see tlog.CheckRecord.
func (s Segment) Proof(n uint64, above []Hash) tlog.RecordProof {
	nodes, i := s.tree(), n%SegmentEntries
	var p tlog.RecordProof
	for level := range segmentLevel {
		p = append(p, nodes[level][i>>level^1])
	}
	return append(p, above...)
}

// In holds the segment against the root of the tree of the first size entries: an error
// where it is not proved to be in it.
func (s Segment) In(size uint64, root Hash, above []Hash) error {
	first := s.Number * SegmentEntries
	if s.Number > MaxEntries/SegmentEntries || size > MaxEntries || first+SegmentEntries > size {
		return errRange
	}
	return tlog.CheckRecord(s.Proof(first, above), int64(size), root, int64(first), s.Entries[0].Hash())
}

// digestLabel begins what Digest hashes.
const digestLabel = "redoubt audit archive v1\n"

// Digest says which segments somebody has: those from the first on that have these
// roots. It is SHA-256 of the label, the first one's number in eight bytes, big-endian,
// and the roots.
func Digest(first uint64, roots []Hash) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(digestLabel))
	h.Write(binary.BigEndian.AppendUint64(nil, first))
	for _, r := range roots {
		h.Write(r[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}
