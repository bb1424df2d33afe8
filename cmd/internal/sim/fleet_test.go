package main

import (
	"testing"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// A node that is cut off runs on, as nodes do, and its tasks are made again
// elsewhere. They are not counted twice: a run with a thousand nodes once spoke of
// 10,192 of 10,000 tasks that ran.
func TestTasksOfACutOffNodeAreNotTheServices(t *testing.T) {
	f := &fleet{}
	made := func(name string) *node {
		return &node{fleet: f, name: name, tasks: map[string]schedulerpb.TaskState{}, held: map[string]*schedulerpb.Assignment{}}
	}
	const running, shutdown = schedulerpb.TaskState_TASK_STATE_RUNNING, schedulerpb.TaskState_TASK_STATE_SHUTDOWN
	told := func(n *node, complete bool, desired schedulerpb.TaskState, ids ...string) []*schedulerpb.TaskReport {
		a := &schedulerpb.Assignments{Complete: complete}
		for _, id := range ids {
			a.Update = append(a.Update, &schedulerpb.Assignment{TaskId: id, Desired: desired})
		}
		out := n.take(a)
		if all, first := n.meet(a.More); first {
			out = all
		}
		return out
	}
	want := func(when string, runs, cutOff int64) {
		t.Helper()
		if f.running.Load() != runs || f.cutOff.Load() != cutOff {
			t.Errorf("%s: %d run and %d more are cut off, want %d and %d", when, f.running.Load(), f.cutOff.Load(), runs, cutOff)
		}
	}
	a, b := made("a"), made("b")
	told(a, true, running, "1", "2")
	told(b, true, running)
	want("both have sessions", 2, 0)
	a.cut()
	told(b, false, running, "3", "4") // in place of what a has
	want("one is cut off", 2, 2)
	told(a, true, shutdown, "1", "2")
	want("it is back", 2, 0)

	// What a session said last may have been lost: the next one says it again.
	b.cut()
	if out := b.take(&schedulerpb.Assignments{Complete: true, Unchanged: true}); out != nil {
		t.Errorf("it reports %v before the set is whole", out)
	}
	if all, first := b.meet(false); !first || len(all) != 2 {
		t.Errorf("a new session reports %v", all)
	}
	want("the other one is back", 2, 0)
}
