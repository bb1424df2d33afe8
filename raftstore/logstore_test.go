package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func kindConfig(dir string, sealer raftstore.Sealer, kind raftstore.LogStore) raftstore.Config {
	c := soloConfig(dir, sealer)
	c.LogStore = kind
	return c
}

// filledKind makes a store of that kind with n objects and closes it. A small
// object is the last entry of the log.
func filledKind(t testing.TB, dir string, sealer raftstore.Sealer, kind raftstore.LogStore, n int) {
	t.Helper()
	s := openSolo(t, kindConfig(dir, sealer, kind))
	if err := s.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, s)
	for i := range n {
		put(t, s, &testpb.Thing{Id: fmt.Sprintf("object-%d", i), Payload: make([]byte, 200)})
	}
	if err := errors.Join(s.Close(waitContext(t)), s.Err()); err != nil {
		t.Fatal(err)
	}
}

// allThere opens the store and reports whether it is refused; what opens must
// have every object.
func allThere(t testing.TB, c raftstore.Config, n int) (refused error) {
	t.Helper()
	s, err := raftstore.Open(t.Context(), c)
	if err != nil {
		return err
	}
	defer s.Close(context.Background())
	raftstoretest.WaitLeader(t, s)
	for i := range n {
		get(t, s, fmt.Sprintf("object-%d", i))
	}
	return nil
}

// TestLogStoreConversion changes the kind to and fro, with the process ending
// at each step that reaches the disk.
func TestLogStoreConversion(t *testing.T) {
	kinds := []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL}
	for i, from := range kinds {
		to := kinds[1-i]
		t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
			dir, sealer := t.TempDir(), raftstoretest.NewSealer()
			filledKind(t, dir, sealer, from, 100)
			for step := range 200 {
				c := kindConfig(dir, sealer, to)
				err := raftstore.ConvertUpTo(c, step)
				if err == nil && step == 0 {
					t.Fatal("nothing was cut short")
				}
				if err == nil {
					t.Logf("%d steps", step)
					break
				}
				// Whatever was done of it, the directory opens as it says it is.
				if err := allThere(t, kindConfig(dir, sealer, ""), 100); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			if err := allThere(t, kindConfig(dir, sealer, to), 100); err != nil {
				t.Fatal(err)
			}
			_, err := os.Stat(filepath.Join(dir, "wal"))
			if (err == nil) != (to == raftstore.LogWAL) {
				t.Errorf("the directory of the other kind: %v", err)
			}
			if err := allThere(t, kindConfig(dir, sealer, ""), 100); err != nil { // what it has
				t.Fatal(err)
			}
		})
	}
}

// TestLogEndDamaged flips single bytes at the end of the log and cuts it, where
// both kinds see a write that a crash cut short. Each time the store must refuse
// or have lost nothing.
func TestLogEndDamaged(t *testing.T) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) {
			dir, sealer := t.TempDir(), raftstoretest.NewSealer()
			filledKind(t, dir, sealer, kind, 12)
			file := "raft.db"
			if kind == raftstore.LogWAL {
				found, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
				if err != nil || len(found) != 1 {
					t.Fatalf("segments %v, %v", found, err)
				}
				file = filepath.Join("wal", filepath.Base(found[0]))
			}
			whole, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			end := len(whole)
			for end > 0 && whole[end-1] == 0 {
				end--
			}
			refused := 0
			try := func(what string, content []byte) {
				to := filepath.Join(t.TempDir(), "store")
				if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(to, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := allThere(t, kindConfig(to, sealer, kind), 12); err != nil {
					refused++
					if strings.Contains(err.Error(), "\n") && kind == raftstore.LogWAL {
						t.Errorf("%s: more than one line: %v", what, err)
					}
				}
			}
			step := 61 // a prime: every part of a record is met
			if kind == raftstore.LogWAL {
				step = 7
			}
			for i := end - 1; i > max(0, end-20*step); i -= step {
				b := append([]byte(nil), whole...)
				b[i] ^= 0x40
				try(fmt.Sprintf("byte %d of %d flipped", i, end), b)
			}
			if kind == raftstore.LogBolt { // the meta pages
				for _, i := range []int{17, 60, 66, 70, 75, 4096 + 17, 4096 + 60, 4096 + 66, 4096 + 70, 4096 + 75} {
					b := append([]byte(nil), whole...)
					b[i] ^= 0x01
					try(fmt.Sprintf("meta byte %d flipped", i), b)
				}
			}
			for _, cut := range []int{1, 8, 9, 100, 300, 1000, end / 2} {
				b := append([]byte(nil), whole...)
				clear(b[end-cut:])
				try(fmt.Sprintf("the last %d bytes zeroed", cut), b)
				try(fmt.Sprintf("the last %d bytes cut off", cut), whole[:end-cut])
			}
			if refused < 10 {
				t.Errorf("only %d of them were refused: the test does not hit what counts", refused)
			}
		})
	}
}

// TestWatermarkDamaged: each part of the watermark may be flipped, as nothing is
// lost by that, but it may not be absent, or be another's.
func TestWatermarkDamaged(t *testing.T) {
	dir, sealer := t.TempDir(), raftstoretest.NewSealer()
	filledKind(t, dir, sealer, raftstore.LogWAL, 3)
	mark := filepath.Join(dir, "mark")
	whole, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 3, 20, 60, 512, 515, 540} {
		rewrite(t, mark, func([]byte) []byte { b := append([]byte(nil), whole...); b[i] ^= 1; return b })
		if err := allThere(t, kindConfig(dir, sealer, ""), 3); err != nil {
			t.Errorf("byte %d: %v", i, err)
		}
		if whole, err = os.ReadFile(mark); err != nil { // it went on
			t.Fatal(err)
		}
	}
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	if err := allThere(t, kindConfig(dir, sealer, ""), 3); err == nil || !strings.Contains(err.Error(), "no watermark") {
		t.Errorf("without its watermark: %v", err)
	}
}

// TestDirectoryOfTheFirstRelease opens a directory that has neither a watermark
// nor says of which kind its log is. It stays in bolt unless another is asked for.
func TestDirectoryOfTheFirstRelease(t *testing.T) {
	for _, want := range []raftstore.LogStore{"", raftstore.LogBolt, raftstore.LogWAL} {
		dir, sealer := t.TempDir(), raftstoretest.NewSealer()
		filledKind(t, dir, sealer, raftstore.LogBolt, 5)
		if err := os.Remove(filepath.Join(dir, "mark")); err != nil {
			t.Fatal(err)
		}
		raftstore.ForgetLayout(t, dir, sealer)
		for range 2 { // also the second time
			if err := allThere(t, kindConfig(dir, sealer, want), 5); err != nil {
				t.Fatalf("%q: %v", want, err)
			}
			_, err := os.Stat(filepath.Join(dir, "wal"))
			if (err == nil) != (want == raftstore.LogWAL) {
				t.Errorf("%q is wanted; the segments: %v", want, err)
			}
		}
	}
}

// TestNewDirectory gets segments where nothing is asked for.
func TestNewDirectory(t *testing.T) {
	dir, sealer := t.TempDir(), raftstoretest.NewSealer()
	filledKind(t, dir, sealer, "", 2)
	if _, err := os.Stat(filepath.Join(dir, "wal")); err != nil {
		t.Error(err)
	}
	if err := allThere(t, kindConfig(dir, sealer, ""), 2); err != nil {
		t.Error(err)
	}
}

// TestLostAcknowledgedEntries: a disk that forgets what it said was written is
// found out.
func TestLostAcknowledgedEntries(t *testing.T) {
	dir, sealer := t.TempDir(), raftstoretest.NewSealer()
	filledKind(t, dir, sealer, raftstore.LogWAL, 5)
	c := kindConfig(dir, sealer, "")
	c.Storage = func(open func() (*raftstore.Storage, error)) (*raftstore.Storage, error) {
		s, err := open()
		if err != nil {
			return nil, err
		}
		last, err := s.Log.LastIndex()
		if err != nil {
			return nil, err
		}
		return s, s.Log.DeleteRange(last, last)
	}
	if _, err := raftstore.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "written and acknowledged") {
		t.Errorf("got %v", err)
	}
}

func TestUnknownLogStore(t *testing.T) {
	c := kindConfig(t.TempDir(), raftstoretest.NewSealer(), "leveldb")
	if _, err := raftstore.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "use bolt or wal") {
		t.Errorf("got %v", err)
	}
}
