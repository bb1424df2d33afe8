package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/keyscan"
	"github.com/redoubt-cluster/redoubt/raftstore/auditlog"
)

// archive keeps the audit log's older segments, a sealed file each. Which they are
// is the replicated state's to say, by their roots: a file that is another is no
// segment. A manager whose state came with a snapshot lacks those of before, and
// says so; nobody goes on as if they were there.
type archive struct {
	dir  string
	bind *binder

	// full are segments to write before they leave the state, so that nothing waits for
	// the disk when they do: see run. Nil: they are written when they leave.
	full    chan auditlog.Segment
	mu      sync.Mutex               // guards written
	written map[uint64]auditlog.Hash // those that run wrote and that have not left yet, by number

	dropped atomic.Uint64 // segments before that one are kept elsewhere
}

func newArchive(dir string, bind *binder) *archive {
	return &archive{dir: dir, bind: bind, full: make(chan auditlog.Segment, keptSegments), written: map[uint64]auditlog.Hash{}}
}

// run writes what ahead is given until stop is closed. What it fails at, or is not there
// for, keep does.
func (a *archive) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case s := <-a.full:
			a.writeAhead(s)
		}
	}
}

func (a *archive) writeAhead(s auditlog.Segment) {
	if a.write(s) != nil {
		return // keep will say why
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written[s.Number] = s.Root()
}

// ahead offers the segments of l that before did not have full.
func (a *archive) ahead(before, l auditlog.Log) {
	for _, s := range l.Kept() {
		if s.Number >= before.Segments() {
			select {
			case a.full <- s:
			default:
			}
		}
	}
}

// wrote reports whether run has written that segment, which now leaves the state.
func (a *archive) wrote(s auditlog.Segment) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	root, ok := a.written[s.Number]
	maps.DeleteFunc(a.written, func(n uint64, _ auditlog.Hash) bool { return n <= s.Number })
	return ok && root == s.Root()
}

// errArchive is why a manager stops that cannot keep a segment.
var errArchive = errors.New("a segment of the audit log cannot be kept")

const (
	archiveDir  = "audit"
	segmentName = "%016x"
)

func (a *archive) path(n uint64) string { return filepath.Join(a.dir, fmt.Sprintf(segmentName, n)) }

func (a *archive) aad(n uint64) []byte {
	return a.bind.fileAAD(archiveDir + "/" + fmt.Sprintf(segmentName, n))
}

// read returns a segment of that root, for a Reader.
func (a *archive) read(n uint64, want auditlog.Hash) (auditlog.Segment, error) {
	s, err := a.open(n, want, auditlog.Open)
	if errors.Is(err, fs.ErrNotExist) {
		return s, &MissingError{n}
	}
	var bad *auditlog.BadError
	if err != nil && !errors.As(err, &bad) {
		err = fmt.Errorf("segment %d of the audit log %w", n, unopened(err))
	}
	return s, err
}

func (a *archive) open(n uint64, want auditlog.Hash, decode func([]byte, uint64, auditlog.Hash) (auditlog.Segment, error)) (auditlog.Segment, error) {
	sealed, err := atomicfile.ReadBounded(a.path(n), auditlog.MaxSegmentBytes+maxSealedOverhead)
	if err != nil {
		return auditlog.Segment{}, err
	}
	plain, err := a.bind.sealer.Open(labelFile, a.aad(n), sealed)
	if err != nil {
		return auditlog.Segment{}, err
	}
	return decode(plain, n, want)
}

// keep writes a segment, unless it is there.
func (a *archive) keep(s auditlog.Segment) error {
	if a.wrote(s) {
		return nil
	}
	if _, err := a.open(s.Number, s.Root(), auditlog.Decode); err == nil {
		return nil // the log is applied again
	}
	return a.write(s)
}

func (a *archive) write(s auditlog.Segment) error {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	if err := a.writeSealed(s.Number, s.Encode()); err != nil || s.Number >= a.dropped.Load() {
		return err
	}
	return atomicfile.Remove(a.path(s.Number)) // the log is applied again, from before it was dropped
}

func (a *archive) writeSealed(n uint64, plain []byte) error {
	sealed, err := a.bind.sealer.Seal(labelFile, a.aad(n), plain)
	if err != nil {
		return err
	}
	return atomicfile.Write(a.path(n), sealed)
}

// drop removes all segments before that one.
func (a *archive) drop(before uint64) error {
	a.dropped.Store(before) // first: what is being written is seen below, or sees this
	files, err := os.ReadDir(a.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	removed := false
	for _, f := range files {
		if n, ok := segmentOf(f.Name()); ok && n < before {
			if err := os.Remove(a.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			removed = true
		}
	}
	if !removed {
		return nil
	}
	return atomicfile.SyncDir(a.dir)
}

// segmentOf is the number of the segment that a file has, by its name.
func segmentOf(name string) (n uint64, ok bool) {
	_, err := fmt.Sscanf(name, segmentName, &n)
	return n, err == nil && name == fmt.Sprintf(segmentName, n)
}

// has reports whether there is a file, whatever is in it.
func (a *archive) has(n uint64) bool {
	_, err := os.Lstat(a.path(n))
	return err == nil
}

// reseal leaves no segment under a key older than epoch.
func (a *archive) reseal(ctx context.Context, epoch uint32) error {
	found, err := keyscan.Dir(ctx, a.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range found.Files {
		if slices.Min(append(slices.Collect(maps.Keys(f.Records)), epoch)) == epoch {
			continue
		}
		n, ok := segmentOf(f.Path)
		if !ok {
			if err := atomicfile.Remove(filepath.Join(a.dir, f.Path)); err != nil { // cut short by a crash
				return err
			}
			continue
		}
		if err := a.resealOne(n); err != nil && !errors.Is(err, fs.ErrNotExist) { // dropped meanwhile
			return fmt.Errorf("segment %d of the audit log was not sealed anew: %w", n, err)
		}
	}
	return ctx.Err()
}

func (a *archive) resealOne(n uint64) error {
	sealed, err := atomicfile.ReadBounded(a.path(n), auditlog.MaxSegmentBytes+maxSealedOverhead)
	if err != nil {
		return err
	}
	plain, err := a.bind.sealer.Open(labelFile, a.aad(n), sealed)
	if err != nil {
		return fmt.Errorf("it %w", unopened(err))
	}
	defer clear(plain)
	return a.writeSealed(n, plain)
}

// archived hands over what leaves the state, before it does.
func (f *fsm) archived(l auditlog.Log) (auditlog.Log, error) {
	if f.archive == nil {
		return l, nil
	}
	for {
		s, more := l.Oldest(keptSegments)
		if !more {
			f.archive.ahead(f.state.audit, l)
			return l, nil
		}
		if err := f.archive.keep(s); err != nil {
			return l, fmt.Errorf("%w: %w", errArchive, err)
		}
		l = l.Without()
	}
}

// MissingError: this manager does not have that segment of the audit log.
type MissingError struct{ Segment uint64 }

// Is makes it an auditlog.ErrMissing.
func (e *MissingError) Is(target error) bool { return target == auditlog.ErrMissing }

func (e *MissingError) Error() string {
	return fmt.Sprintf("entries %d to %d of the audit log are not on this manager: it began with a snapshot, and others have them",
		e.Segment*auditlog.SegmentEntries, (e.Segment+1)*auditlog.SegmentEntries-1)
}

// MissingRecords are the segments of the audit log that this manager lacks, of those
// from that one on.
func (s *Store) MissingRecords(from uint64) ([]uint64, error) {
	r, err := s.Records()
	if err != nil {
		return nil, err
	}
	var out []uint64
	for n := from; n < r.Log.Segments()-uint64(len(r.Log.Kept())); n++ {
		if !s.fsm.archive.has(n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// DropRecords removes this manager's files of all segments before that one, which
// somebody keeps elsewhere. Their roots stay, in the state.
func (s *Store) DropRecords(before uint64) error {
	r, err := s.Records()
	if err != nil {
		return err
	}
	return s.fsm.archive.drop(min(before, r.Log.Segments()-uint64(len(r.Log.Kept()))))
}

// KeepRecords keeps a segment that this manager lacks, as another one sent it. It
// is an error where it is not the one that was appended.
func (s *Store) KeepRecords(number uint64, encoded []byte) error {
	r, err := s.Records()
	if err != nil {
		return err
	}
	if number >= r.Log.Segments() {
		return fmt.Errorf("the audit log has no full segment %d", number)
	}
	segment, err := auditlog.Decode(encoded, number, r.Log.Roots()[number])
	if err != nil {
		return err
	}
	return s.fsm.archive.keep(segment)
}
