package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// TestConcurrentIncrements has many writers add to few counters. Each Update
// that returned counts exactly once, whatever conflicts there were.
func TestConcurrentIncrements(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "c0"}, &testpb.Thing{Id: "c1"})
	const writers, each = 16, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				for {
					err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
						o, ok := things.Get(tx, fmt.Sprintf("c%d", (w+i)%2))
						if !ok {
							return errors.New("the counter is gone")
						}
						o = proto.Clone(o).(*testpb.Thing)
						o.Number++
						return things.Put(tx, o)
					})
					if err == nil {
						break
					}
					if !errors.Is(err, raftstore.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			var last int64
			for range 2000 {
				if err := s.View(func(r *raftstore.ReadTx) error {
					var sum int64
					for o := range things.All(r) {
						sum += o.GetNumber()
					}
					if sum < last {
						return fmt.Errorf("the sum fell from %d to %d", last, sum)
					}
					last = sum
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if sum := get(t, s, "c0").GetNumber() + get(t, s, "c1").GetNumber(); sum != writers*each {
		t.Fatalf("%d increments counted, %d were made", sum, writers*each)
	}
}

// TestReadsArePreconditions takes the last of a budget in many transactions at
// once: each reads the budget, but writes only its own object.
func TestReadsArePreconditions(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "door", Number: 1})
	entered, release := make(chan struct{}), make(chan struct{})
	runs := 0
	done := make(chan error, 1)
	go func() {
		done <- s.Update(waitContext(t), func(tx *raftstore.Tx) error {
			runs++
			door, ok := things.Get(tx, "door")
			if !ok || door.GetNumber() == 0 {
				return errors.New("the door is shut")
			}
			if runs == 1 {
				close(entered)
				<-release
			}
			return things.Put(tx, &testpb.Thing{Id: "guest"})
		})
	}()
	receive(t, "the transaction to run", entered)
	shut := proto.Clone(get(t, s, "door")).(*testpb.Thing)
	shut.Number = 0
	put(t, s, shut)
	close(release)
	if err := receive(t, "the transaction to end", done); err == nil || err.Error() != "the door is shut" || runs != 2 {
		t.Fatalf("%v after %d runs", err, runs)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		if _, ok := things.Get(r, "guest"); ok {
			return errors.New("the guest came in")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTxSeesItsOwnWrites(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "a", Name: "old", Labels: []string{"l"}}, &testpb.Thing{Id: "b", Labels: []string{"l"}})
	err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
		for o := range things.By(tx, "label", "l") { // written while it is read
			o = proto.Clone(o).(*testpb.Thing)
			o.Labels = []string{"m"}
			o.Name = "new-" + o.GetId()
			if err := things.Put(tx, o); err != nil {
				return err
			}
		}
		if err := things.Put(tx, &testpb.Thing{Id: "c", Name: "old", Labels: []string{"m"}}); err != nil {
			return err
		}
		if got := ids(things.By(tx, "label", "m")); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("by label: %v", got)
		}
		if got := ids(things.By(tx, "label", "l")); len(got) != 0 {
			t.Errorf("by the old label: %v", got)
		}
		c, ok := things.Get(tx, "c")
		if !ok {
			t.Fatal("a new object is not seen")
		}
		c = proto.Clone(c).(*testpb.Thing)
		c.Number = 7
		if err := things.Put(tx, c); err != nil {
			return err
		}
		if err := things.Put(tx, &testpb.Thing{Id: "d"}); err != nil {
			return err
		}
		if err := things.Delete(tx, "d"); err != nil {
			return err
		}
		if err := things.Put(tx, &testpb.Thing{Id: "d"}); err == nil {
			t.Error("what was deleted in the transaction is written again")
		}
		return things.Delete(tx, "b")
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := get(t, s, "c").GetNumber(); n != 7 {
		t.Errorf("c has %d", n)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		if got := ids(things.All(r)); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("left: %v", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestBoundsAndBadObjects(t *testing.T) {
	s := raftstoretest.New(t, things)
	try := func(fn func(*raftstore.Tx) error) error { return s.Update(waitContext(t), fn) }
	one := func(o *testpb.Thing) error {
		return try(func(tx *raftstore.Tx) error { return things.Put(tx, o) })
	}
	if err := one(&testpb.Thing{Id: "big", Payload: make([]byte, raftstore.MaxTransactionBytes)}); !errors.Is(err, raftstore.ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
	if err := try(func(tx *raftstore.Tx) error {
		for i := range 100_000 {
			if err := things.Put(tx, &testpb.Thing{Id: fmt.Sprint(i)}); err != nil && i < raftstore.MaxTransactionOps {
				return err
			}
		}
		return nil // as a careless caller would
	}); !errors.Is(err, raftstore.ErrTooLarge) {
		t.Errorf("too many writes: %v", err)
	}
	for what, o := range map[string]*testpb.Thing{
		"empty id":      {},
		"long id":       {Id: strings.Repeat("x", raftstore.MaxIDBytes+1)},
		"NUL in id":     {Id: "a\x00b"},
		"empty key":     {Id: "a", Labels: []string{""}},
		"NUL in key":    {Id: "a", Labels: []string{"a\x00b"}},
		"long key":      {Id: "a", Name: strings.Repeat("x", raftstore.MaxKeyBytes+1)},
		"too many keys": {Id: "a", Labels: slices.Repeat([]string{"k"}, raftstore.MaxKeysPerIndex+1)},
	} {
		if err := one(o); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	var kept *raftstore.Tx
	if err := try(func(tx *raftstore.Tx) error { kept = tx; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := things.Put(kept, &testpb.Thing{Id: "late"}); err == nil {
		t.Error("a write after the transaction is accepted")
	}
	boom := errors.New("boom")
	if err := try(func(tx *raftstore.Tx) error {
		if err := things.Put(tx, &testpb.Thing{Id: "never"}); err != nil {
			return err
		}
		return boom
	}); !errors.Is(err, boom) {
		t.Errorf("the caller's error became %v", err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		if n := things.Count(r); n != 0 {
			t.Errorf("%d objects are left", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Update(cancelled, func(tx *raftstore.Tx) error {
		return things.Put(tx, &testpb.Thing{Id: "x"})
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNowIsNotBeforeTheClock(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "a"})
	if err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
		a, _ := things.Get(tx, "a")
		if written := time.Unix(0, a.GetMeta().GetUpdatedAt()); tx.Now().Before(written) {
			t.Errorf("now is %v, before %v", tx.Now(), written)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestStoreAgainstModel drives the public interface with random transactions
// and compares each with a map.
func TestStoreAgainstModel(t *testing.T) {
	s := raftstoretest.New(t, things)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		prefix := fmt.Sprintf("r%d-", round)
		model := map[string]string{} // id → name
		id := rapid.SampledFrom([]string{"a", "b", "c"})
		name := rapid.SampledFrom([]string{"x", "y", "z"})
		for range rapid.IntRange(1, 6).Draw(rt, "transactions") {
			next := map[string]string{}
			for k, v := range model {
				next[k] = v
			}
			refused := false
			err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
				deleted := map[string]bool{}
				for range rapid.IntRange(1, 3).Draw(rt, "writes") {
					i := prefix + id.Draw(rt, "id")
					n := prefix + name.Draw(rt, "name")
					if deleted[i] {
						continue
					}
					old, exists := things.Get(tx, i)
					if want, ok := next[i]; ok != exists || old.GetName() != want {
						rt.Fatalf("%s is %q, the model says %q", i, old.GetName(), want)
					}
					if rapid.Bool().Draw(rt, "delete") {
						if err := things.Delete(tx, i); (err == nil) != exists {
							rt.Fatalf("delete: %v", err)
						}
						deleted[i] = exists
						delete(next, i)
						continue
					}
					o := &testpb.Thing{Id: i, Name: n, Meta: old.GetMeta()}
					for other, taken := range next {
						refused = refused || other != i && taken == n
					}
					if err := things.Put(tx, o); err != nil {
						return err
					}
					next[i] = n
				}
				return nil
			})
			var dup *raftstore.DuplicateError
			if refused != errors.As(err, &dup) || (err != nil && !refused) {
				rt.Fatalf("got %v, the model says refused=%v", err, refused)
			}
			if err == nil {
				model = next
			}
			if err := s.View(func(r *raftstore.ReadTx) error {
				n := 0
				for o := range things.Prefix(r, prefix) {
					n++
					if model[o.GetId()] != o.GetName() {
						rt.Fatalf("%s is %q, want %q", o.GetId(), o.GetName(), model[o.GetId()])
					}
				}
				if n != len(model) {
					rt.Fatalf("%d objects, want %d", n, len(model))
				}
				return nil
			}); err != nil {
				rt.Fatal(err)
			}
		}
	})
}
