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
	mu     sync.Mutex
	states map[uint64]simState // guarded by mu; by index, as who was there first has it
	apart  map[string]bool     // guarded by mu; of whom it was said
}

type simState struct {
	id  string
	all []*testpb.Thing
}

func (s *simStates) compare(t testing.TB, id string, r *raftstore.ReadTx) {
	all := slices.Collect(things.All(r))
	s.mu.Lock()
	defer s.mu.Unlock()
	first, ok := s.states[r.Index()]
	switch {
	case !ok && s.states == nil:
		s.states, s.apart = map[uint64]simState{}, map[string]bool{}
		fallthrough
	case !ok:
		s.states[r.Index()] = simState{id, all}
	case !sameThings(first.all, all) && !s.apart[id]:
		s.apart[id] = true
		t.Errorf("%s and %s went different ways at entry %d:\n%v\n%v", first.id, id, r.Index(), first.all, all)
	}
}

func sameThings(a, b []*testpb.Thing) bool {
	return slices.EqualFunc(a, b, func(a, b *testpb.Thing) bool { return proto.Equal(a, b) })
}
