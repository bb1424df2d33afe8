package spec

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/cron"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// Short names of what is done with a run that is due while another goes on.
const (
	Allow   = schedulerpb.Schedule_CONCURRENCY_ALLOW
	Forbid  = schedulerpb.Schedule_CONCURRENCY_FORBID
	Replace = schedulerpb.Schedule_CONCURRENCY_REPLACE
)

// IsJob reports whether tasks of a service are there to end.
func IsJob(s *schedulerpb.ServiceSpec) bool {
	return s.GetReplicatedJob() != nil || s.GetGlobalJob() != nil
}

// PerNode reports whether a service has its tasks by node, and not by slot.
func PerNode(s *schedulerpb.ServiceSpec) bool {
	return s.GetGlobal() != nil || s.GetGlobalJob() != nil
}

// Size is how many slots a service has at most: its replicas, or the completions of a
// run of it; 0 where it has its tasks by node.
func Size(s *schedulerpb.ServiceSpec) uint64 {
	if j := s.GetReplicatedJob(); j != nil {
		return j.GetTotalCompletions()
	}
	return s.GetReplicated().GetReplicas()
}

// Concurrent is how many tasks of one run of a job there may be at a time.
func Concurrent(s *schedulerpb.ServiceSpec) uint64 {
	return cmp.Or(s.GetReplicatedJob().GetMaxConcurrent(), math.MaxUint64)
}

// ModeName is a service's mode as people write it.
func ModeName(s *schedulerpb.ServiceSpec) string {
	name := "replicated"
	if PerNode(s) {
		name = "global"
	}
	if IsJob(s) {
		name += "-job"
	}
	return name
}

// SameMode reports whether both are of one mode.
func SameMode(a, b *schedulerpb.ServiceSpec) bool {
	return IsJob(a) == IsJob(b) && PerNode(a) == PerNode(b)
}

// NewestRun is the newest of a job's runs that was begun; nil: there is none.
func NewestRun(runs []*schedulerpb.ServiceRun) (newest *schedulerpb.ServiceRun) {
	for _, r := range runs {
		if r.GetNumber() > newest.GetNumber() && r.GetBeganAt() != 0 {
			newest = r
		}
	}
	return newest
}

// Keep is how many runs of a job are kept after they ended.
func Keep(s *schedulerpb.ServiceSpec) int {
	return int(cmp.Or(s.GetSchedule().GetKeep(), DefaultKeep))
}

// StartWithin is by when after its due time a run must have begun.
func StartWithin(s *schedulerpb.ServiceSpec) time.Duration {
	return time.Duration(cmp.Or(s.GetSchedule().GetStartWithinNs(), int64(DefaultStartWithin)))
}

// ScheduleOf reads the schedule of a job; nil: it has none.
func ScheduleOf(s *schedulerpb.ServiceSpec) (*cron.Schedule, error) {
	c := s.GetSchedule()
	if c == nil {
		return nil, nil
	}
	return cron.Parse(c.GetExpression(), c.GetTimeZone())
}

func normalizeJob(s *schedulerpb.ServiceSpec) {
	if t := s.GetTask(); IsJob(s) && t != nil {
		if t.Restart == nil {
			t.Restart = &taskpb.RestartPolicy{}
		}
		t.Restart.Condition = cmp.Or(t.Restart.Condition, taskpb.RestartPolicy_CONDITION_ON_FAILURE)
	}
	c := s.GetSchedule()
	if c == nil {
		return
	}
	c.Expression = cron.Canonical(c.Expression)
	c.TimeZone = cmp.Or(c.TimeZone, "UTC")
	c.Concurrency = cmp.Or(c.Concurrency, Forbid)
	c.Keep = cmp.Or(c.Keep, DefaultKeep)
	c.StartWithinNs = cmp.Or(c.StartWithinNs, int64(DefaultStartWithin))
}

func validateJob(s *schedulerpb.ServiceSpec) error {
	if !IsJob(s) {
		if s.GetSchedule() != nil {
			return fmt.Errorf("a schedule is for jobs: use mode replicated-job or global-job, or leave it out")
		}
		return nil
	}
	if j := s.GetReplicatedJob(); j != nil {
		if n := j.GetTotalCompletions(); n < 1 || n > MaxCompletions {
			return fmt.Errorf("total completions is %d: use 1 to %d", n, MaxCompletions)
		}
		if n := j.GetMaxConcurrent(); n > MaxCompletions {
			return fmt.Errorf("max concurrent is %d: use 1 to %d, or 0 for all at once", n, MaxCompletions)
		}
	}
	switch t := s.GetTask(); {
	case s.GetUpdate() != nil:
		return fmt.Errorf("update settings are for services that go on: a job that is changed runs anew, so leave them out")
	case s.GetRollback() != nil:
		return fmt.Errorf("rollback settings are for services that go on: a job that goes back runs anew, so leave them out")
	case t.GetRestart().GetCondition() == taskpb.RestartPolicy_CONDITION_ANY:
		return fmt.Errorf("restart condition is any: a job that completed is not run again: use on-failure or none")
	case slices.ContainsFunc(t.GetPorts(), Ingress):
		return fmt.Errorf("a job cannot publish ports in mode ingress, as it comes to its end: use mode host")
	}
	return validateSchedule(s.GetSchedule())
}

func validateSchedule(c *schedulerpb.Schedule) error {
	if c == nil {
		return nil
	}
	sch, err := cron.Parse(c.GetExpression(), c.GetTimeZone())
	if err != nil {
		return err
	}
	if sch.Next(time.Now()).IsZero() { // as "0 0 29 2 */7", which is a Sunday every 28 years
		return fmt.Errorf("schedule %q: it is due at no time within the next nine years: leave out a field", c.GetExpression())
	}
	switch c.GetConcurrency() {
	case Allow, Forbid, Replace:
	default:
		return fmt.Errorf("the concurrency of a schedule is unknown: use allow, forbid or replace")
	}
	if n := c.GetKeep(); n < 1 || n > MaxKeep {
		return fmt.Errorf("keep is %d: use 1 to %d runs", n, MaxKeep)
	}
	if d := time.Duration(c.GetStartWithinNs()); d < MinStartWithin || d > MaxStartWithin {
		return fmt.Errorf("start within is %v: use %v to %v", d, MinStartWithin, MaxStartWithin)
	}
	return nil
}
