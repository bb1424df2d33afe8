package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

const soloNode = "canary-node-id"

func soloConfig(dir string, sealer raftstore.Sealer) raftstore.Config {
	return raftstore.Config{
		Dir: dir, NodeID: soloNode, ClusterID: "canary-cluster-id",
		Tables: []raftstore.Registered{things}, Sealer: sealer, Logger: slog.New(slog.DiscardHandler),
		Transport: raftstore.Transport{
			Listener: raftstoretest.NewListener(), Advertise: raftstore.JoinAddr(soloNode, "canary-host:1"),
			Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("no peers") },
		},
		ElectionTimeout: 20 * time.Millisecond, TrailingLogs: 4,
	}
}

func openSolo(t testing.TB, c raftstore.Config) *raftstore.Store {
	t.Helper()
	s, err := raftstore.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// filled makes a store with log entries, stable values and, on request, a
// snapshot, and closes it.
func filled(t testing.TB, c raftstore.Config, snapshot bool) {
	t.Helper()
	s := openSolo(t, c)
	if err := s.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, s)
	for i := range 12 {
		put(t, s, &testpb.Thing{Id: fmt.Sprintf("canary-object-%d", i), Name: fmt.Sprintf("canary-name-%d", i),
			Payload: bytes.Repeat([]byte("canary-payload "), 5000)})
		if i == 8 && snapshot {
			if err := s.Snapshot(waitContext(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsReadableOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	filled(t, soloConfig(dir, raftstoretest.NewSealer()), true)
	files, size := 0, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files, size = files+1, size+len(data)
		for _, secret := range []string{"canary", "LastVoteCand", "CurrentTerm", "things", "Suffrage", "Configuration"} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s contains %q in clear", path, secret)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files != 5 || size < 12*5000*15 { // stable values, log, watermark, snapshot state, snapshot meta
		t.Fatalf("%d files of %d bytes were looked at: the canaries were not written", files, size)
	}
}

func TestRestart(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		t.Run(fmt.Sprint("snapshot=", snapshot), func(t *testing.T) {
			dir, sealer := t.TempDir(), raftstoretest.NewSealer()
			filled(t, soloConfig(dir, sealer), snapshot)
			s := openSolo(t, soloConfig(dir, sealer))
			if err := s.Bootstrap(); err == nil {
				t.Error("a store with state begins a new cluster")
			}
			raftstoretest.WaitLeader(t, s)
			for i := range 12 {
				if o := get(t, s, fmt.Sprintf("canary-object-%d", i)); len(o.GetPayload()) != 75000 {
					t.Errorf("object %d has %d bytes", i, len(o.GetPayload()))
				}
			}
			err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
				return things.Put(tx, &testpb.Thing{Id: "x", Name: "canary-name-3"})
			})
			var dup *raftstore.DuplicateError
			if !errors.As(err, &dup) {
				t.Errorf("the unique index was not rebuilt: %v", err)
			}
			put(t, s, &testpb.Thing{Id: "new"})
			if _, err := raftstore.Open(t.Context(), soloConfig(dir, sealer)); err == nil {
				t.Error("a second store opens the same directory")
			}
		})
	}
}

// inBolt changes the closed log file at dir.
func inBolt(t testing.TB, dir, bucket string, change func(b *bbolt.Bucket, keys [][]byte) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		var keys [][]byte
		if err := b.ForEach(func(k, _ []byte) error { keys = append(keys, bytes.Clone(k)); return nil }); err != nil {
			return err
		}
		return change(b, keys)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func flipped(v []byte) []byte {
	v = bytes.Clone(v)
	v[len(v)/2] ^= 0x10
	return v
}

// snapshotFile is the path of a file of the only snapshot at dir.
func snapshotFile(t testing.TB, dir, name string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", name))
	if err != nil || len(found) != 1 {
		t.Fatalf("snapshots %v, %v", found, err)
	}
	return found[0]
}

func rewrite(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsRefusedAtOpen(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"log entry flipped": {func(t *testing.T, dir string) {
			inBolt(t, dir, "logs", func(b *bbolt.Bucket, k [][]byte) error { return b.Put(k[2], flipped(b.Get(k[2]))) })
		}, "log entry"},
		"log entries swapped": {func(t *testing.T, dir string) {
			inBolt(t, dir, "logs", func(b *bbolt.Bucket, k [][]byte) error {
				x, y := bytes.Clone(b.Get(k[2])), bytes.Clone(b.Get(k[3]))
				return errors.Join(b.Put(k[2], y), b.Put(k[3], x))
			})
		}, "log entry"},
		"log entry missing": {func(t *testing.T, dir string) {
			inBolt(t, dir, "logs", func(b *bbolt.Bucket, k [][]byte) error { return b.Delete(k[2]) })
		}, "is missing"},
		"stable values swapped": {func(t *testing.T, dir string) {
			inBolt(t, dir, "conf", func(b *bbolt.Bucket, k [][]byte) error {
				x, y := bytes.Clone(b.Get(k[0])), bytes.Clone(b.Get(k[1]))
				return errors.Join(b.Put(k[0], y), b.Put(k[1], x))
			})
		}, "does not open"},
		"stable values flipped": {func(t *testing.T, dir string) {
			inBolt(t, dir, "conf", func(b *bbolt.Bucket, k [][]byte) (err error) {
				for _, k := range k {
					err = errors.Join(err, b.Put(k, flipped(b.Get(k))))
				}
				return err
			})
		}, "does not open"},
		"snapshot flipped": {func(t *testing.T, dir string) {
			rewrite(t, snapshotFile(t, dir, "state"), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, "snapshot"},
		"snapshot cut off": {func(t *testing.T, dir string) {
			rewrite(t, snapshotFile(t, dir, "state"), func(b []byte) []byte { return b[:len(b)-10] })
		}, "snapshot"},
		"snapshot state missing": {func(t *testing.T, dir string) {
			if err := os.Remove(snapshotFile(t, dir, "state")); err != nil {
				t.Fatal(err)
			}
		}, "snapshot"},
		"snapshot description flipped": {func(t *testing.T, dir string) {
			rewrite(t, snapshotFile(t, dir, "meta"), flipped)
		}, "snapshot"},
		"snapshots gone": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Dir(filepath.Dir(snapshotFile(t, dir, "meta")))); err != nil {
				t.Fatal(err)
			}
		}, "no snapshot reaches"},
		"log gone": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "raft.db")); err != nil {
				t.Fatal(err)
			}
		}, "were written and acknowledged"},
		"stable values gone": {func(t *testing.T, dir string) {
			inBolt(t, dir, "conf", func(b *bbolt.Bucket, k [][]byte) (err error) {
				for _, k := range k {
					err = errors.Join(err, b.Delete(k))
				}
				return err
			})
		}, "term or vote is older"},
		"snapshot renamed": {func(t *testing.T, dir string) {
			old := filepath.Dir(snapshotFile(t, dir, "meta"))
			if err := os.Rename(old, old[:len(old)-1]+"_"); err != nil {
				t.Fatal(err)
			}
		}, "snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, sealer := t.TempDir(), raftstoretest.NewSealer()
			config := kindConfig(dir, sealer, raftstore.LogBolt) // what is damaged here is in the database
			filled(t, config, true)
			c.damage(t, dir)
			config.Transport.Listener = raftstoretest.NewListener()
			s, err := raftstore.Open(t.Context(), config)
			if err == nil {
				t.Cleanup(func() { _ = s.Close(context.Background()) })
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error about %q", err, c.want)
			}
			if !strings.HasSuffix(err.Error(), "or leave and join again") {
				t.Errorf("%v: it does not say what to do", err)
			}
		})
	}
}

func TestAnotherKeyOrIdentityOpensNothing(t *testing.T) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) {
			dir, sealer := t.TempDir(), raftstoretest.NewSealer()
			filled(t, kindConfig(dir, sealer, kind), false)
			other := kindConfig(dir, sealer, "")
			other.Incarnation = 1
			foreign := kindConfig(dir, sealer, kind)
			foreign.ClusterID = "another"
			neighbour := kindConfig(dir, sealer, "")
			neighbour.NodeID, neighbour.Transport.Advertise = "neighbour", raftstore.JoinAddr("neighbour", "canary-host:1")
			for what, c := range map[string]raftstore.Config{
				"key": kindConfig(dir, raftstoretest.NewSealer(), kind), "incarnation": other, "cluster": foreign, "node": neighbour,
			} {
				if s, err := raftstore.Open(t.Context(), c); err == nil {
					_ = s.Close(context.Background())
					t.Errorf("another %s opens the store", what)
				} else if !strings.Contains(err.Error(), "does not open") {
					t.Errorf("another %s: %v", what, err)
				}
			}
			openSolo(t, kindConfig(dir, sealer, kind)) // and nothing was spoilt by trying
			if s, err := raftstore.Open(t.Context(), kindConfig(dir, sealer, kind)); err == nil {
				_ = s.Close(context.Background())
				t.Error("two stores on one directory")
			} else if !strings.Contains(err.Error(), "in use by another process") {
				t.Errorf("two stores on one directory: %v", err)
			}
		})
	}
}

// failingSealer fails on demand, as a disk does.
type failingSealer struct {
	raftstore.Sealer
	seal atomic.Bool
}

var errFire = errors.New("the disk is on fire")

func (f *failingSealer) Seal(label string, aad, plain []byte) ([]byte, error) {
	if f.seal.Load() {
		return nil, errFire
	}
	return f.Sealer.Seal(label, aad, plain)
}

func TestStorageFailureStopsTheStoreAndNotTheProcess(t *testing.T) {
	sealer := &failingSealer{Sealer: raftstoretest.NewSealer()}
	s := openSolo(t, soloConfig(t.TempDir(), sealer))
	if err := s.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitLeader(t, s)
	put(t, s, &testpb.Thing{Id: "a"})
	led := make(chan struct{})
	lost := make(chan error, 1)
	go func() {
		lost <- s.WhileLeader(t.Context(), func(ctx context.Context) {
			close(led)
			<-ctx.Done()
		})
	}()
	receive(t, "the store to lead", led)
	sealer.seal.Store(true)
	err := s.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "b"}) })
	if err == nil {
		t.Fatal("a write that was not stored is acknowledged")
	}
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the store goes on")
	}
	if !errors.Is(s.Err(), errFire) {
		t.Fatalf("the reason is %v", s.Err())
	}
	if err := receive(t, "WhileLeader to return", lost); !errors.Is(err, errFire) {
		t.Fatalf("WhileLeader ended with %v", err)
	}
	if err := s.Close(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.View(func(*raftstore.ReadTx) error { return nil }); !errors.Is(err, errFire) {
		t.Fatalf("View: %v", err)
	}
}

func TestUnknownTableStopsTheStore(t *testing.T) {
	dir, sealer := t.TempDir(), raftstoretest.NewSealer()
	filled(t, soloConfig(dir, sealer), false)
	c := soloConfig(dir, sealer)
	c.Tables = []raftstore.Registered{others}
	s := openSolo(t, c)
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the store goes on with entries that it does not understand")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), `table "things" is unknown`) || !strings.Contains(err.Error(), "log entry") {
		t.Fatalf("the reason is %v", err)
	}
}
