package raftstore_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

var errNotMet = errors.New("not met")

// once succeeds as long as the ticket is there, and takes it.
func once(ctx context.Context) context.Context {
	return raftstore.WithCondition(ctx, func(tx *raftstore.Tx) (func(*raftstore.Tx) error, error) {
		if _, ok := things.Get(tx, "ticket"); !ok {
			return nil, errNotMet
		}
		return func(tx *raftstore.Tx) error { return things.Delete(tx, "ticket") }, nil
	})
}

// TestCondition: what it reads is the state of before, what it writes is committed with
// the transaction or not at all, and one that writes nothing leaves it alone.
func TestCondition(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "ticket"})
	ctx, failed := once(waitContext(t)), errors.New("failed")
	has := func(id string) (ok bool) {
		_ = s.View(func(r *raftstore.ReadTx) error {
			_, ok = things.Get(r, id)
			return nil
		})
		return ok
	}
	if err := s.Update(ctx, func(*raftstore.Tx) error { return failed }); !errors.Is(err, failed) || !has("ticket") {
		t.Fatalf("%v, or what failed took the ticket", err)
	}
	if err := s.Update(ctx, func(*raftstore.Tx) error { return nil }); err != nil || !has("ticket") {
		t.Fatalf("%v, or what only read took the ticket", err)
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := s.Update(ctx, func(tx *raftstore.Tx) error {
				return things.Put(tx, &testpb.Thing{Id: string(rune('a' + i))})
			})
			switch {
			case err == nil:
				done.Add(1)
			case !errors.Is(err, errNotMet):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done.Load() != 1 || has("ticket") {
		t.Errorf("%d transactions with one ticket", done.Load())
	}
	// The transaction's own writes meet nothing.
	err := s.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "ticket"}) })
	if !errors.Is(err, errNotMet) || has("ticket") {
		t.Errorf("a transaction met its condition itself: %v", err)
	}
}
