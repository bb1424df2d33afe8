package raftstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// TestCloseAfterAnyFailure lets each operation of a disk fail once, of a leader
// and of a follower that gets a snapshot, before it was done and after. Whatever
// goroutine of raft that ends, the store must close; in simulated time, a wait
// that nothing ends is an error at once.
func TestCloseAfterAnyFailure(t *testing.T) {
	const lost = simOp("snapshot-lost")
	stopped := map[simOp]int{}
	reads := map[simOp]bool{opEntry: true, opFirst: true, opLast: true, opGet: true, opRead: true, opList: true, opOpen: true}
	for _, op := range append([]simOp{lost}, simOps...) {
		for _, at := range []string{"leader", "follower"} {
			for _, late := range []bool{false, true} {
				if late && reads[op] {
					continue // there is nothing that was done
				}
				t.Run(fmt.Sprintf("%s/%s/late=%v", op, at, late), func(t *testing.T) {
					inBubble(t, func(t *testing.T) {
						c := newSimCluster(t, uint64(len(stopped)), 3)
						defer c.close()
						c.slowNet(5 * time.Millisecond)
						victim := c.all[0]
						if at == "follower" {
							victim = c.all[2]
						}
						away := c.all[2]
						arm := func() {
							if op == lost {
								dir := victim.dir
								victim.disk.lose = func(id string) { _ = os.RemoveAll(filepath.Join(dir, "snapshots", id)) }
								return
							}
							victim.disk.failAt(op, 1, late)
						}
						if at == "leader" {
							arm()
						}
						c.net.split([]string{away.id}, c.ids()) // until it needs a snapshot
						c.scribble(40)
						time.Sleep(time.Second) // simulated time
						if at == "follower" {
							arm()
						}
						c.net.heal()
						c.scribble(10)
						time.Sleep(2 * time.Second) // simulated time
						if s := victim.current(); s != nil && s.Err() == nil {
							s.Stand() // a term and a vote are written
						}
						time.Sleep(time.Second) // simulated time
						if s := victim.current(); s == nil || s.Err() != nil {
							stopped[op]++
						}
					})
				})
			}
		}
	}
	t.Logf("stores that stopped: %v", stopped)
	for _, op := range []simOp{lost, opAppend, opSet, opMark} {
		if stopped[op] == 0 {
			t.Errorf("no store stopped for %s", op)
		}
	}
}

// scribble writes n objects at whoever leads, as far as that goes.
func (c *simCluster) scribble(n int) {
	for i := range n {
		lead := c.leaderNow()
		if lead == nil {
			time.Sleep(100 * time.Millisecond) // simulated time: until somebody does
			continue
		}
		if s := lead.current(); s != nil {
			ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
			_ = s.Update(ctx, func(tx *raftstore.Tx) error {
				o, ok := things.Get(tx, "k")
				if !ok {
					o = &testpb.Thing{Id: "k"}
				}
				return things.Put(tx, &testpb.Thing{Id: "k", Number: int64(i), Meta: o.GetMeta()})
			})
			cancel()
		}
	}
}
