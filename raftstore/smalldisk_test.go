package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// TestFullDisk fills a real file system, of which nobody else has a part, until
// the store stops by that. Opened again with room, it has all that it
// acknowledged, and goes on.
func TestFullDisk(t *testing.T) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) {
			disk := t.TempDir()
			if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=24m,mode=0700"); err != nil {
				t.Fatalf("mounting a small disk (run as root): %v", err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			c := kindConfig(filepath.Join(disk, "store"), raftstoretest.NewSealer(), kind)
			s, err := raftstore.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Bootstrap(); err != nil {
				t.Fatal(err)
			}
			raftstoretest.WaitLeader(t, s)
			var kept []string
			for err == nil {
				id := fmt.Sprint("big-", len(kept))
				err = s.Update(waitContext(t), func(tx *raftstore.Tx) error {
					return things.Put(tx, &testpb.Thing{Id: id, Payload: make([]byte, 900<<10)})
				})
				if err == nil {
					kept = append(kept, id)
				}
			}
			<-s.Done()
			if !errors.Is(s.Err(), syscall.ENOSPC) || len(kept) == 0 {
				t.Fatalf("after %d writes it stopped by %v, want a full disk", len(kept), s.Err())
			}
			if err := s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=96m,mode=0700"); err != nil {
				t.Fatal(err)
			}
			c.Transport.Listener = raftstoretest.NewListener()
			s = openSolo(t, c)
			raftstoretest.WaitLeader(t, s)
			for _, id := range kept {
				if get(t, s, id) == nil {
					t.Errorf("%s was acknowledged, and is lost", id)
				}
			}
			put(t, s, &testpb.Thing{Id: "after"})
		})
	}
}
