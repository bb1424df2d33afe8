// Package auditarchive keeps whole segments of an audit log outside of the cluster, in
// a directory, a file each.
//
// # What it owns
//
// The file: a segment as managers keep it, with a checkpoint that was signed and the
// proof that the segment is in the tree of that. So each file stands by itself: what
// it says is judged by whose keys signed the checkpoint, and by nothing that is read
// from a cluster or from the file beside it. And the directory: which segments there
// are, that they are of one log, and what the tree over the first of them is.
//
// # What it refuses
//
// It signs nothing, and believes no key that it finds in an archive: there is none. A
// file that is cut, changed, of another number than its name or of another cluster is
// an error, and so is a segment that is missing between others.
//
// # Use
//
//	auditarchive.Write(dir, segment, note, above)
//	a, err := auditarchive.Read(ctx, dir, keys)
//	// a.First to a.Next are there, and are what the holders of keys signed
package auditarchive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

const (
	magic      = "redoubt audit segment v1\n"
	namePrefix = "segment-"
	nameFormat = namePrefix + "%016x"

	// maxAbove is how many hashes lead from a segment to the root of the largest tree.
	maxAbove = 64
	maxFile  = len(magic) + 8 + 4 + checkpoint.MaxNote + 1 + maxAbove*tlog.HashSize + auditlog.MaxSegmentBytes
)

// Segment is what a file has.
type Segment struct {
	auditlog.Segment
	// Note is a checkpoint, and Above leads from the segment's root to its root.
	Note  []byte
	Above []auditlog.Hash
	// Signed is what the note says, and who of those whose keys are known signed it.
	Signed checkpoint.Signed
}

// Path is where a directory has the segment of that number.
func Path(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf(nameFormat, number))
}

// numberOf is the segment that a file of that name has.
func numberOf(name string) (n uint64, ok bool) {
	_, err := fmt.Sscanf(name, nameFormat, &n)
	return n, err == nil && name == fmt.Sprintf(nameFormat, n)
}

// encode is the file: magic, the number in eight bytes, the length of the note in four and
// the note, how many hashes are above in one and these, and the segment as managers keep
// it; numbers big-endian.
func (s *Segment) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte(magic), s.Number)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Note)))
	b = append(b, s.Note...)
	b = append(b, byte(len(s.Above)))
	for _, h := range s.Above {
		b = append(b, h[:]...)
	}
	return append(b, s.Encode()...)
}

var errFile = errors.New("it is no segment of an audit log")

// parse reads a file. Its parts belong together; who signed the note is not looked at.
func parse(b []byte) (*Segment, error) {
	rest, ok := cut(&b, len(magic))
	if !ok || string(rest) != magic {
		return nil, errFile
	}
	head, ok := cut(&b, 8+4)
	if !ok {
		return nil, errFile
	}
	s, number, size := &Segment{}, binary.BigEndian.Uint64(head), binary.BigEndian.Uint32(head[8:])
	if size > checkpoint.MaxNote {
		return nil, errFile
	}
	if s.Note, ok = cut(&b, int(size)); !ok {
		return nil, errFile
	}
	count, ok := cut(&b, 1)
	if !ok || count[0] > maxAbove {
		return nil, errFile
	}
	above, ok := cut(&b, int(count[0])*tlog.HashSize)
	if !ok {
		return nil, errFile
	}
	for ; len(above) > 0; above = above[tlog.HashSize:] {
		s.Above = append(s.Above, auditlog.Hash(above[:tlog.HashSize]))
	}
	var err error
	if s.Segment, err = auditlog.Parse(b, number); err != nil {
		return nil, err
	}
	return s, nil
}

func cut(b *[]byte, n int) ([]byte, bool) {
	if len(*b) < n {
		return nil, false
	}
	out := (*b)[:n:n]
	*b = (*b)[n:]
	return out, true
}

// judge holds the segment against its checkpoint, and that against the keys.
func (s *Segment) judge(keys []string) (err error) {
	if s.Signed, err = checkpoint.Open(s.Note, keys); err != nil {
		return err
	}
	if err := s.In(s.Signed.Size, s.Signed.Root, s.Above); err != nil {
		return errors.New("it is not in the log that its checkpoint is of")
	}
	return nil
}

// Open reads the segment of that number from a directory. It is what the holders of
// the keys signed, or an error.
func Open(dir string, number uint64, keys []string) (*Segment, error) {
	path := Path(dir, number)
	b, err := atomicfile.ReadBounded(path, int64(maxFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &MissingError{Dir: dir, Segment: number}
	}
	if err != nil {
		return nil, err
	}
	s, err := parse(b)
	switch {
	case err == nil && s.Number != number:
		err = fmt.Errorf("it is segment %d", s.Number)
	case err == nil:
		err = s.judge(keys)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Write puts a segment into a directory, which is made where there is none, once it was
// held against the checkpoint. What is there of that number already must be the same, and
// stays.
func Write(dir string, s *Segment, keys []string) error {
	if err := s.judge(keys); err != nil {
		return err
	}
	old, err := Open(dir, s.Number, keys)
	switch {
	case err == nil && old.Root() == s.Root() && old.Signed.Cluster == s.Signed.Cluster:
		return nil
	case err == nil:
		return fmt.Errorf("%s has other records: give each cluster a directory of its own", Path(dir, s.Number))
	case !errors.As(err, new(*MissingError)):
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(Path(dir, s.Number), s.encode())
}

// MissingError: the directory does not have that segment.
type MissingError struct {
	Dir     string
	Segment uint64
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s has no segment %d, of records %d to %d", e.Dir, e.Segment, e.Segment*auditlog.SegmentEntries, (e.Segment+1)*auditlog.SegmentEntries-1)
}
