package raftstore_test

import (
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
)

// simStates compares the states of all managers at every entry: one that goes
// another way is found where it does, whoever is asked later.
type simStates struct {
	mu    sync.Mutex // guards the rest
	was   map[uint64]simState
	apart bool // it was said; what comes after that is its consequence
}

// simState is what the manager had that was there first.
type simState struct {
	id  string
	all []*testpb.Thing
}

func (s *simStates) compare(t testing.TB, id string, r *raftstore.ReadTx) {
	now := simState{id, slices.Collect(things.All(r))}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.was == nil {
		s.was = map[uint64]simState{}
	}
	first, ok := s.was[r.Index()]
	switch {
	case !ok:
		s.was[r.Index()] = now
	case !s.apart && !sameThings(first.all, now.all):
		s.apart = true
		t.Errorf("%s and %s went different ways up to entry %d:\n%v\n%v", first.id, id, r.Index(), first.all, now.all)
	}
}

func sameThings(a, b []*testpb.Thing) bool {
	return slices.EqualFunc(a, b, func(a, b *testpb.Thing) bool { return proto.Equal(a, b) })
}
