package raftstore

import (
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore/internal/testpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
)

// odd has the right methods and the wrong fields.
type odd struct{ *testpb.Odd }

func (odd) GetMeta() *raftstorepb.Meta { return nil }

func TestNewTableRefusesNonsense(t *testing.T) {
	keys := func(*testpb.Thing) []string { return nil }
	for name, c := range map[string]struct {
		make func()
		want string
	}{
		"empty name":     {func() { NewTable[*testpb.Thing]("") }, "table name"},
		"bad name":       {func() { NewTable[*testpb.Thing]("No Table") }, "table name"},
		"index named id": {func() { NewTable("t", Index[*testpb.Thing]{Name: "id", Keys: keys}) }, "taken"},
		"index twice": {func() {
			NewTable("t", Index[*testpb.Thing]{Name: "a", Keys: keys}, Index[*testpb.Thing]{Name: "a", Keys: keys})
		}, "taken"},
		"no keys":        {func() { NewTable("t", Index[*testpb.Thing]{Name: "a"}) }, "no Keys"},
		"sum of nothing": {func() { NewTable[*testpb.Thing]("t").Summing(Sum[*testpb.Thing]{Name: "a"}) }, "not usable"},
		"wrong shape":    {func() { NewTable[odd]("t") }, "field 1"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p, ok := recover().(string); !ok || !strings.Contains(p, c.want) {
					t.Errorf("panic %q, want %q", p, c.want)
				}
			}()
			c.make()
			t.Error("it is accepted")
		})
	}
}

func TestNewFSMRefusesTablesOfOneName(t *testing.T) {
	if _, err := newFSM([]Registered{things, NewTable[*testpb.Thing]("things")}, nil); err == nil {
		t.Fatal("two tables of one name are accepted")
	}
	if _, err := newFSM(nil, nil); err == nil {
		t.Fatal("a store without tables is accepted")
	}
}

func TestSplitAddr(t *testing.T) {
	id, hp, err := SplitAddr("node@[::1]:2377")
	if err != nil || id != "node" || hp != "[::1]:2377" {
		t.Fatalf("%q %q %v", id, hp, err)
	}
	for _, bad := range []string{"", "host:1", "@host:1", "id@host", "id@", "id@host:"} {
		if _, _, err := SplitAddr(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
