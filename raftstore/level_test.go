package raftstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// novels is a table of a later version.
var novels = raftstore.NewTable[*testpb.Novel]("novels")

var (
	older = []raftstore.Registered{things}
	later = []raftstore.Registered{things, novels}
)

func putNovel(ctx context.Context, s *raftstore.Store, n *testpb.Novel) error {
	return s.Update(ctx, func(tx *raftstore.Tx) error {
		novels.Get(tx, "another") // what no older version may be asked about either
		return novels.Put(tx, n)
	})
}

func on(t *testing.T, id string, tables []raftstore.Registered) *link {
	l := newLink(t, id)
	l.tables = tables
	return l
}

func TestLevelOfOneAlone(t *testing.T) {
	for want, tables := range map[uint32][]raftstore.Registered{1: older, 4: later} {
		m := openMemberOn(t, on(t, "a", tables), t.TempDir(), raftstoretest.NewSealer())
		m.bootstrap(t)
		if l := m.Level(); l.Cluster != want || l.Here != want {
			t.Errorf("it is at %+v", l)
		}
	}
}

// TestLevelHeldBack upgrades the managers of a cluster one by one.
func TestLevelHeldBack(t *testing.T) {
	ctx := waitContext(t)
	dir, sealer := t.TempDir(), raftstoretest.NewSealer()
	a := openMemberOn(t, on(t, "a", older), dir, sealer)
	a.bootstrap(t)
	oldDir, oldSealer := t.TempDir(), raftstoretest.NewSealer()
	old := openMemberOn(t, on(t, "old", older), oldDir, oldSealer, "a")
	if err := a.AddNonvoter(ctx, old.id, old.hostport()); err != nil {
		t.Fatal(err)
	}
	put(t, a.Store, &testpb.Thing{Id: "x"})
	waitFor(t, old, "x")

	// The leader is upgraded, the learner is not.
	a = a.again(t, dir, sealer, later)
	err := putNovel(ctx, a.Store, &testpb.Novel{Id: "n"})
	var level *raftstore.LevelError
	if !errors.As(err, &level) || level.Need != 2 || level.Have != 1 || level.What != "novels" {
		t.Fatalf("what a manager does not understand: %v", err)
	}
	held(t, a, "old", 1)
	if err := putNovel(ctx, a.Store, &testpb.Novel{Id: "n"}); err == nil || !strings.Contains(err.Error(), "upgrade manager old first") {
		t.Fatalf("it does not say whom to upgrade: %v", err)
	}
	if err := a.Update(ctx, func(tx *raftstore.Tx) error { return novels.Drop(tx, "n") }); err != nil {
		t.Fatalf("what cannot be there is dropped: %v", err)
	}
	put(t, a.Store, &testpb.Thing{Id: "y"})
	waitFor(t, old, "y") // and goes on

	// One that is down does not say that it understands more.
	if err := old.Close(ctx); err != nil {
		t.Fatal(err)
	}
	held(t, a, "old", 0)
	old = old.again(t, oldDir, oldSealer, later)
	raised(t, a)
	if err := putNovel(ctx, a.Store, &testpb.Novel{Id: "n", Title: "t"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // there is none the second time
		if err := a.Update(ctx, func(tx *raftstore.Tx) error { return novels.Drop(tx, "n") }); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.View(func(r *raftstore.ReadTx) error {
		if _, there := novels.Get(r, "n"); there {
			t.Error("it was dropped, and is there")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	put(t, a.Store, &testpb.Thing{Id: "z"})
	waitFor(t, old, "z")
	if l := old.Level(); l.Cluster != 4 {
		t.Fatalf("the follower is at %+v", l)
	}

	// From now on the older version does not start: not from the log, and not from
	// a snapshot.
	if err := old.Close(ctx); err != nil {
		t.Fatal(err)
	}
	refused(t, oldDir, oldSealer)
	old = old.again(t, oldDir, oldSealer, later)
	put(t, a.Store, &testpb.Thing{Id: "last"})
	waitFor(t, old, "last")
	if err := errors.Join(old.Snapshot(ctx), old.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	refused(t, oldDir, oldSealer)
}

// again closes m and opens its directory, at its address, with other tables.
func (m *member) again(t *testing.T, dir string, sealer raftstore.Sealer, tables []raftstore.Registered) *member {
	t.Helper()
	alone := len(m.Servers()) > 0 && m.IsLeader()
	if err := m.Close(waitContext(t)); err != nil {
		t.Fatal(err)
	}
	l := m.link.reopened(t)
	l.tables = tables
	next := openMemberOn(t, l, dir, sealer)
	if alone {
		next.Stand()
		raftstoretest.WaitLeader(t, next.Store)
	}
	return next
}

func refused(t *testing.T, dir string, sealer raftstore.Sealer) {
	t.Helper()
	c := soloConfig(dir, sealer)
	c.NodeID, c.ClusterID, c.Transport.Advertise = "old", "cluster", "old@host:1"
	s, err := raftstore.Open(t.Context(), c)
	if err == nil {
		_ = s.Close(context.Background())
		t.Fatal("an older version opens a later one's store")
	}
	if !strings.Contains(err.Error(), "the store is at level 4, this version understands 1: install the version") {
		t.Fatalf("it says %v", err)
	}
}

// held waits until m knows that the manager of that id holds it back.
func held(t *testing.T, m *member, id string, level uint32) {
	t.Helper()
	until(t, m, func(l raftstore.Level) bool {
		return len(l.Behind) == 1 && l.Behind[0] == raftstore.Behind{ID: id, Level: level}
	})
}

func raised(t *testing.T, m *member) {
	t.Helper()
	until(t, m, func(l raftstore.Level) bool { return l.Cluster == l.Here })
}

func until(t *testing.T, m *member, ok func(raftstore.Level) bool) {
	t.Helper()
	ctx := waitContext(t)
	for {
		asked := m.LevelsAsked()
		if ok(m.Level()) {
			return
		}
		m.AskLevels()
		select {
		case <-asked:
		case <-ctx.Done():
			t.Fatalf("the level stays at %+v", m.Level())
		}
	}
}

func TestWhatNeedsALevel(t *testing.T) {
	for name, c := range map[string]struct {
		n    *testpb.Novel
		need uint32
		what string
	}{
		"table":   {&testpb.Novel{Id: "a", Name: "n"}, 2, "novels"},
		"field":   {&testpb.Novel{Id: "a", Title: "t"}, 3, "title of novels"},
		"nothing": {&testpb.Novel{Id: "a", Chapters: []*testpb.Chapter{{Name: "c", Inner: &testpb.Chapter{}}}}, 2, "novels"},
		"nested": {&testpb.Novel{Id: "a", Chapters: []*testpb.Chapter{{}, {Inner: &testpb.Chapter{Kind: testpb.Kind_KIND_LATER}}}}, 4,
			"KIND_LATER of novels"},
		"map": {&testpb.Novel{Id: "a", Kinds: map[string]testpb.Kind{"k": testpb.Kind_KIND_LATER}}, 4, "KIND_LATER of novels"},
	} {
		for level := uint32(1); level <= 4; level++ {
			err := raftstore.Permitted(c.n, "novels", level)
			var e *raftstore.LevelError
			switch {
			case level >= c.need && err != nil:
				t.Errorf("%s at level %d: %v", name, level, err)
			case level < c.need && (!errors.As(err, &e) || e.Need != c.need || e.Have != level || e.What != c.what):
				t.Errorf("%s at level %d: %v", name, level, err)
			}
		}
	}
	if err := raftstore.Permitted(&testpb.Thing{Id: "a", Labels: []string{"l"}}, "things", 1); err != nil {
		t.Error(err)
	}
}

func TestSince(t *testing.T) {
	for what, c := range map[string][2]uint32{
		"a table of now": {things.Since(), 1}, "a table": {novels.Since(), 2},
		"a field": {raftstore.FieldSince(&testpb.Novel{}, "title"), 3}, "a field that is as old as its message": {raftstore.FieldSince(&testpb.Novel{}, "name"), 2},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: since level %d, want %d", what, c[0], c[1])
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a field that is not there has a level")
		}
	}()
	raftstore.FieldSince(&testpb.Novel{}, "no_such_field")
}

func TestAnswersAboutLevels(t *testing.T) {
	for in, want := range map[string]uint32{"": 1, "\x00\x00\x00\x05": 5, "\x00\x00": 0, "\x00\x00\x00\x00": 0} {
		got, err := raftstore.ReadLevel(strings.NewReader(in))
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%q is read as %d, %v", in, got, err)
		}
	}
}
