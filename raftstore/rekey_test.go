package raftstore_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/redoubt-cluster/redoubt/internal/keyscan"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

var logKinds = []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL}

// rekeyConfig has segments so small that there are several.
func rekeyConfig(dir string, sealer raftstore.Sealer, kind raftstore.LogStore) raftstore.Config {
	return kindConfig(dir, sealer, kind).WithSegments(smallSegment)
}

func begun(t testing.TB, c raftstore.Config) *raftstore.Store {
	t.Helper()
	s := openSolo(t, c)
	if len(s.Servers()) == 0 {
		if err := s.Bootstrap(); err != nil {
			t.Fatal(err)
		}
	}
	raftstoretest.WaitLeader(t, s)
	return s
}

func closeStore(t testing.TB, s *raftstore.Store) {
	t.Helper()
	if err := errors.Join(s.Close(waitContext(t)), s.Err()); err != nil {
		t.Fatal(err)
	}
}

func putMany(t testing.TB, s *raftstore.Store, prefix string, n int) {
	t.Helper()
	for i := range n {
		put(t, s, &testpb.Thing{Id: fmt.Sprintf("%s-%d", prefix, i), Payload: make([]byte, 400)})
	}
}

func getMany(t testing.TB, s *raftstore.Store, prefix string, n int) {
	t.Helper()
	for i := range n {
		get(t, s, fmt.Sprintf("%s-%d", prefix, i))
	}
}

// epochsIn are the key epochs of the records in a directory.
func epochsIn(t testing.TB, dir string) []uint32 {
	t.Helper()
	r, err := keyscan.Dir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(r.Epochs()))
}

func wantEpochs(t testing.TB, dir string, want ...uint32) {
	t.Helper()
	if got := epochsIn(t, dir); !slices.Equal(got, want) {
		r, _ := keyscan.Dir(t.Context(), dir)
		t.Fatalf("records of key epochs %v, want %v: %v", got, want, r.Files)
	}
}

// TestRekey renews the key twice under writes. What each key sealed before is
// gone, and the store opens with the last one alone.
func TestRekey(t *testing.T) {
	for _, kind := range logKinds {
		t.Run(string(kind), func(t *testing.T) {
			dir, ring := t.TempDir(), testseal.NewRing(1)
			s := begun(t, rekeyConfig(dir, ring, kind))
			putMany(t, s, "first", 60)
			if err := s.Snapshot(waitContext(t)); err != nil {
				t.Fatal(err)
			}
			putMany(t, s, "second", 60)
			wantEpochs(t, dir, 1)
			if _, err := s.Rekey(waitContext(t)); err != nil {
				t.Fatalf("renewing with one key alone: %v", err)
			}
			for epoch := uint32(2); epoch <= 3; epoch++ {
				ring.Add(epoch)
				stop := make(chan struct{})
				var wg sync.WaitGroup
				written := 0
				wg.Go(func() {
					for ; ; written++ {
						select {
						case <-stop:
							return
						default:
							put(t, s, &testpb.Thing{Id: fmt.Sprintf("under-%d-%d", epoch, written), Payload: make([]byte, 300)})
						}
					}
				})
				report, err := s.Rekey(waitContext(t))
				close(stop)
				wg.Wait()
				if err != nil {
					t.Fatal(err)
				}
				if len(report.Under(epoch-1)) > 0 || report.Epochs()[epoch] == 0 {
					t.Fatalf("%v", report)
				}
				ring.Drop(epoch - 1)
				wantEpochs(t, dir, epoch)
				if err := s.Snapshot(waitContext(t)); err != nil {
					t.Fatal(err)
				}
				putMany(t, s, fmt.Sprint("after-", epoch), 10)
				closeStore(t, s)
				s = begun(t, rekeyConfig(dir, ring, kind))
				getMany(t, s, "first", 60)
				getMany(t, s, "second", 60)
				getMany(t, s, fmt.Sprint("under-", epoch), written)
				getMany(t, s, fmt.Sprint("after-", epoch), 10)
			}
			if kind == raftstore.LogWAL {
				if logs, _ := filepath.Glob(filepath.Join(dir, "wal*")); len(logs) != 1 || filepath.Base(logs[0]) != "wal.3" {
					t.Errorf("directories of segments: %v", logs)
				}
			}
			closeStore(t, s)
			c := rekeyConfig(dir, testseal.NewRing(3), kind)
			if _, err := raftstore.Open(t.Context(), c); err == nil {
				t.Fatal("opened with another key of that epoch")
			}
		})
	}
}

// TestRekeyIsRefused where the key cannot be renewed, or the store is closed.
func TestRekeyIsRefused(t *testing.T) {
	s := begun(t, soloConfig(t.TempDir(), raftstoretest.NewSealer()))
	if _, err := s.Rekey(t.Context()); err == nil {
		t.Error("a sealer with one key for ever was renewed")
	}
	ring := testseal.NewRing(1)
	s = begun(t, soloConfig(t.TempDir(), ring))
	ring.Add(2)
	closeStore(t, s)
	if _, err := s.Rekey(t.Context()); !errors.Is(err, raftstore.ErrClosed) {
		t.Errorf("a closed store: %v", err)
	}
}

// TestRekeyWithNothingNew: no snapshot can be taken, so the one there is, is copied.
func TestRekeyWithNothingNew(t *testing.T) {
	dir, ring := t.TempDir(), testseal.NewRing(1)
	c := rekeyConfig(dir, ring, raftstore.LogWAL)
	s := begun(t, c)
	putMany(t, s, "a", 20)
	if err := s.Snapshot(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	ring.Add(2)
	if _, err := s.Rekey(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	ring.Drop(1)
	snaps, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil || len(snaps) != 1 {
		t.Fatalf("%v %v", snaps, err)
	}
	closeStore(t, s)
	s = begun(t, rekeyConfig(dir, ring, ""))
	getMany(t, s, "a", 20)
}

var errCrash = errors.New("the power fails here")

// TestRekeyCutShort ends Rekey at each of its steps: in the process, which goes on
// and tries again, and on a copy of the disk as it was at that moment, which is
// opened with both keys and tries again.
func TestRekeyCutShort(t *testing.T) {
	for _, kind := range logKinds {
		for _, step := range raftstore.RekeySteps {
			t.Run(string(kind)+"/"+step, func(t *testing.T) {
				t.Parallel()
				dir, image, ring := t.TempDir(), filepath.Join(t.TempDir(), "image"), testseal.NewRing(1)
				cut := true
				c := rekeyConfig(dir, ring, kind).WithRekeyed(func(at string) error {
					if !cut || at != step {
						return nil
					}
					cut = false
					if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
						t.Error(err)
					}
					return errCrash
				})
				s := begun(t, c)
				putMany(t, s, "a", 40)
				if err := s.Snapshot(waitContext(t)); err != nil {
					t.Fatal(err)
				}
				putMany(t, s, "b", 20)
				ring.Add(2)
				if _, err := s.Rekey(waitContext(t)); !errors.Is(err, errCrash) {
					t.Fatalf("cut short: %v", err)
				}
				keys := ring.With(1, 2)
				putMany(t, s, "c", 20)
				if _, err := s.Rekey(waitContext(t)); err != nil {
					t.Fatal(err)
				}
				ring.Drop(1)
				closeStore(t, s)
				wantEpochs(t, dir, 2)
				s = begun(t, rekeyConfig(dir, ring, ""))
				getMany(t, s, "a", 40)
				getMany(t, s, "b", 20)
				getMany(t, s, "c", 20)

				s = begun(t, rekeyConfig(image, keys, ""))
				getMany(t, s, "a", 40)
				getMany(t, s, "b", 20)
				putMany(t, s, "d", 20)
				if _, err := s.Rekey(waitContext(t)); err != nil {
					t.Fatal(err)
				}
				keys.Drop(1)
				putMany(t, s, "e", 1)
				closeStore(t, s)
				wantEpochs(t, image, 2)
				s = begun(t, rekeyConfig(image, keys, ""))
				getMany(t, s, "b", 20)
				getMany(t, s, "d", 20)
				getMany(t, s, "e", 1)
			})
		}
	}
}

// TestRekeyMeetsAnUnfinishedSnapshot: one that was begun under the old key is found,
// and done away with when it is complete.
func TestRekeyMeetsAnUnfinishedSnapshot(t *testing.T) {
	dir, ring := t.TempDir(), testseal.NewRing(1)
	s := begun(t, rekeyConfig(dir, ring, raftstore.LogWAL))
	putMany(t, s, "a", 5)
	sealed, err := ring.Seal("snapshot", nil, make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, "snapshots", "00000000000000000001-x.tmp")
	if err := errors.Join(os.Mkdir(tmp, 0o700), os.WriteFile(filepath.Join(tmp, "state"), sealed, 0o600)); err != nil {
		t.Fatal(err)
	}
	ring.Add(2)
	if r, err := s.Rekey(waitContext(t)); !errors.Is(err, raftstore.ErrRekey) || len(r.Under(1)) != 1 {
		t.Fatalf("%v %v", r, err)
	}
	if err := os.RemoveAll(tmp); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rekey(waitContext(t)); err != nil {
		t.Fatal(err)
	}
}

// TestRekeyConverts: a log is of the other kind after its key was renewed.
func TestRekeyConverts(t *testing.T) {
	dir, ring := t.TempDir(), testseal.NewRing(1)
	kinds := []raftstore.LogStore{raftstore.LogWAL, raftstore.LogBolt, raftstore.LogWAL, raftstore.LogWAL}
	for i, kind := range kinds {
		s := begun(t, rekeyConfig(dir, ring, kind))
		putMany(t, s, fmt.Sprint("round-", i), 10)
		next := uint32(i) + 2
		ring.Add(next)
		if _, err := s.Rekey(waitContext(t)); err != nil {
			t.Fatal(err)
		}
		ring.Drop(next - 1)
		for j := range i + 1 {
			getMany(t, s, fmt.Sprint("round-", j), 10)
		}
		closeStore(t, s)
		wantEpochs(t, dir, next)
	}
}
