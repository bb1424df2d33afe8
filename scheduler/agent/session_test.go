package agent

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

var testNow = time.Unix(1e9, 0)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAssembler(t *testing.T) {
	one, two := &schedulerpb.Assignment{TaskId: "1"}, &schedulerpb.Assignment{TaskId: "2"}
	part := func(seq uint64, complete, more bool, remove []string, u ...*schedulerpb.Assignment) *schedulerpb.Assignments {
		return &schedulerpb.Assignments{Sequence: seq, Complete: complete, More: more, Update: u, Remove: remove}
	}
	for name, c := range map[string]struct {
		in   []*schedulerpb.Assignments
		want int // updates that took effect, -1: the last message is refused
	}{
		"whole":            {[]*schedulerpb.Assignments{part(1, true, false, nil, one), part(2, false, false, nil, two)}, 2},
		"in parts":         {[]*schedulerpb.Assignments{part(1, true, true, nil, one), part(2, false, false, nil, two)}, 2},
		"unfinished":       {[]*schedulerpb.Assignments{part(1, true, true, nil, one)}, 0},
		"again":            {[]*schedulerpb.Assignments{part(1, true, false, nil, one), part(2, true, false, nil, two)}, 2},
		"gap":              {[]*schedulerpb.Assignments{part(1, true, false, nil, one), part(3, false, false, nil, two)}, -1},
		"repeated":         {[]*schedulerpb.Assignments{part(1, true, false, nil, one), part(1, false, false, nil, two)}, -1},
		"late start":       {[]*schedulerpb.Assignments{part(2, true, false, nil, one)}, -1},
		"increment first":  {[]*schedulerpb.Assignments{part(1, false, false, nil, one)}, -1},
		"endless":          {[]*schedulerpb.Assignments{part(1, true, false, nil), part(2, false, true, nil, one)}, -1},
		"two at once":      {[]*schedulerpb.Assignments{part(1, true, true, nil, one), part(2, true, false, nil, two)}, -1},
		"removal in parts": {[]*schedulerpb.Assignments{part(1, true, true, nil, one), part(2, false, false, []string{"1"})}, -1},
		"too many":         {[]*schedulerpb.Assignments{part(1, true, true, nil, make([]*schedulerpb.Assignment, maxTasks+1)...)}, -1},
	} {
		var a assembler
		got := 0
		for i, m := range c.in {
			set, err := a.add(m)
			if refused := err != nil; refused != (c.want < 0 && i == len(c.in)-1) {
				t.Errorf("%s: message %d: %v", name, i, err)
			}
			if set != nil {
				got += len(set.update)
			}
		}
		if c.want >= 0 && got != c.want {
			t.Errorf("%s: %d updates took effect, want %d", name, got, c.want)
		}
	}
}

func TestAssemblerTakesUnchangedOnlyWhereSomethingIsHeld(t *testing.T) {
	unchanged := &schedulerpb.Assignments{Sequence: 1, Complete: true, Unchanged: true}
	a := assembler{holds: true}
	if set, err := a.add(unchanged); err != nil || !set.unchanged || !a.heard {
		t.Fatal(set, err)
	}
	if set, err := a.add(&schedulerpb.Assignments{Sequence: 2, Remove: []string{"1"}}); err != nil || len(set.remove) != 1 {
		t.Fatal(set, err)
	}
	if _, err := a.add(&schedulerpb.Assignments{Sequence: 3, Complete: true, Unchanged: true}); err == nil {
		t.Error("unchanged is taken later in a session")
	}
	for _, bad := range []*schedulerpb.Assignments{
		{Sequence: 1, Unchanged: true},
		{Sequence: 1, Complete: true, More: true, Unchanged: true},
		{Sequence: 1, Complete: true, Unchanged: true, Remove: []string{"1"}},
		{Sequence: 1, Complete: true, Unchanged: true, Update: []*schedulerpb.Assignment{{TaskId: "1"}}},
	} {
		if _, err := (&assembler{holds: true}).add(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	if _, err := (&assembler{}).add(unchanged); err == nil {
		t.Error("unchanged is taken by a node that holds nothing")
	}
}

// Whatever a manager sends, the agent does not panic, and increments never
// take effect before a complete set.
func FuzzAssignments(f *testing.F) {
	for _, m := range []*schedulerpb.Assignments{
		{Sequence: 1, Complete: true},
		{Sequence: 1, Complete: true, More: true, Update: []*schedulerpb.Assignment{{TaskId: "aaaaaaaaaaaaaaaaaaaaaaaaaa", Desired: 80}}},
		{Sequence: 2, Remove: []string{"x"}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var a assembler
		m := newMachine(nil, true, nil)
		for _, b := range [][]byte{first, second} {
			msg := &schedulerpb.Assignments{}
			if proto.Unmarshal(b, msg) != nil {
				return
			}
			set, err := a.add(msg)
			if err != nil {
				return
			}
			if set == nil {
				continue
			}
			if !set.complete && !m.assigned {
				t.Fatal("an increment took effect first")
			}
			if m.assign(testNow, set.complete, set.update, set.remove) != nil {
				return
			}
			m.reports(10)
			m.phases(testNow)
			m.attachments(testNow)
			m.onNetworks()
			m.wake(testNow)
		}
	})
}
