package raftstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// LogStore is the kind of file the raft log is kept in. The stable values are
// in raft.db in any case.
type LogStore string

const (
	// LogBolt keeps the log in raft.db too, a copy-on-write B+tree: two
	// fdatasyncs an append.
	LogBolt LogStore = "bolt"
	// LogWAL keeps the log in the directory wal, append-only segments: one
	// fdatasync an append.
	LogWAL LogStore = "wal"
	// DefaultLogStore is what a new directory gets where nothing is configured.
	DefaultLogStore = LogWAL
)

// ParseLogStore checks a configured kind. Empty means: what the directory has.
func ParseLogStore(s string) (LogStore, error) {
	switch k := LogStore(s); k {
	case "", LogBolt, LogWAL:
		return k, nil
	}
	return "", fmt.Errorf("log store %q is unknown: use %s or %s", s, LogBolt, LogWAL)
}

// Storage is what a store keeps its state in. Log and Stable are below the
// sealing: what passes through them is sealed, but for an entry's index, term
// and type. Config.Storage may put something in between.
type Storage struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	// Mark is the file of the watermark; nil for none.
	Mark MarkFile
	// Close releases all of it.
	Close func() error
}

const (
	boltFile     = "raft.db"
	walDir       = "wal"
	markFileName = "mark"
	snapshotsDir = "snapshots"
	tmpSuffix    = ".tmp"
)

// layoutKey is the stable value that says in which kind of file the log is. A
// directory without it was made by a version that knew bolt alone.
const layoutKey = "LogStore"

// files opens what is in a store's directory.
type files struct {
	dir    string
	bind   *binder
	halt   *halter
	logger hclog.Logger
	bolt   *raftboltdb.BoltStore
	stable *sealedStable // returns its errors: nothing of raft runs yet
	// wrap, for tests, stands between the sealing and the stable values.
	wrap func(raft.StableStore) raft.StableStore
	// segmentBytes is the size of a segment.
	segmentBytes int
}

// open opens the directory, and changes the log's kind first where another is
// wanted. Empty means the one that is there.
func (f *files) open(want LogStore) (_ *Storage, err error) {
	var opened closers
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.Close())
		}
	}()
	if f.bolt, err = openBolt(filepath.Join(f.dir, boltFile)); err != nil {
		return nil, err
	}
	opened.add(f.bolt)
	var inner raft.StableStore = f.bolt
	if f.wrap != nil {
		inner = f.wrap(inner)
	}
	// raft-wal writes its list in a goroutine of its own, where no caller's guard is.
	f.stable = &sealedStable{inner: guardedStable{inner}, bind: f.bind, halt: func(err error) error { return err }}
	snaps, err := openSnapshots(filepath.Join(f.dir, snapshotsDir), f.bind, f.halt)
	if err != nil {
		return nil, err
	}
	kept, err := snaps.metas()
	if err != nil {
		return nil, err
	}
	out := &Storage{Stable: inner, Snapshots: snaps, Close: opened.Close}
	mark, err := openMarkFile(filepath.Join(f.dir, markFileName))
	if err != nil {
		return nil, err
	}
	opened.add(mark)
	out.Mark = mark
	err = guarded(func() error {
		kind, err := f.layout(want, &watermark{file: mark, bind: f.bind}, kept)
		if err != nil {
			return err
		}
		out.Log, err = f.openLog(kind)
		return err
	})
	if err != nil {
		return nil, err
	}
	if w, ok := out.Log.(*walLog); ok {
		opened.add(w)
	}
	return out, nil
}

// closers are closed together, the last one first.
type closers []io.Closer

func (c *closers) add(x io.Closer) { *c = append(*c, x) }

// Close implements io.Closer.
func (c *closers) Close() (err error) {
	for _, x := range slices.Backward(*c) {
		err = errors.Join(err, x.Close())
	}
	return err
}

var errPartMissing = fmt.Errorf("a part of the directory is missing: %w", errLost)

// layout returns the kind of the log after seeing to it that it is the wanted
// one. The stable value is the truth; each change of it is one transaction.
func (f *files) layout(want LogStore, mark *watermark, kept []*raft.SnapshotMeta) (LogStore, error) {
	if err := mark.load(); err != nil {
		return "", err
	}
	raw, err := f.stable.read([]byte(layoutKey))
	switch {
	case errors.Is(err, errStableNotFound):
		have, err := f.unmarked(want, mark, kept)
		if err != nil {
			return "", err
		}
		raw = []byte(have)
	case err != nil:
		return "", fmt.Errorf("the kind of the log %w", unopened(err))
	case mark.empty:
		return "", fmt.Errorf("there is no watermark: %w", errPartMissing)
	}
	have := LogStore(raw)
	if have != LogBolt && have != LogWAL {
		return "", fmt.Errorf("the log is of the kind %q, which this version does not know: use a newer one", have)
	}
	if err := f.tidy(have); err != nil {
		return "", err
	}
	if want == "" || want == have {
		return have, nil
	}
	if err := f.convert(have, want, mark, kept); err != nil {
		return "", fmt.Errorf("the log cannot be changed from %s to %s: %w", have, want, err)
	}
	return want, f.tidy(want)
}

// unmarked decides what a directory is that does not say so: a new one, or one
// of a version that knew bolt alone and no watermark.
func (f *files) unmarked(want LogStore, mark *watermark, kept []*raft.SnapshotMeta) (LogStore, error) {
	switch _, err := os.Stat(filepath.Join(f.dir, walDir)); {
	case err == nil:
		return "", fmt.Errorf("there is a log beside %s, but nothing in it that says so: %w", boltFile, errPartMissing)
	case !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	if err := mark.check(f.bolt, f.stable, kept); err != nil {
		return "", err
	}
	if err := mark.adopt(f.bolt, f.stable, kept); err != nil {
		return "", err
	}
	kind := want
	if kind == "" {
		kind = DefaultLogStore
	}
	if (mark.at != marked{}) {
		kind = LogBolt
	}
	if kind == LogWAL {
		if err := f.stable.Set([]byte(walStateKey), nil); err != nil {
			return "", err
		}
	}
	return kind, f.stable.Set([]byte(layoutKey), []byte(kind))
}

// tidy removes what a conversion that was cut short, or just done, left behind.
func (f *files) tidy(kind LogStore) error {
	remove := []string{walDir + tmpSuffix}
	if kind == LogBolt {
		remove = append(remove, walDir)
	} else {
		first, err := f.bolt.FirstIndex()
		if err != nil {
			return err
		}
		last, err := f.bolt.LastIndex()
		if err != nil {
			return err
		}
		if last > 0 {
			if err := f.bolt.DeleteRange(first, last); err != nil {
				return err
			}
		}
	}
	for _, name := range remove {
		if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(f.dir)
}

func (f *files) openLog(kind LogStore) (raft.LogStore, error) {
	if kind == LogBolt {
		return f.bolt, nil
	}
	return openWAL(filepath.Join(f.dir, walDir), f.stable, f.segmentBytes, f.logger)
}

// convert copies the log into a store of the other kind and then says so. The
// records stay as they are sealed: nothing in them depends on where they are.
// Until it is said, the old one counts and what was copied is removed again.
func (f *files) convert(have, want LogStore, mark *watermark, kept []*raft.SnapshotMeta) error {
	from, err := f.openLog(have)
	if err != nil {
		return err
	}
	if err := mark.check(from, f.stable, kept); err != nil {
		return err // a log that lost its end must not be copied: its new end would look right
	}
	if want == LogWAL {
		err = f.toWAL(from)
	} else {
		err = copyLog(f.bolt, from)
	}
	if w, ok := from.(*walLog); ok {
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return err
	}
	return f.stable.Set([]byte(layoutKey), []byte(want))
}

func (f *files) toWAL(from raft.LogStore) error {
	tmp := filepath.Join(f.dir, walDir+tmpSuffix)
	if err := f.stable.Set([]byte(walStateKey), nil); err != nil { // not that of an earlier log
		return err
	}
	to, err := openWAL(tmp, f.stable, f.segmentBytes, f.logger)
	if err != nil {
		return err
	}
	if err := errors.Join(copyLog(to, from), to.Close(), atomicfile.SyncDir(tmp)); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(f.dir, walDir)); err != nil {
		return err
	}
	return atomicfile.SyncDir(f.dir)
}

func copyLog(to, from raft.LogStore) error {
	first, err := from.FirstIndex()
	if err != nil {
		return err
	}
	last, err := from.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	var batch []*raft.Log
	for i := first; i <= last; i++ {
		l := &raft.Log{}
		if err := from.GetLog(i, l); err != nil {
			return fmt.Errorf("log entry %d: %w", i, err)
		}
		if batch = append(batch, l); len(batch) == maxAppendEntries || i == last {
			if err := to.StoreLogs(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}
