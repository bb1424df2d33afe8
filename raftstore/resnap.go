package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/keyscan"
)

// reseal leaves no complete snapshot with a record under a key older than epoch. One
// that another replaces, of the same entry or a later one, is removed; else it is
// copied under a name of its own, as chunks are bound to the name.
func (s *sealedSnapshots) reseal(ctx context.Context, epoch uint32) error {
	s.mu.RLock()
	ids, err := s.ids()
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	fresh := "" // the newest that needs nothing
	var stale []string
	for _, id := range ids {
		r, err := keyscan.Dir(ctx, filepath.Join(s.dir, id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // for newer ones
		}
		if err != nil {
			return err
		}
		old := false
		for e := range r.Epochs() {
			old = old || e < epoch
		}
		switch {
		case old:
			stale = append(stale, id)
		case fresh == "":
			fresh = id
		}
	}
	for _, id := range stale {
		if fresh == "" || indexOf(fresh) < indexOf(id) {
			if fresh, err = s.copy(ctx, id); err != nil {
				return fmt.Errorf("snapshot %s was not sealed anew: %w", id, err)
			}
		}
		if err := s.remove(id); err != nil {
			return err
		}
	}
	return nil
}

// indexOf is the part of a snapshot's name that says its last entry.
func indexOf(id string) string {
	index, _, _ := strings.Cut(id, "-")
	return index
}

func (s *sealedSnapshots) remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.removeLocked(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // by prune
	}
	return err
}

// copy makes the same snapshot again, under the newest key.
func (s *sealedSnapshots) copy(ctx context.Context, id string) (_ string, err error) {
	m, from, err := s.openFile(id)
	if err != nil {
		return "", err
	}
	r := newChunkReader(from, s.bind, id, m.Size)
	defer func() { err = errors.Join(err, r.Close()) }()
	meta := *m
	meta.ID = indexOf(id) + "-" + ident.New()
	tmp := filepath.Join(s.dir, meta.ID+snapTmp)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(tmp, snapState), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	w := newChunkWriter(f, s.bind, meta.ID)
	_, err = io.Copy(w, whileContext{ctx, r})
	if err == nil {
		err = errors.Join(w.Close(), f.Sync())
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = (&snapshotSink{store: s, tmp: tmp, meta: meta}).publish()
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp), atomicfile.SyncDir(s.dir))
	}
	return meta.ID, nil
}

// whileContext reads until its context ends.
type whileContext struct {
	ctx context.Context
	r   io.Reader
}

func (w whileContext) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}
