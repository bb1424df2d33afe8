package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstorepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// view is a service of two replicas at a revision, with tasks as given.
func view(rev uint64, tasks ...*schedulerpb.Task) *controlpb.WatchServiceResponse {
	v := &controlpb.WatchServiceResponse{Service: &controlpb.ServiceView{Wanted: 2, Service: &schedulerpb.Service{Revision: rev}}}
	for _, t := range tasks {
		v.Tasks = append(v.Tasks, &controlpb.TaskView{ServiceName: "web", Task: t})
	}
	return v
}

func task(id string, slot uint32, rev uint64, state schedulerpb.TaskState, created int64) *schedulerpb.Task {
	return &schedulerpb.Task{Id: id, Slot: slot, Revision: rev, Desired: schedulerpb.TaskState_TASK_STATE_RUNNING,
		Meta: &raftstorepb.Meta{CreatedAt: created}, Status: &schedulerpb.TaskStatus{State: state}}
}

func TestConvergence(t *testing.T) {
	const running, failed, starting = schedulerpb.TaskState_TASK_STATE_RUNNING, schedulerpb.TaskState_TASK_STATE_FAILED, schedulerpb.TaskState_TASK_STATE_STARTING
	now := time.Unix(1000, 0)
	c := new(convergence)
	step := func(v *controlpb.WatchServiceResponse, after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		c.observe(v, now)
		if left, ok := c.remaining(now); (ok && left == 0) != want {
			_, why := c.standing()
			t.Errorf("converged = %v, want %v (%s)", ok && left == 0, want, why)
		}
	}
	step(view(1, task("a", 1, 1, starting, 1)), 0, false)
	step(view(1, task("a", 1, 1, running, 1), task("b", 2, 1, running, 1)), time.Second, false)
	// One fails at once and is replaced: the spell starts anew.
	step(view(1, task("a", 1, 1, running, 1), task("b", 2, 1, failed, 1)), stableFor-1, false)
	step(view(1, task("a", 1, 1, running, 1), task("b", 2, 1, failed, 1), task("c", 2, 1, running, 2)), time.Second, false)
	step(view(1, task("a", 1, 1, running, 1), task("b", 2, 1, failed, 1), task("c", 2, 1, running, 2)), stableFor, true)
	// Tasks of an old revision are not what was asked for.
	step(view(2, task("a", 1, 1, running, 1), task("c", 2, 1, running, 2)), time.Hour, false)
	step(view(2, task("d", 1, 2, running, 3), task("e", 2, 2, running, 3), task("a", 1, 1, running, 1)), time.Hour, false)
	step(view(2, task("d", 1, 2, running, 3), task("e", 2, 2, running, 3)), time.Second, false)
	step(view(2, task("d", 1, 2, running, 3), task("e", 2, 2, running, 3)), stableFor, true)
}

// TestEndedWellIsConverged: a task that ended without an error, and is started no more, is
// where it was to go; one that will be started again is not.
func TestEndedWellIsConverged(t *testing.T) {
	const running, complete, failed = schedulerpb.TaskState_TASK_STATE_RUNNING, schedulerpb.TaskState_TASK_STATE_COMPLETE, schedulerpb.TaskState_TASK_STATE_FAILED
	ended := func(id string, slot uint32, rev uint64, state schedulerpb.TaskState, settled bool) *schedulerpb.Task {
		t := task(id, slot, rev, state, 1)
		t.Settled = settled
		return t
	}
	for _, c := range []struct {
		name string
		b    *schedulerpb.Task
		want bool
	}{
		{"for good", ended("b", 2, 1, complete, true), true},
		{"to be started again", ended("b", 2, 1, complete, false), false},
		{"with an error", ended("b", 2, 1, failed, true), false},
		{"of an older revision", ended("b", 2, 0, complete, true), false},
	} {
		now := time.Unix(1000, 0)
		x := new(convergence)
		x.observe(view(1, task("a", 1, 1, running, 1), c.b), now)
		if left, ok := x.remaining(now.Add(stableFor)); (ok && left == 0) != c.want {
			t.Errorf("one that ended %s: converged = %v", c.name, !c.want)
		}
	}
	// Scaled down to none, it is no more asked for.
	x := new(convergence)
	v := view(1, ended("b", 2, 1, complete, true))
	v.Service.Wanted = 0
	x.observe(v, time.Unix(1000, 0))
	if left, ok := x.remaining(time.Unix(1000, 0).Add(stableFor)); !ok || left != 0 {
		t.Error("not converged at none")
	}
}

// TestWhatFailedIsTheReason has a task wait for its turn to be started again: it
// has a message, and it is newer, but the operator needs to know what failed.
func TestWhatFailedIsTheReason(t *testing.T) {
	failed := task("a", 1, 1, schedulerpb.TaskState_TASK_STATE_FAILED, 1)
	failed.Status.Error = "no user nosuchuser in the image"
	waits := task("b", 1, 1, schedulerpb.TaskState_TASK_STATE_READY, 2)
	waits.Status.Message = "waiting for the restart delay"
	c := new(convergence)
	c.observe(view(1, failed, waits), time.Now())
	if _, why := c.standing(); !strings.HasSuffix(why, failed.Status.Error) {
		t.Error(why)
	}
}

// TestWhatEndsTheWait: an update that goes on is waited for, and one that was paused is
// not; one that was rolled back meanwhile is no success for whoever updated.
func TestWhatEndsTheWait(t *testing.T) {
	const running = schedulerpb.TaskState_TASK_STATE_RUNNING
	at := func(c *convergence, state schedulerpb.UpdateStatus_State) error {
		v := view(1, task("a", 1, 1, running, 1), task("b", 2, 1, running, 1))
		v.Service.Service.Spec = &schedulerpb.ServiceSpec{Name: "web"}
		v.Service.Service.UpdateStatus = &schedulerpb.UpdateStatus{State: state, Message: "for a reason"}
		c.observe(v, time.Now())
		return c.given()
	}
	for _, x := range []struct {
		follows follows
		states  []schedulerpb.UpdateStatus_State
		well    bool
		code    int
	}{
		{followsUpdate, []schedulerpb.UpdateStatus_State{stateUpdating}, false, 0},
		{followsUpdate, []schedulerpb.UpdateStatus_State{stateUpdating, schedulerpb.UpdateStatus_STATE_COMPLETED}, true, 0},
		{followsUpdate, []schedulerpb.UpdateStatus_State{stateUpdating, statePaused}, true, ExitNotConverged},
		{followsUpdate, []schedulerpb.UpdateStatus_State{stateUpdating, stateRollingBack}, false, 0},
		{followsUpdate, []schedulerpb.UpdateStatus_State{stateUpdating, stateRollingBack, stateRolledBack}, true, ExitNotConverged},
		{followsUpdate, []schedulerpb.UpdateStatus_State{stateRolledBack}, true, 0}, // long ago
		{followsRollback, []schedulerpb.UpdateStatus_State{stateRollingBack, stateRolledBack}, true, 0},
		{followsRollback, []schedulerpb.UpdateStatus_State{stateRollingBack, stateRollbackPaused}, true, ExitNotConverged},
		{followsTasks, []schedulerpb.UpdateStatus_State{stateRollingBack, stateRolledBack}, true, 0},
	} {
		c := &convergence{follows: x.follows}
		var err error
		for _, s := range x.states {
			err = at(c, s)
		}
		if well, _ := c.standing(); well != x.well || exitCode(err) != x.code {
			t.Errorf("%v by %d: well %v, %v", x.states, x.follows, well, err)
		}
	}
}

func TestProgressNamesEachChangeOnce(t *testing.T) {
	c := new(convergence)
	v := view(1, task("b", 2, 1, schedulerpb.TaskState_TASK_STATE_PENDING, 1), task("a", 1, 1, schedulerpb.TaskState_TASK_STATE_RUNNING, 1))
	if got := c.observe(v, time.Now()); len(got) != 2 || got[0].name != "web.1" {
		t.Errorf("%v", got)
	}
	if got := c.observe(v, time.Now()); len(got) != 0 {
		t.Errorf("said again: %v", got)
	}
}

// TestChangesAreAsGoodAsTheWhole tells one of all tasks at each change and the
// other of what changed, in pieces and with a broken connection now and then:
// they show the same lines and agree on what stands and since when.
func TestChangesAreAsGoodAsTheWhole(t *testing.T) {
	states := []schedulerpb.TaskState{schedulerpb.TaskState_TASK_STATE_PENDING, schedulerpb.TaskState_TASK_STATE_STARTING,
		schedulerpb.TaskState_TASK_STATE_RUNNING, schedulerpb.TaskState_TASK_STATE_RUNNING, schedulerpb.TaskState_TASK_STATE_RUNNING, schedulerpb.TaskState_TASK_STATE_FAILED}
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1000, 0)
		tasks := map[string]*schedulerpb.Task{}
		whole, changes := new(convergence), new(convergence)
		first, made := true, 0
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(rt, "wait")) * stableFor / 2)
			rev := rapid.Uint64Range(1, 2).Draw(rt, "revision")
			delta := view(rev)
			delta.Changes = true
			for range rapid.IntRange(0, 3).Draw(rt, "changed") {
				// An id never comes back.
				id := fmt.Sprint("t", rapid.IntRange(max(0, made-4), made).Draw(rt, "id"))
				if id != fmt.Sprint("t", made) && tasks[id] == nil {
					continue
				}
				if old := tasks[id]; old != nil && rapid.IntRange(0, 2).Draw(rt, "gone") == 0 {
					delete(tasks, id)
					delta.Gone = append(delta.Gone, id)
					delta.Tasks = slices.DeleteFunc(delta.Tasks, func(v *controlpb.TaskView) bool { return v.Task.Id == id })
					continue
				} else if old == nil {
					made++
					tasks[id] = task(id, rapid.Uint32Range(0, 2).Draw(rt, "slot"), rapid.Uint64Range(1, 2).Draw(rt, "of"), states[0], int64(made))
					if tasks[id].Slot == 0 {
						tasks[id].NodeId = "n"
					}
				} else {
					tasks[id] = proto.CloneOf(old)
				}
				x := tasks[id]
				x.Status.State = rapid.SampledFrom(states).Draw(rt, "state")
				x.Status.Error = rapid.SampledFrom([]string{"", "no room"}).Draw(rt, "error")
				x.Desired = max(x.Desired, rapid.SampledFrom([]schedulerpb.TaskState{states[2], states[2], schedulerpb.TaskState_TASK_STATE_SHUTDOWN}).Draw(rt, "desired"))
				delta.Gone = slices.DeleteFunc(delta.Gone, func(g string) bool { return g == id })
				delta.Tasks = slices.DeleteFunc(delta.Tasks, func(v *controlpb.TaskView) bool { return v.Task.Id == id })
				delta.Tasks = append(delta.Tasks, view(rev, x).Tasks...)
			}
			all := view(rev)
			for _, x := range tasks {
				all.Tasks = append(all.Tasks, view(rev, x).Tasks...)
			}
			want := whole.observe(all, now)
			if first || rapid.IntRange(0, 9).Draw(rt, "broken") == 0 {
				delta = proto.CloneOf(all)
				first = false
			}
			var got []taskLine
			for _, m := range pieces(rt, delta) {
				got = append(got, changes.observe(m, now)...)
			}
			if !slices.Equal(got, want) {
				rt.Fatalf("lines %v, want %v", got, want)
			}
			if !slices.Equal(changes.lines(9), whole.lines(9)) {
				rt.Fatalf("lines %v, want %v", changes.lines(9), whole.lines(9))
			}
			ok, why := changes.standing()
			if wok, wwhy := whole.standing(); ok != wok || why != wwhy || ok && !changes.since.Equal(whole.since) {
				rt.Fatalf("%v %q since %v, want %v %q since %v", ok, why, changes.since, wok, wwhy, whole.since)
			}
			// And as counted by hand.
			current, old := 0, 0
			for _, x := range tasks {
				switch {
				case x.Status.State != states[2]:
				case x.Revision == rev && x.Desired <= states[2]:
					current++
				default:
					old++
				}
			}
			if ok != (current == 2 && old == 0) {
				rt.Fatalf("%d run as they should and %d as they should not, it says %v", current, old, ok)
			}
		}
	})
}

// pieces cuts a message as the leader does.
func pieces(rt *rapid.T, m *controlpb.WatchServiceResponse) (out []*controlpb.WatchServiceResponse) {
	for len(m.Tasks) > 1 && rapid.Bool().Draw(rt, "cut") {
		out = append(out, &controlpb.WatchServiceResponse{Tasks: m.Tasks[:1], More: true, Changes: m.Changes})
		m.Tasks, m.Changes = m.Tasks[1:], true
	}
	return append(out, m)
}
