package raftstore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// things is the table of most tests.
var things = raftstore.NewTable("things",
	raftstore.Index[*testpb.Thing]{Name: "name", Unique: true, Keys: func(t *testpb.Thing) []string {
		if t.GetName() == "" {
			return nil
		}
		return []string{t.GetName()}
	}},
	raftstore.Index[*testpb.Thing]{Name: "label", Keys: (*testpb.Thing).GetLabels},
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// receive waits for what must come.
func receive[T any](t testing.TB, what string, from <-chan T) (v T) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v = <-from:
	case <-timer.C:
		t.Fatalf("waited %v in vain for %s", patience, what)
	}
	return v
}

func put(t testing.TB, s *raftstore.Store, objs ...*testpb.Thing) {
	t.Helper()
	if err := s.Update(waitContext(t), func(tx *raftstore.Tx) error {
		for _, o := range objs {
			if err := things.Put(tx, o); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s *raftstore.Store, id string) *testpb.Thing {
	t.Helper()
	var out *testpb.Thing
	if err := s.View(func(r *raftstore.ReadTx) error {
		o, ok := things.Get(r, id)
		if !ok {
			return errors.New("there is no thing " + id)
		}
		out = o
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func ids(seq func(func(*testpb.Thing) bool)) []string {
	out := []string{}
	for o := range seq {
		out = append(out, o.GetId())
	}
	return out
}
