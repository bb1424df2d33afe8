package raftstore_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// flips is how many bytes of each file an ordinary run flips; the long run
// takes as many as REDOUBT_CRASH_CYCLES says (make crash).
const flips = 10

// TestFlippedByte flips a byte of a file of a store that was closed. The store
// must refuse with an error, or hold exactly what it held: then the byte was in
// a part of the file that counts for nothing. In the log of segments half of the
// flips are in the last entries, which raft-wal itself takes for a write that a
// crash cut short.
func TestFlippedByte(t *testing.T) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c := soloConfig(t.TempDir(), raftstoretest.NewSealer())
			c.LogStore = kind
			want := fillFlipped(t, c)
			disk := readDisk(t, c.Dir)
			r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
			refused, harmless := 0, 0
			for _, name := range slices.Sorted(maps.Keys(disk.files)) {
				content := disk.files[name]
				used := len(content)
				for used > 0 && content[used-1] == 0 {
					used--
				}
				if used == 0 {
					continue
				}
				for range crashCyclesWanted(t, flips) {
					at := r.IntN(used)
					if tail := min(used, 1200); r.IntN(2) == 0 && kind == raftstore.LogWAL {
						at = used - 1 - r.IntN(tail)
					}
					with := diskState{maps.Clone(disk.files), disk.sizes}
					with.files[name] = slices.Clone(content)
					with.files[name][at] ^= byte(1 + r.IntN(255))
					if why := openFlipped(t, c, with, want); why != nil {
						refused++
					} else {
						harmless++
					}
					if t.Failed() {
						t.Fatalf("byte %d of %s, of which %d are used", at, name, used)
					}
				}
			}
			t.Logf("flipped bytes: log=%s files=%d refused=%d harmless=%d swallowed=0", kind, len(disk.files), refused, harmless)
			if refused == 0 {
				t.Error("no flip was refused")
			}
		})
	}
}

// fillFlipped fills a store with a snapshot and entries behind it.
func fillFlipped(t *testing.T, c raftstore.Config) (want []*testpb.Thing) {
	s, err := raftstore.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, s)
	for i := range 24 {
		put(t, s, &testpb.Thing{Id: fmt.Sprintf("f-%02d", i), Payload: make([]byte, 50+i*13)})
		if i == 12 {
			if err := s.Snapshot(waitContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want = allThings(t, s)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return want
}

func allThings(t *testing.T, s *raftstore.Store) (all []*testpb.Thing) {
	if err := s.View(func(r *raftstore.ReadTx) error {
		all = slices.Collect(things.All(r))
		return nil
	}); err != nil {
		t.Error(err)
	}
	return all
}

// openFlipped returns why the store refuses what is on the disk; nil where it
// holds what is wanted. Anything else fails the test.
func openFlipped(t *testing.T, c raftstore.Config, disk diskState, want []*testpb.Thing) error {
	dir, err := os.MkdirTemp(t.TempDir(), "flip-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk.write(t, dir)
	c.Dir = dir
	c.Transport.Listener = raftstoretest.NewListener()
	s, err := raftstore.Open(t.Context(), c)
	if err != nil {
		if !strings.Contains(err.Error(), "or leave and join again") {
			t.Errorf("%v: it does not say what to do", err)
		}
		return err
	}
	defer s.Close(context.Background())
	ctx := waitContext(t)
	for {
		changed := s.LeaderChanged()
		if s.IsLeader() {
			break
		}
		select {
		case <-changed:
		case <-s.Done():
			return s.Err()
		case <-ctx.Done():
			t.Error("neither a leader nor an error")
			return nil
		}
	}
	got := allThings(t, s)
	if !slices.EqualFunc(got, want, func(a, b *testpb.Thing) bool { return proto.Equal(a, b) }) {
		t.Errorf("the flip was swallowed: %d objects, %d are wanted", len(got), len(want))
	}
	return nil
}
