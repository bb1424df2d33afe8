package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// jobOf is what the cluster says of a job with such runs.
func jobOf(schedule bool, runs ...*schedulerpb.ServiceRun) *controlpb.WatchServiceResponse {
	sp := &schedulerpb.ServiceSpec{Name: "job", Mode: &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{TotalCompletions: 2}}}
	if schedule {
		sp.Schedule = &schedulerpb.Schedule{Expression: "@daily"}
	}
	return &controlpb.WatchServiceResponse{Service: &controlpb.ServiceView{Service: &schedulerpb.Service{Spec: sp, Due: 1}, Runs: runs}}
}

// TestWhatEndsTheWaitForAJob: the run that was asked for, or the newest of a job that has
// no schedule.
func TestWhatEndsTheWaitForAJob(t *testing.T) {
	run := func(n uint64, s schedulerpb.ServiceRun_State) *schedulerpb.ServiceRun {
		return &schedulerpb.ServiceRun{Number: n, BeganAt: 1, State: s, Wanted: 2, Message: "why"}
	}
	const going, completed, failed, stopped = schedulerpb.ServiceRun_STATE_RUNNING, schedulerpb.ServiceRun_STATE_COMPLETED, schedulerpb.ServiceRun_STATE_FAILED, schedulerpb.ServiceRun_STATE_STOPPED
	for name, x := range map[string]struct {
		run  uint64
		said *controlpb.WatchServiceResponse
		over bool
		code int
		text string
	}{
		"it goes on":              {0, jobOf(false, run(1, going)), false, 0, ""},
		"it completed":            {0, jobOf(false, run(1, completed)), true, 0, ""},
		"it failed":               {0, jobOf(false, run(1, failed)), true, ExitNotConverged, "run 1 of job failed, why"},
		"the newest goes on":      {0, jobOf(false, run(1, failed), run(2, going)), false, 0, ""},
		"another was asked for":   {1, jobOf(false, run(1, completed), run(2, going)), true, 0, ""},
		"another took its place":  {1, jobOf(false, run(1, stopped), run(2, going)), true, ExitNotConverged, "run 1 of job was stopped: why"},
		"it is forgotten":         {1, jobOf(false, run(2, going)), true, ExitError, "not kept any more"},
		"a schedule":              {0, jobOf(true), true, 0, ""},
		"of a schedule, by hand":  {3, jobOf(true, run(3, going)), false, 0, ""},
		"of a schedule, and over": {3, jobOf(true, run(3, completed)), true, 0, ""},
	} {
		c := &convergence{run: x.run}
		c.observe(x.said, time.Now())
		err := c.given()
		left, over := c.remaining(time.Now())
		if over != x.over || left != 0 || exitCode(err) != x.code || err != nil && !strings.Contains(err.Error(), x.text) {
			t.Errorf("%s: over %v in %v, %v", name, over, left, err)
		}
	}
}

// TestProgressOfARun is of its tasks, and not of those of runs before.
func TestProgressOfARun(t *testing.T) {
	of := func(id string, run uint64, state schedulerpb.TaskState, why string) *controlpb.TaskView {
		x := task(id, 1, 1, state, int64(run))
		x.Iteration, x.Status.Error = run, why
		return &controlpb.TaskView{ServiceName: "job", Task: x}
	}
	m := jobOf(false, &schedulerpb.ServiceRun{Number: 2, BeganAt: 1, State: schedulerpb.ServiceRun_STATE_RUNNING, Completed: 1, Wanted: 2})
	m.Tasks = []*controlpb.TaskView{of("a", 1, schedulerpb.TaskState_TASK_STATE_FAILED, "exited with 7"), of("b", 2, schedulerpb.TaskState_TASK_STATE_RUNNING, "")}
	c := new(convergence)
	if lines := c.observe(m, time.Now()); len(lines) != 1 || lines[0].id != "b" {
		t.Errorf("%v", lines)
	}
	if lines := c.lines(9); len(lines) != 1 || lines[0].id != "b" {
		t.Errorf("%v", lines)
	}
	if _, left := c.standing(); left != "run 2: 1 of 2 completed" {
		t.Error(left)
	}
}
