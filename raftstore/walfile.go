package raftstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// SegmentBytes is the size of a segment. A segment is removed when every
// entry in it is older than the last snapshot needs.
const SegmentBytes = 16 << 20

// walLog is the log in append-only segments. Which segments there are stands in
// the stable store, sealed, so the directory of segments holds nothing else.
type walLog struct {
	*wal.WAL
	cause *walCause
}

// walCause keeps why the last change of the segments failed. raft-wal makes the
// next segment in a goroutine of its own, and of a failure there says no more
// than that the full one takes no append.
type walCause struct{ err atomic.Pointer[error] }

func (c *walCause) note(err error) error {
	if err != nil {
		c.err.Store(&err)
	}
	return err
}

// StoreLogs implements raft.LogStore.
func (w *walLog) StoreLogs(logs []*raft.Log) error {
	err := w.WAL.StoreLogs(logs)
	if why := w.cause.err.Load(); err != nil && why != nil {
		return fmt.Errorf("%w: the next segment could not be made: %w", err, *why)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (w *walLog) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

// openWAL opens the segments in dir, or makes the first one.
//
// raft-wal takes whatever does not verify at the end of the last segment, and
// all behind it, for a write that a crash cut short, and forgets it. Entries
// that were acknowledged may be among it where the file was damaged: the
// watermark (mark.go) tells the two apart.
func openWAL(dir string, stable *sealedStable, segmentBytes int, logger hclog.Logger) (*walLog, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	cause := &walCause{}
	state, filer := &walState{stable, cause}, segment.NewFiler(dir, walFS{cause})
	if err := completeTail(dir, filer, state); err != nil {
		return nil, fmt.Errorf("the last segment of the log in %s cannot be completed: %w", dir, lost(err))
	}
	w, err := wal.Open(dir, wal.WithMetaStore(state), wal.WithLogger(logger),
		wal.WithSegmentFiler(filer), wal.WithSegmentSize(segmentBytes))
	if err != nil {
		return nil, fmt.Errorf("the log in %s cannot be opened: %w", dir, lost(err))
	}
	return &walLog{w, cause}, nil
}

// GetLog implements raft.LogStore with the error that raft knows. raft-wal still
// gives entries of the last segment that were deleted at its beginning, until it
// is opened again: what is deleted is gone.
func (w *walLog) GetLog(index uint64, l *raft.Log) error {
	first, err := w.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	err = w.WAL.GetLog(index, l)
	if errors.Is(err, wal.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	return err
}

// walStateKey is the stable value that lists the segments.
const walStateKey = "WALState"

// walState keeps raft-wal's list of segments in the sealed stable store.
type walState struct {
	stable *sealedStable
	cause  *walCause
}

// Load implements types.MetaStore. The value is empty before the first segment;
// that it is absent means that it was lost, and the segments would be deleted.
func (s *walState) Load(string) (st types.PersistentState, err error) {
	raw, err := s.stable.read([]byte(walStateKey))
	if err != nil {
		return st, fmt.Errorf("the list of segments %w", unopened(err))
	}
	if len(raw) > 0 {
		err = json.Unmarshal(raw, &st)
	}
	return st, err
}

// CommitState implements types.MetaStore.
func (s *walState) CommitState(st types.PersistentState) error {
	raw, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return s.cause.note(s.stable.Set([]byte(walStateKey), raw))
}

var errWALStable = errors.New("raftstore: the log keeps no stable values")

// GetStable implements types.MetaStore.
func (*walState) GetStable([]byte) ([]byte, error) { return nil, errWALStable }

// SetStable implements types.MetaStore.
func (*walState) SetStable(_, _ []byte) error { return errWALStable }

// Close implements types.MetaStore; the stable store is its owner's.
func (*walState) Close() error { return nil }

// walFS makes files that only their owner reads, allocated in full, so that an
// append changes no metadata that fdatasync would have to wait for.
type walFS struct{ cause *walCause }

// ListDir implements types.VFS.
func (walFS) ListDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, err
}

// Create implements types.VFS.
func (v walFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := v.create(dir, name, size)
	return f, v.cause.note(err)
}

func (walFS) create(dir, name string, size uint64) (types.WritableFile, error) {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.Truncate(int64(size))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close(), os.Remove(path))
	}
	return &walFile{File: f, dir: dir}, nil
}

// Delete implements types.VFS.
func (walFS) Delete(dir, name string) error {
	return errors.Join(os.Remove(filepath.Join(dir, name)), atomicfile.SyncDir(dir))
}

// OpenReader implements types.VFS.
func (walFS) OpenReader(dir, name string) (types.ReadableFile, error) {
	return os.Open(filepath.Join(dir, name))
}

// OpenWriter implements types.VFS.
func (walFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &walFile{File: f, dir: dir}, nil
}

// walFile is a segment. Its directory is synced with the first write, which is
// before anything in it counts.
type walFile struct {
	*os.File
	dir    string
	synced atomic.Bool // the directory
}

// Sync implements types.WritableFile.
func (f *walFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		break
	}
	if f.synced.Load() {
		return nil
	}
	if err := atomicfile.SyncDir(f.dir); err != nil {
		return err
	}
	f.synced.Store(true)
	return nil
}
