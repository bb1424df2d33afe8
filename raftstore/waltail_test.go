package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// TestSegmentFullAtTheEnd ends a process between the write that fills a segment
// and the change of the list of segments, or in the midst of that write. The
// next process must go on from there, and so must those after it.
func TestSegmentFullAtTheEnd(t *testing.T) {
	for _, torn := range []bool{false, true} {
		t.Run(fmt.Sprintf("torn=%v", torn), func(t *testing.T) {
			dir, sealer := t.TempDir(), raftstoretest.NewSealer()
			there := 0
			for range 3 {
				there = fillSegment(t, dir, sealer, there, torn)
			}
			if err := allThere(t, walConfig(dir, sealer), there); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func walConfig(dir string, sealer raftstore.Sealer) raftstore.Config {
	return kindConfig(dir, sealer, raftstore.LogWAL).WithSegments(smallSegment)
}

// deafStable refuses to be written once it is told so.
type deafStable struct {
	raft.StableStore
	deaf *atomic.Bool
}

func (s *deafStable) Set(key, val []byte) error {
	if s.deaf.Load() {
		return errors.New("the list of segments cannot be written")
	}
	return s.StableStore.Set(key, val)
}

// fillSegment writes objects from number first on until the segment is full,
// which the list never learns, and returns how many must be there.
func fillSegment(t *testing.T, dir string, sealer raftstore.Sealer, first int, torn bool) int {
	var deaf atomic.Bool
	s, err := raftstore.Open(t.Context(), walConfig(dir, sealer).WithStable(func(s raft.StableStore) raft.StableStore {
		return &deafStable{s, &deaf}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if first == 0 {
		if err := s.Bootstrap(); err != nil {
			t.Fatal(err)
		}
	}
	raftstoretest.WaitLeader(t, s)
	for i := range first {
		get(t, s, fmt.Sprint("object-", i))
	}
	deaf.Store(true)
	mark := filepath.Join(dir, "mark")
	var marks [][]byte // before each write
	n := first
	for ; s.Err() == nil; n++ {
		if n > first+200 {
			t.Fatal("the segment is never full")
		}
		b, err := os.ReadFile(mark)
		if err != nil {
			t.Fatal(err)
		}
		marks = append(marks, b)
		if err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
			return things.Put(tx, &testpb.Thing{Id: fmt.Sprint("object-", n), Payload: make([]byte, 200)})
		}); err != nil {
			break
		}
	}
	receive(t, "the store to stop where its log cannot go on", s.Done())
	if why := s.Err(); why == nil || !strings.Contains(why.Error(), "the list of segments cannot be written") {
		t.Errorf("it does not say why: %v", why)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !torn {
		return n
	}
	// The write that filled the segment was the last one that was acknowledged:
	// make it one that was under way, of which the end was not written.
	found, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(found) == 0 {
		t.Fatalf("segments %v, %v", found, err)
	}
	slices.Sort(found)
	rewrite(t, found[len(found)-1], func(b []byte) []byte {
		end := len(b)
		for end > 0 && b[end-1] == 0 {
			end--
		}
		clear(b[end-8:])
		return b
	})
	if err := os.WriteFile(mark, marks[len(marks)-2], 0o600); err != nil {
		t.Fatal(err)
	}
	return n - 1
}
