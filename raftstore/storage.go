package raftstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

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

	// files are what it is made of where it was opened here; the key of no other
	// can be renewed.
	files *files
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
	mark   io.Closer
	snaps  *sealedSnapshots
	// What follows is exchanged by Rekey, which holds the store's gate.
	bolt   *raftboltdb.BoltStore
	wal    *walLog       // nil where the log is in bolt
	stable *sealedStable // returns its errors: nothing of raft runs yet
	log    *exchangedLog
	values *exchangedStable
	// wrap, for tests, stands between the sealing and the stable values.
	wrap func(raft.StableStore) raft.StableStore
	// segmentBytes is the size of a segment.
	segmentBytes int
}

// open opens the directory, and changes the log's kind first where another is
// wanted. Empty means the one that is there.
func (f *files) open(want LogStore) (_ *Storage, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := f.dropUnfinished(); err != nil {
		return nil, err
	}
	if f.bolt, err = openBolt(filepath.Join(f.dir, boltFile)); err != nil {
		return nil, err
	}
	inner := f.wrapped(f.bolt)
	if f.bind.epoch, err = f.namedBy(inner); err != nil {
		return nil, err
	}
	f.stable = f.below(inner, f.bind.epoch)
	snaps, err := openSnapshots(filepath.Join(f.dir, snapshotsDir), f.bind, f.halt)
	if err != nil {
		return nil, err
	}
	f.snaps = snaps
	kept, err := snaps.metas()
	if err != nil {
		return nil, err
	}
	f.values, f.log = &exchangedStable{inner}, &exchangedLog{}
	mark, err := openMarkFile(filepath.Join(f.dir, markFileName))
	if err != nil {
		return nil, err
	}
	f.mark = mark
	err = guarded(func() error {
		kind, err := f.layout(want, &watermark{file: mark, bind: f.bind}, kept)
		if err != nil {
			return err
		}
		f.log.LogStore, err = f.openLog(kind)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.wal, _ = f.log.LogStore.(*walLog)
	return &Storage{Log: f.log, Stable: f.values, Snapshots: snaps, Mark: mark, Close: f.close, files: f}, nil
}

func (f *files) wrapped(s raft.StableStore) raft.StableStore {
	if f.wrap != nil {
		return f.wrap(s)
	}
	return s
}

// below are the values of one database for who is below raft: their errors are
// returned, and nothing waits for the gate. raft-wal writes its list in a goroutine
// of its own, where no caller's guard is.
func (f *files) below(inner raft.StableStore, epoch uint32) *sealedStable {
	return &sealedStable{inner: guardedStable{inner}, bind: f.bind.at(epoch), halt: func(err error) error { return err }}
}

// namedBy is the epoch of the key that a database's names are by. One without a
// value is named by the newest.
func (f *files) namedBy(inner raft.StableStore) (uint32, error) {
	ring, ok := f.bind.sealer.(Keyring)
	if !ok {
		return 0, nil
	}
	epochs := ring.Epochs()
	if len(epochs) == 0 {
		return 0, errors.New("the sealer has no key")
	}
	for _, epoch := range epochs {
		stable := f.below(inner, epoch)
		for _, key := range stableKeys {
			val, err := stable.inner.Get(stable.bind.name([]byte(key)))
			switch {
			case err == nil && len(val) > 0:
				return epoch, nil
			case err != nil && err.Error() != errStableNotFound.Error():
				return 0, err
			}
		}
	}
	return epochs[0], nil
}

// close releases the files, the log's first.
func (f *files) close() (err error) {
	if f.wal != nil {
		err = f.wal.Close()
	}
	if f.mark != nil {
		err = errors.Join(err, f.mark.Close())
	}
	if f.bolt != nil {
		err = errors.Join(err, f.bolt.Close())
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
	switch logs, err := f.walDirs(); {
	case len(logs) > 0:
		return "", fmt.Errorf("there is a log beside %s, but nothing in it that says so: %w", boltFile, errPartMissing)
	case err != nil:
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
	remove, err := f.walDirs()
	if err != nil {
		return err
	}
	remove = append(remove, walDir+tmpSuffix)
	if kind != LogBolt {
		remove = slices.DeleteFunc(remove, func(name string) bool { return name == f.walName() })
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
	return openWAL(filepath.Join(f.dir, f.walName()), f.stable, f.segmentBytes, f.logger)
}

// walName is the directory of the segments: one for each key, so that those of the
// next key can be made beside those in use. The database says whose they are, by
// the key that its names are by.
func (f *files) walName() string { return walNameOf(f.bind.epoch) }

func walNameOf(epoch uint32) string {
	if epoch <= 1 {
		return walDir
	}
	return fmt.Sprintf("%s.%d", walDir, epoch)
}

// walDirs are the directories of segments there are, but for one that is being
// converted.
func (f *files) walDirs() (names []string, err error) {
	entries, err := os.ReadDir(f.dir)
	for _, e := range entries {
		number, is := strings.CutPrefix(e.Name(), walDir+".")
		if _, err := strconv.ParseUint(number, 10, 32); e.Name() == walDir || is && err == nil {
			names = append(names, e.Name())
		}
	}
	return names, err
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
	if err := os.Rename(tmp, filepath.Join(f.dir, f.walName())); err != nil {
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
