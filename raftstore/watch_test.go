package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func waitContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestWatchFollowsItsSnapshot rebuilds the state from a snapshot and events
// while writers are busy: it must reach exactly the state of the store.
func TestWatchFollowsItsSnapshot(t *testing.T) {
	s := raftstoretest.New(t, things, others)
	const writers, writes = 4, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				id := fmt.Sprintf("%d-%d", w, i%7)
				if err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
					if err := others.Put(tx, &testpb.Thing{Id: fmt.Sprintf("%d-%d", w, i)}); err != nil {
						return err
					}
					if o, ok := things.Get(tx, id); ok && i%3 == 0 {
						return things.Delete(tx, o.GetId())
					} else if ok {
						o = proto.Clone(o).(*testpb.Thing)
						o.Number++
						return things.Put(tx, o)
					}
					return things.Put(tx, &testpb.Thing{Id: id})
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	have := map[string]*testpb.Thing{}
	var at uint64
	w, err := s.Watch(func(r *raftstore.ReadTx) error {
		at = r.Index()
		for o := range things.All(r) {
			have[o.GetId()] = o
		}
		return nil
	}, things)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	wg.Wait()
	put(t, s, &testpb.Thing{Id: "end"})
	for have["end"] == nil {
		events, err := w.Next(waitContext(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Index < at {
				t.Fatalf("an event of entry %d after entry %d", e.Index, at)
			}
			at = e.Index
			old, now, ok := things.Event(e)
			if !ok {
				t.Fatal("an event of a table that is not watched")
			}
			if was := have[now.GetId()+old.GetId()]; now == nil || old == nil {
				if (old == nil) != (was == nil) {
					t.Fatalf("entry %d: created or deleted twice", e.Index)
				}
			}
			if old != nil && have[old.GetId()] != old {
				t.Fatalf("entry %d: the old object is not the one of the event before", e.Index)
			}
			if now == nil {
				delete(have, old.GetId())
			} else {
				have[now.GetId()] = now
			}
		}
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		for o := range things.All(r) {
			if have[o.GetId()] != o {
				return fmt.Errorf("the watch has %v, the store %v", have[o.GetId()], o)
			}
		}
		if n := things.Count(r); n != len(have) {
			return fmt.Errorf("the watch has %d objects, the store %d", len(have), n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

var others = raftstore.NewTable[*testpb.Thing]("others")

func TestSlowWatchLags(t *testing.T) {
	s := raftstoretest.New(t, things)
	slow, err := s.Watch(nil, things)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for i := range 5 {
		var objs []*testpb.Thing
		for j := range raftstore.MaxTransactionOps {
			objs = append(objs, &testpb.Thing{Id: fmt.Sprintf("%d-%d", i, j)})
		}
		put(t, s, objs...)
	}
	for range 2 {
		if _, err := slow.Next(waitContext(t)); !errors.Is(err, raftstore.ErrLagged) {
			t.Fatalf("got %v", err)
		}
	}
	again, err := s.Watch(nil, things)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, &testpb.Thing{Id: "more"})
	if events, err := again.Next(waitContext(t)); err != nil || len(events) != 1 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	again.Close()
	if _, err := again.Next(waitContext(t)); !errors.Is(err, raftstore.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestWatchEnds(t *testing.T) {
	s := raftstoretest.New(t, things)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Watch(nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := s.Watch(nil, others); err == nil {
		t.Fatal("a table that is not registered is watched")
	}
	boom := errors.New("boom")
	if _, err := s.Watch(func(*raftstore.ReadTx) error { return boom }, things); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := s.Close(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(waitContext(t)); !errors.Is(err, raftstore.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := s.Watch(nil); !errors.Is(err, raftstore.ErrClosed) {
		t.Fatal(err)
	}
	if err := s.View(func(*raftstore.ReadTx) error { return nil }); !errors.Is(err, raftstore.ErrClosed) {
		t.Fatal(err)
	}
	if err := s.Update(waitContext(t), func(*raftstore.Tx) error { return nil }); !errors.Is(err, raftstore.ErrClosed) {
		t.Fatal(err)
	}
}
