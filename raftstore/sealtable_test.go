package raftstore_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// The parts of a store's directory, as somebody would exchange them.
var sealedParts = map[string]func(name string) bool{
	"mark":      func(n string) bool { return n == "mark" },
	"database":  func(n string) bool { return n == "raft.db" },
	"segments":  func(n string) bool { return strings.HasPrefix(n, "wal/") },
	"snapshots": func(n string) bool { return strings.HasPrefix(n, "snapshots/") },
	"log": func(n string) bool {
		return n == "raft.db" || strings.HasPrefix(n, "wal/")
	},
	"log and mark": func(n string) bool {
		return n == "mark" || n == "raft.db" || strings.HasPrefix(n, "wal/")
	},
	"all but the mark": func(n string) bool { return n != "mark" },
	"all":              func(string) bool { return true },
}

// TestPartsOfAnotherTimeOrNode puts parts of an older image of the same disk, and
// of another node's under the same key, into a store's directory. The store
// refuses in one line, or holds all that it held. What stands in witnessed opens
// as what it was at that time: that is for the other managers to know (witness).
// docs/formats.md has the table.
func TestPartsOfAnotherTimeOrNode(t *testing.T) {
	witnessed := []string{"older all", "older log and mark"}
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			sealer := raftstoretest.NewSealer()
			c := kindConfig(t.TempDir(), sealer, kind)
			fillFlipped(t, c)
			older := readDisk(t, c.Dir)
			want := fillAgain(t, c)
			newer := readDisk(t, c.Dir)
			neighbour := kindConfig(t.TempDir(), sealer, kind)
			neighbour.NodeID, neighbour.Transport.Advertise = "neighbour", raftstore.JoinAddr("neighbour", "canary-host:1")
			neighbour.Transport.Listener = raftstoretest.NewListener()
			fillFlipped(t, neighbour)
			others := map[string]diskState{"older": older, "a neighbour's": readDisk(t, neighbour.Dir)}
			for whose, other := range others {
				for part, in := range sealedParts {
					row := whose + " " + part
					mixed := exchange(newer, other, in)
					if slices.Contains(witnessed, row) {
						continue
					}
					err := openFlipped(t, c, mixed, want)
					t.Logf("%s: %v", row, err)
					if t.Failed() {
						t.Fatal(row)
					}
					oneLine(t, row, err)
					if err == nil && row != "older mark" && part != "segments" {
						t.Errorf("%s: it opens", row)
					}
				}
			}
			for name, content := range newer.files {
				size := newer.sizes[name]
				for what, length := range map[string]int64{
					"longer by a byte": size + 1, "shorter by a byte": size - 1, "cut in half": int64(len(content)) / 2, "empty": 0,
				} {
					disk := diskState{maps.Clone(newer.files), maps.Clone(newer.sizes)}
					disk.sizes[name] = length
					if length > size {
						disk.files[name] = append(slices.Clone(content), make([]byte, size-int64(len(content)))...)
						disk.files[name] = append(disk.files[name], 'x')
					}
					err := openFlipped(t, c, disk, want)
					if t.Failed() {
						t.Fatalf("%s %s", name, what)
					}
					oneLine(t, name+" "+what, err)
					if err == nil && strings.HasPrefix(name, "snapshots/") && strings.Contains(name, newest(newer)) {
						t.Errorf("%s %s: it opens", name, what)
					}
				}
			}
		})
	}
}

func oneLine(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "canary")) {
		t.Errorf("%s: not one line, or it tells content: %v", what, err)
	}
}

// exchange has the files of disk for which in says no, and those of other for
// which it says yes.
func exchange(disk, other diskState, in func(string) bool) diskState {
	out := diskState{map[string][]byte{}, maps.Clone(disk.sizes)}
	for name, b := range disk.files {
		if !in(name) {
			out.files[name] = b
		}
	}
	for name, b := range other.files {
		if in(name) {
			out.files[name] = b
			if n, ok := other.sizes[name]; ok {
				out.sizes[name] = n
			}
		}
	}
	return out
}

// newest is the name of the newest snapshot.
func newest(d diskState) (id string) {
	for name := range d.files {
		if rest, ok := strings.CutPrefix(name, "snapshots/"); ok {
			id = max(id, filepath.Dir(rest))
		}
	}
	return id
}

// fillAgain opens a store, fills it on, with another snapshot, and closes it.
func fillAgain(t *testing.T, c raftstore.Config) []*testpb.Thing {
	c.Transport.Listener = raftstoretest.NewListener()
	s, err := raftstore.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, s)
	for i := range 24 {
		put(t, s, &testpb.Thing{Id: fmt.Sprintf("g-%02d", i), Payload: make([]byte, 50+i*13)})
		if i == 12 {
			if err := s.Snapshot(waitContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := allThings(t, s)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestSnapshotCutAtEachChunk cuts a snapshot at each chunk's beginning and
// middle. The store refuses; with the whole one, the next try opens.
func TestSnapshotCutAtEachChunk(t *testing.T) {
	c := kindConfig(t.TempDir(), raftstoretest.NewSealer(), raftstore.LogWAL)
	s := openSolo(t, c)
	if err := s.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, s)
	for i := range 5 {
		put(t, s, &testpb.Thing{Id: fmt.Sprint(i), Payload: make([]byte, 40<<10)})
	}
	if err := s.Snapshot(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	want := allThings(t, s)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	disk := readDisk(t, c.Dir)
	name := "snapshots/" + newest(disk) + "/state"
	whole, cuts := disk.files[name], []int(nil)
	for at := 0; at < len(whole); {
		n := 4 + int(binary.BigEndian.Uint32(whole[at:]))
		cuts = append(cuts, at, at+2, at+n/2)
		at += n
	}
	if len(cuts) < 3*4 {
		t.Fatalf("the snapshot has %d chunks", len(cuts)/3)
	}
	for _, at := range cuts {
		cut := diskState{maps.Clone(disk.files), maps.Clone(disk.sizes)}
		cut.files[name] = whole[:at]
		err := openFlipped(t, c, cut, want)
		if err == nil || !strings.Contains(err.Error(), "snapshot") {
			t.Fatalf("cut to %d of %d bytes: %v", at, len(whole), err)
		}
		oneLine(t, fmt.Sprint("cut at ", at), err)
	}
	if err := openFlipped(t, c, disk, want); err != nil {
		t.Errorf("the whole one: %v", err)
	}
}
