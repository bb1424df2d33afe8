package raftstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// sealedSnapshots keeps snapshots as directories `<index>-<random id>` with two
// files: `state`, a chain of sealed chunks, and `meta`, the sealed description.
// A snapshot is written beside its place and renamed when it is complete, so
// what bears a final name is whole. Nothing that does not open is skipped: an
// older snapshot may no longer meet the log.
type sealedSnapshots struct {
	dir  string
	bind *binder
	halt *halter
	// mu is held to remove old snapshots, and shared to look at those there are:
	// raft does both at once.
	mu sync.RWMutex
	// written are the last that this process made, oldest first, and removed those
	// it took away last. Guarded by mu.
	written, removed []string
}

// errSnapshotGone is what raft is told that opens a snapshot it saw in a list,
// and that was old before it came to it: it looks again.
var errSnapshotGone = errors.New("it was removed meanwhile, for newer ones")

const (
	snapState  = "state"
	snapMeta   = "meta"
	snapTmp    = ".tmp"
	snapDirFmt = "%020d-%s"
)

func openSnapshots(dir string, bind *binder, halt *halter) (*sealedSnapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &sealedSnapshots{dir: dir, bind: bind, halt: halt}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), snapTmp) { // cut off by a crash
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Create implements raft.SnapshotStore.
func (s *sealedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration,
	confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	id := fmt.Sprintf(snapDirFmt, index, ident.New())
	tmp := filepath.Join(s.dir, id+snapTmp)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(tmp, snapState), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	return &snapshotSink{
		store: s, tmp: tmp, file: f, w: newChunkWriter(f, s.bind, id),
		meta: raft.SnapshotMeta{
			Version: version, ID: id, Index: index, Term: term,
			Configuration: conf, ConfigurationIndex: confIndex,
		},
	}, nil
}

// List implements raft.SnapshotStore: newest first.
func (s *sealedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	out, err := s.metas()
	if err != nil {
		return nil, s.halt.storage(err)
	}
	return out, nil
}

// metas is List before raft runs.
func (s *sealedSnapshots) metas() ([]*raft.SnapshotMeta, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var out []*raft.SnapshotMeta
	for _, id := range ids[:min(len(ids), snapshotsKept)] {
		m, err := s.readMeta(id)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// Open implements raft.SnapshotStore. What it returns can be read to its end
// also when the snapshot is removed meanwhile.
func (s *sealedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id != filepath.Base(id) || strings.HasSuffix(id, snapTmp) {
		return nil, nil, fmt.Errorf("snapshot %q: no such snapshot", id)
	}
	m, f, err := s.openFile(id)
	switch {
	case errors.Is(err, errSnapshotGone):
		return nil, nil, err
	case err != nil:
		return nil, nil, s.halt.storage(err)
	}
	r := newChunkReader(f, s.bind, id, m.Size)
	r.failed = s.halt.stop // the reader's user must still be told, to clean up
	return m, r, nil
}

func (s *sealedSnapshots) openFile(id string) (*raft.SnapshotMeta, *os.File, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if slices.Contains(s.removed, id) {
		return nil, nil, fmt.Errorf("snapshot %s: %w", id, errSnapshotGone)
	}
	m, err := s.readMeta(id)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(filepath.Join(s.dir, id, snapState))
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", id, lost(err))
	}
	return m, f, nil
}

// ids are the names of complete snapshots, newest first: the index leads the
// name and has a fixed width.
func (s *sealedSnapshots) ids() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), snapTmp) {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

func (s *sealedSnapshots) metaAAD(id string) []byte {
	return s.bind.fileAAD("snapshots/" + id + "/" + snapMeta)
}

func (s *sealedSnapshots) readMeta(id string) (*raft.SnapshotMeta, error) {
	sealed, err := atomicfile.ReadBounded(filepath.Join(s.dir, id, snapMeta), maxSnapshotMetaBytes)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", id, lost(err))
	}
	plain, err := s.bind.sealer.Open(labelFile, s.metaAAD(id), sealed)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s %w", id, unopened(err))
	}
	m := &raft.SnapshotMeta{}
	if err := json.Unmarshal(plain, m); err != nil {
		return nil, fmt.Errorf("snapshot %s: description: %w: %w", id, err, errLost)
	}
	if m.ID != id {
		return nil, fmt.Errorf("snapshot %s: it says that it is another: %w", id, errLost)
	}
	return m, nil
}

// prune removes old snapshots after one was written. What stays are the newest,
// snapshotsKept of them, and the last snapshotWriters that were written: raft
// opens one from the leader once it is there, and may have finished one of its
// own in between. Several may be of one index: a leader sends its snapshot again
// where it got no answer.
func (s *sealedSnapshots) prune(written string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = lastOf(append(s.written, written), snapshotWriters)
	ids, err := s.ids()
	if err != nil {
		return err
	}
	for _, id := range ids[min(len(ids), snapshotsKept):] {
		if slices.Contains(s.written, id) {
			continue
		}
		if err := s.removeLocked(id); err != nil {
			return err
		}
	}
	return nil
}

// removeLocked takes a snapshot away. It loses its name first: one that a crash
// leaves half removed must not look like one that was damaged.
func (s *sealedSnapshots) removeLocked(id string) error {
	path := filepath.Join(s.dir, id)
	if err := os.Rename(path, path+snapTmp); err != nil {
		return err
	}
	s.removed = lastOf(append(s.removed, id), snapshotsRemembered)
	if err := atomicfile.SyncDir(s.dir); err != nil {
		return err
	}
	return os.RemoveAll(path + snapTmp)
}

func lastOf(ids []string, n int) []string { return ids[max(0, len(ids)-n):] }

// snapshotSink is a snapshot being written by one goroutine of raft.
type snapshotSink struct {
	store *sealedSnapshots
	tmp   string
	file  *os.File
	w     *chunkWriter
	meta  raft.SnapshotMeta
	ended bool
}

// ID implements raft.SnapshotSink.
func (k *snapshotSink) ID() string { return k.meta.ID }

// Write implements io.Writer.
func (k *snapshotSink) Write(p []byte) (int, error) {
	n, err := k.w.Write(p)
	k.meta.Size += int64(n)
	return n, err
}

// Cancel implements raft.SnapshotSink.
func (k *snapshotSink) Cancel() error {
	if k.ended {
		return nil
	}
	k.ended = true
	return errors.Join(k.file.Close(), os.RemoveAll(k.tmp))
}

// Close implements io.Closer: the snapshot becomes visible, or is gone.
func (k *snapshotSink) Close() error {
	if k.ended {
		return nil
	}
	k.ended = true
	if err := errors.Join(k.w.Close(), k.file.Sync(), k.file.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(k.tmp))
	}
	if err := k.publish(); err != nil {
		return errors.Join(err, os.RemoveAll(k.tmp))
	}
	return k.store.prune(k.meta.ID)
}

func (k *snapshotSink) publish() error {
	plain, err := json.Marshal(k.meta)
	if err != nil {
		return err
	}
	sealed, err := k.store.bind.sealer.Seal(labelFile, k.store.metaAAD(k.meta.ID), plain)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(k.tmp, snapMeta), sealed); err != nil {
		return err
	}
	if err := os.Rename(k.tmp, filepath.Join(k.store.dir, k.meta.ID)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return atomicfile.SyncDir(k.store.dir)
}
