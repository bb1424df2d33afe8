package raftstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// TestDamagedFile truncates, exchanges and scribbles over the log's file below
// the sealing, where the database that holds it trusts what it reads. The
// process must live, and the store either refuses with an error or has lost
// nothing.
func TestDamagedFile(t *testing.T) {
	dir, sealer := t.TempDir(), raftstoretest.NewSealer()
	filledBolt := func(dir string, sealer raftstore.Sealer) {
		filled(t, kindConfig(dir, sealer, raftstore.LogBolt), false)
	}
	filledBolt(dir, sealer)
	whole, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	filledBolt(other, raftstoretest.NewSealer())
	swapped, err := os.ReadFile(filepath.Join(other, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string][]byte{"exchanged with another manager's": swapped, "zeros": make([]byte, len(whole))}
	for _, n := range []int{1, 100, 4096, 8192, 16384, 32768, 65536, len(whole) / 2, len(whole) - 4096} {
		cases[fmt.Sprintf("truncated to %d", n)] = whole[:n]
	}
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := append([]byte(nil), whole...)
		// A page's header, where the database finds its way.
		page := 2 + r.IntN(len(b)/4096-2)
		for i := range 64 {
			b[page*4096+i] = byte(r.Uint32())
		}
		cases[fmt.Sprintf("page %d overwritten (%d)", page, seed)] = b
	}
	for name, content := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "raft.db"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := raftstore.Open(t.Context(), kindConfig(dir, sealer, raftstore.LogBolt))
			if err != nil {
				t.Log(err)
				return
			}
			defer s.Close(context.Background())
			// What is missing or overwritten was free: all of it must be there.
			ctx := waitContext(t)
			for {
				changed := s.LeaderChanged()
				if s.IsLeader() {
					break
				}
				select {
				case <-changed:
				case <-s.Done():
					t.Logf("it stopped: %v", s.Err())
					return
				case <-ctx.Done():
					t.Fatal("neither a leader nor an error")
				}
			}
			for i := range 12 {
				id := fmt.Sprintf("canary-object-%d", i)
				if err := s.View(func(r *raftstore.ReadTx) error {
					if _, ok := things.Get(r, id); !ok {
						return fmt.Errorf("%s is lost", id)
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
