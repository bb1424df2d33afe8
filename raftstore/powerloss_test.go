package raftstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// What a loss of power leaves. A store runs once while the bytes of its files
// are kept before and after each write of the log and of the stable values.
// From these, disks are made as a loss of power in the midst of a write may
// leave them: of what was not synced yet each sector is there or not, by
// chance. A database writes its pages, syncs, and then writes a page that makes
// them count, so that page is old as long as another may be missing. The
// watermark is never synced and may be older than all else. Every such disk
// must open and hold each acknowledged write, the one under way or not, and
// nothing behind it. Snapshots are not torn: they are synced whole, then
// renamed.
//
// The segments are small, so that they are closed and begun again and again,
// and snapshots let old ones go; the list of them is one of the stable values.
// A segment's file that was just made, and one that was just removed, may be
// there or not.
const (
	powerLossImages = 30 // of an ordinary run of the tests, for each kind of log
	sector          = 512
	metaPages       = 2 * 4096 // of the database
	imageBytes      = 256 << 10
	smallSegment    = 8 << 10
)

// diskState is what stands in each file, by its name; the segments' empty rest
// is left out.
type diskState struct {
	files map[string][]byte
	sizes map[string]int64
}

func readDisk(t testing.TB, dir string) diskState {
	d := diskState{map[string][]byte{}, map[string]int64{}}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		d.sizes[name] = fi.Size()
		d.files[name], err = io.ReadAll(io.LimitReader(f, imageBytes))
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return d
}

func (d diskState) write(t testing.TB, dir string) {
	for name, content := range d.files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, d.sizes[name]); err != nil {
			t.Fatal(err)
		}
	}
}

// diskWrite is one write with what was there before and after it.
type diskWrite struct {
	before, after diskState
	acked         int64
}

// recorder keeps the writes of one store.
type recorder struct {
	t      testing.TB
	dir    string
	acked  atomic.Int64
	mu     sync.Mutex // one write at a time; guards writes
	writes []diskWrite
}

func (r *recorder) do(write func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	acked, before := r.acked.Load(), readDisk(r.t, r.dir)
	err := write()
	r.writes = append(r.writes, diskWrite{before, readDisk(r.t, r.dir), acked})
	return err
}

type recordedLog struct {
	raft.LogStore
	r *recorder
}

func (l *recordedLog) StoreLogs(logs []*raft.Log) error {
	if err := l.r.do(func() error { return l.LogStore.StoreLogs(logs) }); err != nil {
		return err
	}
	// A segment that became full is followed by the next one in a goroutine of
	// the log's. To delete nothing waits for it: it is a write by itself.
	const beyond = 1 << 60
	return l.LogStore.DeleteRange(beyond, beyond)
}

type recordedStable struct {
	raft.StableStore
	r *recorder
}

func (s *recordedStable) Set(key, val []byte) error {
	return s.r.do(func() error { return s.StableStore.Set(key, val) })
}

func TestPowerLoss(t *testing.T) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			sealer := raftstoretest.NewSealer()
			writes := recordWrites(t, kind, sealer)
			seed := uint64(time.Now().UnixNano())
			images, torn := crashCyclesWanted(t, powerLossImages), 0
			for i := range images {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				k := r.IntN(len(writes))
				disk, cut := lossOfPower(r, writes, k)
				if cut {
					torn++
				}
				checkDisk(t, disk, kind, sealer, writes[k].acked)
				if t.Failed() {
					t.Fatalf("image %d of seed %d, during write %d of %d", i, seed, k, len(writes))
				}
			}
			segments, snapshots := countFiles(writes)
			t.Logf("loss of power: log=%s writes=%d segments=%d snapshots=%d images=%d torn=%d lost=0 refused=0",
				kind, len(writes), segments, snapshots, images, torn)
			if kind == raftstore.LogWAL && segments < 5 || snapshots < 3 {
				t.Error("too few segments or snapshots: this proves little")
			}
			if torn == 0 {
				t.Error("no image differs from a whole write")
			}
		})
	}
}

// countFiles counts the segments and snapshots that there ever were.
func countFiles(writes []diskWrite) (segments, snapshots int) {
	seen := map[string]bool{}
	for _, w := range writes {
		for name := range w.after.files {
			if seen[name] {
				continue
			}
			seen[name] = true
			switch {
			case strings.HasSuffix(name, ".wal"):
				segments++
			case strings.HasPrefix(name, "snapshots") && strings.HasSuffix(name, "state"):
				snapshots++
			}
		}
	}
	return segments, snapshots
}

func powerLossConfig(dir string, kind raftstore.LogStore, sealer raftstore.Sealer) raftstore.Config {
	c := soloConfig(dir, sealer)
	c.LogStore, c.SnapshotThreshold = kind, 1<<40 // snapshots are taken when the test says so
	return c.WithSegments(smallSegment)
}

func recordWrites(t *testing.T, kind raftstore.LogStore, sealer raftstore.Sealer) []diskWrite {
	rec := &recorder{t: t, dir: t.TempDir()}
	c := powerLossConfig(rec.dir, kind, sealer)
	s, err := raftstore.Open(t.Context(), c.WithDisk(
		func(l raft.LogStore) raft.LogStore { return &recordedLog{l, rec} },
		func(s raft.StableStore) raft.StableStore { return s },
	).WithStable(func(s raft.StableStore) raft.StableStore { return &recordedStable{s, rec} }))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, s)
	for i := range 40 {
		put(t, s, &testpb.Thing{Id: fmt.Sprintf("p-%03d", i), Payload: make([]byte, i*97%3000)})
		rec.acked.Store(int64(i + 1))
		if i%13 == 12 { // one that removes segments; nothing is written meanwhile but by it
			if err := s.Snapshot(waitContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	var out []diskWrite // those after the log has its first entry: before it there is nothing to lose
	for _, w := range rec.writes {
		if w.acked > 0 {
			out = append(out, w)
		}
	}
	return out
}

// lossOfPower makes a disk as it may be left in the midst of write k.
func lossOfPower(r *rand.Rand, writes []diskWrite, k int) (disk diskState, torn bool) {
	w := writes[k]
	disk = diskState{maps.Clone(w.before.files), maps.Clone(w.before.sizes)}
	for name, after := range w.after.files {
		before := w.before.files[name]
		if name == "mark" || string(before) == string(after) {
			continue
		}
		out := make([]byte, max(len(before), len(after)))
		copy(out, before)
		counts := name == "raft.db" && r.IntN(3) == 0 // all pages are synced, and what counts is being written
		for off := 0; off < len(after); off += sector {
			end := min(off+sector, len(after))
			meta := name == "raft.db" && off < metaPages
			changed := string(after[off:end]) != string(out[off:end])
			there := r.IntN(2) == 0
			if meta {
				there = there && counts
			} else if counts {
				there = true
			}
			if there {
				copy(out[off:end], after[off:end])
			} else if changed {
				torn = true
			}
		}
		disk.files[name], disk.sizes[name] = out, max(w.before.sizes[name], w.after.sizes[name])
	}
	if k > 0 {
		changedNames(r, disk, writes[k-1].after)
	}
	disk.files["mark"] = writes[max(0, k-r.IntN(6))].before.files["mark"]
	return disk, torn
}

// changedNames forgets, by chance, the segments that were made since earlier and
// have nothing in them yet, and brings back those that were removed.
func changedNames(r *rand.Rand, disk, earlier diskState) {
	isSegment := func(name string) bool { return strings.HasSuffix(name, ".wal") }
	for name, content := range disk.files {
		if _, was := earlier.files[name]; !was && isSegment(name) && len(bytes.Trim(content, "\x00")) == 0 && r.IntN(2) == 0 {
			delete(disk.files, name)
		}
	}
	for name, content := range earlier.files {
		if _, is := disk.files[name]; !is && isSegment(name) && r.IntN(2) == 0 {
			disk.files[name], disk.sizes[name] = content, earlier.sizes[name]
		}
	}
}

func checkDisk(t *testing.T, disk diskState, kind raftstore.LogStore, sealer raftstore.Sealer, acked int64) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "image-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk.write(t, dir)
	s, err := raftstore.Open(t.Context(), powerLossConfig(dir, kind, sealer))
	if err != nil {
		t.Errorf("it does not open: %v", err)
		return
	}
	defer s.Close(context.Background())
	raftstoretest.WaitLeader(t, s)
	if err := s.View(func(r *raftstore.ReadTx) error {
		n := int64(0)
		for o := range things.All(r) {
			if o.GetId() != fmt.Sprintf("p-%03d", n) {
				return fmt.Errorf("%s follows %d others", strings.ToValidUTF8(o.GetId(), "?"), n)
			}
			n++
		}
		if n < acked || n > acked+1 {
			return fmt.Errorf("%d writes were acknowledged and %d are there", acked, n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
