package spec_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func TestJobDefaults(t *testing.T) {
	sp := schedulertest.JobSpec("job", 0, 3)
	sp.Schedule = &schedulerpb.Schedule{Expression: " 30 2  * * MON-FRI "}
	n := spec.Normalize(sp)
	want := &schedulerpb.Schedule{Expression: "30 2 * * mon-fri", TimeZone: "UTC", Concurrency: spec.Forbid, Keep: 10, StartWithinNs: int64(10 * time.Minute)}
	if !proto.Equal(n.GetSchedule(), want) || n.GetTask().GetRestart().GetCondition() != taskpb.RestartPolicy_CONDITION_ON_FAILURE {
		t.Errorf("it becomes %v, %v", n.GetSchedule(), n.GetTask().GetRestart())
	}
	if !proto.Equal(spec.Normalize(n), n) {
		t.Error("what has all defaults is given others")
	}
	if err := spec.Validate(n); err != nil {
		t.Error(err)
	}
	if err := spec.Validate(spec.Normalize(schedulertest.GlobalJobSpec("job"))); err != nil {
		t.Error(err)
	}
}

func TestJobRefusals(t *testing.T) {
	schedule := func(change func(*schedulerpb.Schedule)) func(*schedulerpb.ServiceSpec) {
		return func(sp *schedulerpb.ServiceSpec) {
			sp.Schedule = &schedulerpb.Schedule{Expression: "@daily"}
			change(sp.Schedule)
		}
	}
	for want, change := range map[string]func(*schedulerpb.ServiceSpec){
		"a schedule is for jobs": func(sp *schedulerpb.ServiceSpec) {
			sp.Mode, sp.Schedule = nil, &schedulerpb.Schedule{Expression: "@daily"}
		},
		"total completions is 0":     func(sp *schedulerpb.ServiceSpec) { sp.GetReplicatedJob().TotalCompletions = 0 },
		"total completions is 10001": func(sp *schedulerpb.ServiceSpec) { sp.GetReplicatedJob().TotalCompletions = spec.MaxCompletions + 1 },
		"max concurrent is 10001":    func(sp *schedulerpb.ServiceSpec) { sp.GetReplicatedJob().MaxConcurrent = spec.MaxCompletions + 1 },
		"update settings are for":    func(sp *schedulerpb.ServiceSpec) { sp.Update = &schedulerpb.UpdateConfig{} },
		"rollback settings are for":  func(sp *schedulerpb.ServiceSpec) { sp.Rollback = &schedulerpb.UpdateConfig{} },
		"restart condition is any": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Restart = &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY}
		},
		"cannot publish ports in mode ingress": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Ports = []*taskpb.Port{{Published: 80, Target: 80, Protocol: taskpb.Port_PROTOCOL_TCP, Mode: taskpb.Port_MODE_INGRESS}}
		},
		"max per node is set for a global service or job": func(sp *schedulerpb.ServiceSpec) {
			sp.Mode, sp.Task.MaxPerNode = &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}, 1
		},
		"has 1 fields: use five":    schedule(func(c *schedulerpb.Schedule) { c.Expression = "daily" }),
		"time zone \"Nowhere\"":     schedule(func(c *schedulerpb.Schedule) { c.TimeZone = "Nowhere" }),
		"concurrency of a schedule": schedule(func(c *schedulerpb.Schedule) { c.Concurrency = 9 }),
		"keep is 101":               schedule(func(c *schedulerpb.Schedule) { c.Keep = 101 }),
		"start within is 1s":        schedule(func(c *schedulerpb.Schedule) { c.StartWithinNs = 1e9 }),
		"start within is -1ns":      schedule(func(c *schedulerpb.Schedule) { c.StartWithinNs = -1 }),
	} {
		sp := schedulertest.JobSpec("job", 0, 3)
		change(sp)
		if err := spec.Validate(spec.Normalize(sp)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it says %v, want %s", err, want)
		}
	}
}

// TestAScheduleThatDoesNotCome is refused by when it is: a 29 February is a Sunday every 28
// years.
func TestAScheduleThatDoesNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // from 2000 on
		sp := schedulertest.JobSpec("job", 0, 3)
		sp.Schedule = &schedulerpb.Schedule{Expression: "0 0 29 2 */7"}
		if err := spec.Validate(spec.Normalize(sp)); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * 365 * 24 * time.Hour)
		if err := spec.Validate(spec.Normalize(sp)); err == nil || !strings.Contains(err.Error(), "due at no time within the next nine years") {
			t.Errorf("in %v it says %v", time.Now(), err)
		}
	})
}
