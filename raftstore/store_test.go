package raftstore_test

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

func TestPutGetDelete(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "a", Name: "anna", Labels: []string{"x", "y"}}, &testpb.Thing{Id: "ab", Labels: []string{"x"}})
	a := get(t, s, "a")
	if a.GetMeta().GetVersion() == 0 || a.GetMeta().GetCreatedAt() == 0 {
		t.Fatalf("the store wrote no meta: %v", a.GetMeta())
	}
	err := s.View(func(r *raftstore.ReadTx) error {
		for what, c := range map[string]struct{ got, want []string }{
			"all":          {ids(things.All(r)), []string{"a", "ab"}},
			"prefix":       {ids(things.Prefix(r, "ab")), []string{"ab"}},
			"by label":     {ids(things.By(r, "label", "x")), []string{"a", "ab"}},
			"by prefix":    {ids(things.ByPrefix(r, "label", "x")), []string{"a", "ab"}},
			"by no prefix": {ids(things.ByPrefix(r, "label", "\x00")), nil},
			"by name":      {ids(things.By(r, "name", "anna")), []string{"a"}},
			"part of name": {ids(things.By(r, "name", "ann")), []string{}},
		} {
			if !slices.Equal(c.got, c.want) {
				t.Errorf("%s: %v, want %v", what, c.got, c.want)
			}
		}
		if n := things.Count(r); n != 2 {
			t.Errorf("count %d", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Delete(tx, "a") }); err != nil {
		t.Fatal(err)
	}
	put(t, s, &testpb.Thing{Id: "c", Name: "anna"}) // the name is free again
	if err := s.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Delete(tx, "a") }); !errors.Is(err, raftstore.ErrNotFound) {
		t.Fatalf("deleting twice: %v", err)
	}
}

func TestVersionsAreChecked(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "a", Number: 1})
	stale := proto.Clone(get(t, s, "a")).(*testpb.Thing)
	fresh := proto.Clone(stale).(*testpb.Thing)
	fresh.Number = 2
	put(t, s, fresh)
	stale.Number = 3
	update := func(o *testpb.Thing) error {
		return s.Update(waitContext(t), func(tx *raftstore.Tx) error { return things.Put(tx, o) })
	}
	if err := update(stale); !errors.Is(err, raftstore.ErrConflict) {
		t.Errorf("a stale write: %v", err)
	}
	var dup *raftstore.DuplicateError
	if err := update(&testpb.Thing{Id: "a"}); !errors.As(err, &dup) || dup.Index != "id" || dup.Key != "a" {
		t.Errorf("creating twice: %v", err)
	}
	if err := update(&testpb.Thing{Id: "gone", Meta: &raftstorepb.Meta{Version: 1}}); !errors.Is(err, raftstore.ErrConflict) {
		t.Errorf("updating what is not there: %v", err)
	}
	got := get(t, s, "a")
	if got.GetNumber() != 2 {
		t.Errorf("number %d", got.GetNumber())
	}
	if got.GetMeta().GetCreatedAt() != stale.GetMeta().GetCreatedAt() || got.GetMeta().GetVersion() == stale.GetMeta().GetVersion() {
		t.Errorf("meta %v after %v", got.GetMeta(), stale.GetMeta())
	}
}

func TestUniqueIndexNamesWhatIsTaken(t *testing.T) {
	s := raftstoretest.New(t, things)
	put(t, s, &testpb.Thing{Id: "a", Name: "anna"})
	err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
		if err := things.Put(tx, &testpb.Thing{Id: "z"}); err != nil {
			return err
		}
		return things.Put(tx, &testpb.Thing{Id: "b", Name: "anna"})
	})
	var dup *raftstore.DuplicateError
	if !errors.As(err, &dup) || *dup != (raftstore.DuplicateError{Table: "things", Index: "name", Key: "anna"}) {
		t.Fatalf("got %v", err)
	}
	if err := s.View(func(r *raftstore.ReadTx) error {
		if got := ids(things.All(r)); !slices.Equal(got, []string{"a"}) {
			t.Errorf("a refused transaction left %v", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
