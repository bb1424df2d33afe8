package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// growthSegment is less than what the store takes, of which a test would have to
// fill several.
const growthSegment = 2 << 20

// However much is written, the directory stays within a bound that what is kept
// sets: the state twice, and the log that snapshots leave.
func TestGrowthIsBounded(t *testing.T) {
	for kind, c := range map[raftstore.LogStore]struct{ writes, most int64 }{
		raftstore.LogBolt: {192, 10 << 20},
		// Three segments, each of which is made in its full size, and the state.
		raftstore.LogWAL: {192, 3*growthSegment + 1<<20},
	} {
		t.Run(string(kind), func(t *testing.T) {
			dir := t.TempDir()
			s, err := raftstore.Open(t.Context(), raftstore.Config{
				Dir: dir, NodeID: "n", ClusterID: "cluster", Tables: []raftstore.Registered{things}, Sealer: raftstoretest.NewSealer(),
				Logger: slog.New(slog.DiscardHandler), LogStore: kind,
				Transport: raftstore.Transport{Listener: raftstoretest.NewListener(), Advertise: raftstore.JoinAddr("n", "none:1"),
					Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("there is nobody") }},
				ElectionTimeout: 50 * time.Millisecond, SnapshotThreshold: 16, TrailingLogs: 16, SnapshotInterval: time.Hour,
			}.WithSegments(growthSegment))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := errors.Join(s.Close(context.Background()), s.Err()); err != nil {
					t.Error(err)
				}
			}()
			if err := s.Bootstrap(); err != nil {
				t.Fatal(err)
			}
			raftstoretest.WaitLeader(t, s)
			// 64 KiB an entry, always of the same four objects.
			payload := bytes.Repeat([]byte("n"), 64<<10)
			most := int64(0)
			for i := range c.writes {
				if err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
					thing := &testpb.Thing{Id: string('a' + rune(i%4))}
					if old, ok := things.Get(tx, thing.Id); ok {
						thing = proto.CloneOf(old)
					}
					thing.Payload, thing.Number = payload, i
					return things.Put(tx, thing)
				}); err != nil {
					t.Fatal(err)
				}
				if i%32 == 31 {
					if err := s.Snapshot(waitContext(t)); err != nil {
						t.Fatal(err)
					}
					most = max(most, size(t, dir))
				}
			}
			t.Logf("%d MiB written, %d KiB on disk at most", c.writes*64>>10, most>>10)
			if most > c.most {
				t.Errorf("%d bytes on disk, more than %d", most, c.most)
			}
		})
	}
}

func size(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return n
}
