package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
)

// A state that was exported is the same in a store of the next incarnation, and
// the store of the one before does not open there.
func TestExportImport(t *testing.T) {
	from := raftstoretest.New(t, things)
	ctx := waitContext(t)
	for i := range 100 {
		put(t, from, &testpb.Thing{Id: fmt.Sprintf("thing-%03d", i)})
	}
	var state bytes.Buffer
	if err := from.Export(func(uint64) (io.Writer, error) { return &state, nil }); err != nil {
		t.Fatal(err)
	}
	c := importConfig(t, "n", 2)
	if err := raftstore.Import(c, bytes.NewReader(state.Bytes()), at(raftstore.Position{Index: 5000, Term: 7})); err != nil {
		t.Fatal(err)
	}
	if err := raftstore.Import(c, &state, at(raftstore.Position{})); err == nil {
		t.Error("a second import into the same directory was not refused")
	}
	other := c
	other.Incarnation = 1
	other.Transport.Listener = raftstoretest.NewListener()
	if s, err := raftstore.Open(ctx, other); err == nil {
		s.Close(ctx)
		t.Error("the store opens in another incarnation")
	}
	c.Transport.Listener = raftstoretest.NewListener()
	s, err := raftstore.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(s.Close(ctx), s.Err()); err != nil {
			t.Error(err)
		}
	}()
	raftstoretest.WaitLeader(t, s)
	put(t, s, &testpb.Thing{Id: "after"})
	n := 0
	if err := s.View(func(r *raftstore.ReadTx) error {
		for range things.All(r) {
			n++
		}
		return nil
	}); err != nil || n != 101 {
		t.Errorf("%d things, want 101 (%v)", n, err)
	}
	if got := s.Servers(); len(got) != 1 || got[0].ID != "n" || !got[0].Voter {
		t.Errorf("servers are %v", got)
	}
}

// A state that is cut anywhere, or followed by anything, makes no store.
func TestImportRefusesWhatIsCut(t *testing.T) {
	from := raftstoretest.New(t, things)
	for i := range 20 {
		put(t, from, &testpb.Thing{Id: fmt.Sprintf("thing-%03d", i)})
	}
	var state bytes.Buffer
	if err := from.Export(func(uint64) (io.Writer, error) { return &state, nil }); err != nil {
		t.Fatal(err)
	}
	whole := state.Bytes()
	for cutAt := 0; cutAt < len(whole); cutAt += 7 {
		c := importConfig(t, "n", 2)
		if err := raftstore.Import(c, bytes.NewReader(whole[:cutAt]), at(raftstore.Position{})); err == nil {
			t.Fatalf("cut at byte %d of %d it was imported", cutAt, len(whole))
		}
		if left, _ := filepath.Glob(c.Dir + "*"); len(left) > 0 {
			t.Fatalf("cut at byte %d it left %v", cutAt, left)
		}
	}
	c := importConfig(t, "n", 2)
	if err := raftstore.Import(c, bytes.NewReader(append(bytes.Clone(whole), 0)), at(raftstore.Position{})); err == nil {
		t.Error("with a byte too many it was imported")
	}
}

// What a follower has is salvaged when the others are gone for good, also what
// it does not know to be committed.
func TestSalvage(t *testing.T) {
	all := newCluster(t)
	ctx := waitContext(t)
	leader := leaderOf(t, all...)
	for i := range 50 {
		put(t, leader.Store, &testpb.Thing{Id: fmt.Sprintf("thing-%03d", i)})
	}
	var survivor *member
	for _, m := range all {
		if m != leader {
			survivor = m
			waitFor(t, m, "thing-049")
		}
	}
	for _, m := range all {
		if m != survivor {
			m.link.setCut(true)
		}
	}
	var state bytes.Buffer
	pos, err := survivor.Salvage(ctx, &state)
	if err != nil {
		t.Fatal(err)
	}
	c := importConfig(t, survivor.id, 2)
	if err := raftstore.Import(c, &state, at(pos)); err != nil {
		t.Fatal(err)
	}
	c.Transport.Listener = raftstoretest.NewListener()
	s, err := raftstore.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	raftstoretest.WaitLeader(t, s)
	for i := range 50 {
		id := fmt.Sprintf("thing-%03d", i)
		if err := s.View(func(r *raftstore.ReadTx) error {
			if _, ok := things.Get(r, id); !ok {
				return errors.New("it is lost")
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if st := s.Membership().Stats(); st["term"] <= fmt.Sprint(pos.Term) && len(st["term"]) == len(fmt.Sprint(pos.Term)) {
		t.Errorf("term %s does not follow %d", st["term"], pos.Term)
	}
}

func importConfig(t *testing.T, id string, incarnation uint64) raftstore.Config {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	return raftstore.Config{Dir: filepath.Join(dir, "raft"), NodeID: id, ClusterID: "cluster", Incarnation: incarnation,
		Tables: []raftstore.Registered{things}, Sealer: raftstoretest.NewSealer(), Logger: slog.New(slog.DiscardHandler),
		Transport:       raftstore.Transport{Advertise: raftstore.JoinAddr(id, "127.0.0.1:1"), Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody is there") }},
		ElectionTimeout: 50 * time.Millisecond}
}

func at(p raftstore.Position) func(*raftstore.Draft) (raftstore.Position, error) {
	return func(*raftstore.Draft) (raftstore.Position, error) { return p, nil }
}

// A draft is changed by the rules of a store, and what it became is what the
// store is.
func TestDraft(t *testing.T) {
	from := raftstoretest.New(t, things)
	put(t, from, &testpb.Thing{Id: "one", Name: "taken"}, &testpb.Thing{Id: "two"})
	var state bytes.Buffer
	if err := from.Export(func(uint64) (io.Writer, error) { return &state, nil }); err != nil {
		t.Fatal(err)
	}
	ctx := waitContext(t)
	c := importConfig(t, "n", 2)
	err := raftstore.Import(c, &state, func(d *raftstore.Draft) (raftstore.Position, error) {
		var dup *raftstore.DuplicateError
		if err := d.Update(ctx, func(tx *raftstore.Tx) error { return things.Put(tx, &testpb.Thing{Id: "three", Name: "taken"}) }); !errors.As(err, &dup) {
			t.Errorf("a taken name: %v", err)
		}
		return raftstore.Position{}, d.Update(ctx, func(tx *raftstore.Tx) error {
			return errors.Join(things.Delete(tx, "one"), things.Put(tx, &testpb.Thing{Id: "three", Name: "taken"}))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Transport.Listener = raftstoretest.NewListener()
	s, err := raftstore.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	var got []string
	if err := s.View(func(r *raftstore.ReadTx) error { got = ids(things.All(r)); return nil }); err != nil || !slices.Equal(got, []string{"three", "two"}) {
		t.Errorf("right after the store is opened it has %v (%v)", got, err)
	}
}
