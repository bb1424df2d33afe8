package raftstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

func (m *simMember) write(ctx context.Context, id string) error {
	return m.current().Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: id}) })
}

// A leader whose successor hangs, and does not answer, leads on and takes writes:
// raft itself would take none for as long as it waits for an answer.
func TestHandoverToOneThatHangs(t *testing.T) {
	for _, answer := range []bool{false, true} {
		inBubble(t, func(t *testing.T) {
			c := newSimCluster(t, 2, 3)
			defer c.close()
			c.agree()
			lead := c.leader()
			c.net.mu.Lock()
			c.net.meddler.rules = []*simMeddling{{kind: simTimeout, answer: answer, late: time.Hour, left: 9}}
			c.net.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begun := time.Now()
			err := lead.current().TransferLeadership(ctx)
			if answer {
				// It has taken over, though nobody heard that it would.
				if err != nil {
					t.Errorf("the other took over: %v", err)
				}
				c.change(func(ctx context.Context, s *raftstore.Store) error {
					return s.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "x"}) })
				})
				return
			}
			if err == nil {
				t.Error("nobody was there to take over")
			}
			for err = lead.write(ctx, "x"); err != nil && ctx.Err() == nil; err = lead.write(ctx, "x") {
				time.Sleep(10 * time.Millisecond) // simulated time
			}
			if took := time.Since(begun); err != nil || took > 3*simElectionTimeout {
				t.Errorf("no write for %v: %v", took, err)
			}
		})
	}
}

// A log that is empty behind a snapshot is no reason for another one.
func TestNoSnapshotOfTheSameState(t *testing.T) {
	for _, seed := range []uint64{2, 3} { // one for each kind of log
		inBubble(t, func(t *testing.T) {
			c := newSimCluster(t, seed, 3)
			defer c.close()
			c.agree()
			lead := c.leader()
			late := c.all[(slices.Index(c.all, lead)+1)%3]
			c.net.split([]string{late.id}, c.ids())
			for i := range 60 {
				if err := lead.write(t.Context(), fmt.Sprint(i)); err != nil {
					t.Error(err)
					return
				}
			}
			if err := lead.current().Snapshot(t.Context()); err != nil {
				t.Error(err)
			}
			c.net.heal()
			c.agree()
			time.Sleep(time.Second) // simulated time
			before := late.snapshots(t)
			time.Sleep(time.Minute) // simulated time, of two hundred intervals
			if after := late.snapshots(t); len(before) == 0 || !slices.Equal(before, after) {
				t.Errorf("its snapshots were %v, and are %v, and nothing was written", before, after)
			}
			c.crash(late) // and it starts on it
			c.start(late)
			c.agree()
		})
	}
}

func (m *simMember) snapshots(t *testing.T) (names []string) {
	entries, err := os.ReadDir(filepath.Join(m.dir, "snapshots"))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
