package auditarchive

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/checkpoint"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// Archive is a directory of which every file was read and held against its checkpoint.
type Archive struct {
	Dir     string
	Cluster string
	// The segments from First on and before Next are there.
	First, Next uint64
	// Roots are theirs, in order.
	Roots []auditlog.Hash
	// Newest is the checkpoint of the most records in any file.
	Newest checkpoint.Signed

	keys []string
}

// Read reads a whole archive, a file at a time. That all checkpoints in it are of one log
// is seen as far as the archive has the segments from the beginning on.
func Read(ctx context.Context, dir string, keys []string) (*Archive, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, f := range files {
		if n, ok := numberOf(f.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("%s has no segment of an audit log", dir)
	}
	slices.Sort(numbers)
	a := &Archive{Dir: dir, First: numbers[0], Next: numbers[0], keys: keys}
	signed := map[string]checkpoint.Checkpoint{}
	for _, n := range numbers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if n != a.Next {
			return nil, &MissingError{Dir: dir, Segment: a.Next}
		}
		s, err := Open(dir, n, keys)
		if err != nil {
			return nil, err
		}
		if a.Cluster == "" {
			a.Cluster = s.Signed.Cluster
		}
		if s.Signed.Cluster != a.Cluster {
			return nil, fmt.Errorf("%s is of cluster %s, and those before of %s", Path(dir, n), s.Signed.Cluster, a.Cluster)
		}
		if s.Signed.Size >= a.Newest.Size {
			a.Newest = s.Signed
		}
		signed[string(s.Signed.Text())] = s.Signed.Checkpoint
		a.Roots, a.Next = append(a.Roots, s.Root()), n+1
	}
	for _, c := range signed {
		if a.First > 0 || c.Size > a.Records() {
			continue // what it is of is not all here
		}
		if err := a.Holds(c); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Records is the number after the last record's.
func (a *Archive) Records() uint64 { return a.Next * auditlog.SegmentEntries }

// Digest says which segments from that one on and before next somebody has who has this
// archive.
func (a *Archive) Digest(first, next uint64) [sha256.Size]byte {
	return auditlog.Digest(first, a.Roots[first-a.First:next-a.First])
}

// Holds returns an error where the log that the checkpoint is of does not begin with the
// archive's records, or has others, and where this archive cannot tell.
func (a *Archive) Holds(c checkpoint.Checkpoint) error {
	switch {
	case c.Cluster != a.Cluster:
		return fmt.Errorf("it is of cluster %s, and the archive of %s", c.Cluster, a.Cluster)
	case c.Size == a.Newest.Size && c.Root == a.Newest.Root && c.Incarnation == a.Newest.Incarnation:
		return nil
	case a.First > 0:
		return fmt.Errorf("the archive begins with record %d: that a checkpoint is of the same log is seen with all records before, too", a.First*auditlog.SegmentEntries)
	case c.Size > a.Records():
		return fmt.Errorf("it is of %d records, and the archive has %d: take one that was made before, or have the cluster prove it: redoubt audit verify --checkpoint", c.Size, a.Records())
	}
	l, err := auditlog.Restored(a.Roots, nil)
	if err != nil {
		return err
	}
	r := auditlog.Reader{Log: l, Segment: func(n uint64, _ auditlog.Hash) (auditlog.Segment, error) {
		s, err := Open(a.Dir, n, a.keys)
		if err != nil {
			return auditlog.Segment{}, err
		}
		return s.Segment, nil
	}}
	root, err := r.Root(c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		return fmt.Errorf("the archive does not begin with the %d records of the checkpoint: one of them is of a log that was rewritten", c.Size)
	}
	return nil
}
