package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

func testSnapshots(t *testing.T) (*sealedSnapshots, *halter) {
	t.Helper()
	h := newHalter(slog.New(slog.DiscardHandler))
	s, err := openSnapshots(t.TempDir(), testBinder("c", "n"), h)
	if err != nil {
		t.Fatal(err)
	}
	return s, h
}

// beginSnapshot makes a snapshot that needs only to be closed.
func beginSnapshot(t *testing.T, s *sealedSnapshots, index uint64) raft.SnapshotSink {
	t.Helper()
	k, err := s.Create(1, index, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(k, "state ", index); err != nil {
		t.Fatal(err)
	}
	return k
}

// tryOpen opens a snapshot as a goroutine of raft does, which a halt ends.
func tryOpen(s *sealedSnapshots, id string) error {
	err := errors.New("the goroutine was ended")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, r, oerr := s.Open(id)
		if err = oerr; err == nil {
			err = r.Close()
		}
	}()
	<-done
	return err
}

// TestSnapshotFromLeaderBesideOwn: raft writes one of its own while it takes in
// the leader's, of the same index, and opens the leader's only then.
func TestSnapshotFromLeaderBesideOwn(t *testing.T) {
	s, h := testSnapshots(t)
	for range 12 { // which of them comes first by name is chance
		sent, own := beginSnapshot(t, s, 35), beginSnapshot(t, s, 35)
		for _, k := range []raft.SnapshotSink{sent, own} {
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := tryOpen(s, sent.ID()); err != nil {
			t.Fatalf("the snapshot that was just taken in: %v (%v)", err, h.reason())
		}
		if ids, err := s.ids(); err != nil || len(ids) > snapshotsKept+snapshotWriters {
			t.Fatalf("%d snapshots are kept (%v)", len(ids), err)
		}
	}
}

// TestSnapshotGoneAndMissing: that a snapshot was removed since it was listed is
// an error for whoever opens it; that one is missing stops the store.
func TestSnapshotGoneAndMissing(t *testing.T) {
	s, h := testSnapshots(t)
	var last string
	write := func(index uint64) {
		t.Helper()
		k := beginSnapshot(t, s, index)
		last = k.ID()
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(1)
	listed, err := s.List()
	if err != nil || len(listed) != 1 {
		t.Fatalf("%v, %v", listed, err)
	}
	for i := range uint64(snapshotWriters + 1) {
		write(2 + i)
	}
	if err := tryOpen(s, listed[0].ID); !errors.Is(err, errSnapshotGone) {
		t.Errorf("a snapshot that was removed after it was listed: %v", err)
	}
	if h.reason() != nil {
		t.Fatalf("the store stopped: %v", h.reason())
	}
	if err := os.RemoveAll(filepath.Join(s.dir, last)); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(s, last); err == nil || h.reason() == nil {
		t.Errorf("a snapshot is missing: %v, and the store stopped for %v", err, h.reason())
	}
}

// TestSnapshotHalfRemoved: a crash in the midst of a removal costs nothing.
func TestSnapshotHalfRemoved(t *testing.T) {
	s, h := testSnapshots(t)
	k := beginSnapshot(t, s, 7)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	err := s.removeLocked(k.ID())
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	// What that leaves when it is ended before the last step.
	if err := os.Mkdir(filepath.Join(s.dir, k.ID()+snapTmp), 0o700); err != nil {
		t.Fatal(err)
	}
	again, err := openSnapshots(s.dir, s.bind, h)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := again.metas(); err != nil || len(kept) != 0 {
		t.Errorf("%v, %v", kept, err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}
