package raftstore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testseal"
)

// TestLogCopier copies a log while entries come, and are taken away at its beginning,
// at its end and altogether, at any moment between two batches.
func TestLogCopier(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ring := testseal.NewRing(1)
		bind := &binder{sealer: ring}
		var log exchangedLog
		log.LogStore = raft.NewInmemStore()
		to := raft.NewInmemStore()
		term, next := uint64(1), uint64(1)
		add := func(n int) {
			for range n {
				data, err := ring.Seal(labelLog, bind.logAAD(next, term, 0), fmt.Append(nil, term, next))
				if err != nil {
					t.Fatal(err)
				}
				if err := log.StoreLogs([]*raft.Log{{Index: next, Term: term, Data: data}}); err != nil {
					t.Fatal(err)
				}
				next++
			}
		}
		remove := func(lo, hi uint64) {
			if err := log.DeleteRange(lo, hi); err != nil {
				t.Fatal(err)
			}
		}
		bounds := func(s raft.LogStore) (first, last uint64) {
			first, err1 := s.FirstIndex()
			last, err2 := s.LastIndex()
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			return first, last
		}
		add(rapid.IntRange(0, 30).Draw(t, "entries"))
		ring.Add(2)
		c := &logCopier{from: &log, taken: &log, to: to, bind: bind}
		log.takeCut()
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) { add(rapid.IntRange(1, 5).Draw(t, "n")) },
			"batch": func(t *rapid.T) {
				if _, err := c.batch(); err != nil {
					t.Fatal(err)
				}
			},
			"compact": func(t *rapid.T) {
				if first, last := bounds(&log); last > 0 {
					remove(first, rapid.Uint64Range(first, last).Draw(t, "up to"))
				}
			},
			"truncate": func(t *rapid.T) {
				if first, last := bounds(&log); last > 0 {
					next = rapid.Uint64Range(first, last).Draw(t, "from")
					remove(next, last)
					term++
				}
			},
			"replace": func(t *rapid.T) { // by a snapshot of the leader
				if first, last := bounds(&log); last > 0 {
					remove(first, last)
				}
				next += rapid.Uint64Range(0, 20).Draw(t, "gap")
			},
		})
		for more := true; more; {
			var err error
			if more, err = c.batch(); err != nil {
				t.Fatal(err)
			}
		}
		first, last := bounds(&log)
		if f, l := bounds(to); last != l || last > 0 && f != first {
			t.Fatalf("copied %d to %d of %d to %d", f, l, first, last)
		}
		only := ring.With(2)
		for i := first; last > 0 && i <= last; i++ {
			var was, is raft.Log
			if err := errors.Join(log.GetLog(i, &was), to.GetLog(i, &is)); err != nil {
				t.Fatal(err)
			}
			plain, err := only.Open(labelLog, bind.logAAD(is.Index, is.Term, 0), is.Data)
			if err != nil || is.Term != was.Term || string(plain) != fmt.Sprint(is.Term, is.Index) {
				t.Fatalf("entry %d: %q of term %d, not %d: %v", i, plain, is.Term, was.Term, err)
			}
		}
	})
}
