package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/cron"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// modes are a service's, as people write them.
var modes = []string{"replicated", "global", "replicated-job", "global-job"}

// jobFlags are those of jobs alone: how many tasks run at a time, and when.
type jobFlags struct {
	concurrent           uint64
	expression, timeZone string
	concurrency          concurrency
	keep                 uint32
	startWithin          nonNegative
}

// scheduleFlags are kept in a job's schedule.
var scheduleFlags = []string{"time-zone", "concurrency", "keep", "start-within"}

func (j *jobFlags) add(f *pflag.FlagSet) {
	f.Uint64Var(&j.concurrent, "max-concurrent", 0, "job: most tasks at a time (0: all)")
	f.StringVar(&j.expression, "schedule", "", "job: when it runs: minute, hour, day of month, month and day of week, as \"30 2 * * mon-fri\", or @daily")
	f.StringVar(&j.timeZone, "time-zone", "", "job: time zone of its schedule, as Europe/Berlin (default UTC)")
	f.Var(&j.concurrency, "concurrency", "job: where a run is due while another goes on: forbid (it waits), allow, or replace the other (default forbid)")
	f.Uint32Var(&j.keep, "keep", 0, "job: runs that are kept in its history (default 10)")
	f.Var(&j.startWithin, "start-within", "job: how late a run may begin; then it is missed (default 10m)")
}

// apply changes s by the flags that were given. An empty --schedule ends it.
func (j *jobFlags) apply(f *pflag.FlagSet, s *schedulerpb.ServiceSpec) error {
	job := spec.IsJob(s)
	for _, name := range append([]string{"max-concurrent", "schedule"}, scheduleFlags...) {
		if f.Changed(name) && !job {
			return usagef("--%s is for jobs: services of mode replicated-job or global-job", name)
		}
	}
	if f.Changed("max-concurrent") {
		r := s.GetReplicatedJob()
		if r == nil {
			return usagef("--max-concurrent is for mode replicated-job: a global job runs on all nodes at a time")
		}
		r.MaxConcurrent = j.concurrent
	}
	if f.Changed("schedule") {
		if strings.TrimSpace(j.expression) == "" {
			s.Schedule = nil
		} else {
			s.Schedule = orNew(s.Schedule)
			s.Schedule.Expression = j.expression
		}
	}
	for _, name := range scheduleFlags {
		if f.Changed(name) && s.Schedule == nil {
			return usagef("--%s is of a schedule: give one with --schedule", name)
		}
	}
	if f.Changed("time-zone") {
		s.Schedule.TimeZone = j.timeZone
	}
	if f.Changed("concurrency") {
		s.Schedule.Concurrency = j.concurrency.value
	}
	if f.Changed("keep") {
		if j.keep == 0 {
			return usagef("--keep 0: use 1 to %d runs", spec.MaxKeep)
		}
		s.Schedule.Keep = j.keep
	}
	if f.Changed("start-within") {
		if j.startWithin == 0 {
			return usagef("--start-within 0s: use %v to %v", spec.MinStartWithin, spec.MaxStartWithin)
		}
		s.Schedule.StartWithinNs = int64(j.startWithin)
	}
	if c := s.GetSchedule(); c != nil {
		if _, err := cron.Parse(c.GetExpression(), c.GetTimeZone()); err != nil {
			return usagef("--schedule: %v", err)
		}
	}
	return nil
}

// modeOf is the mode of that name, for n tasks where it has a number; nil: none was given.
func modeOf(name string, n *uint64, s *schedulerpb.ServiceSpec) error {
	count := uint64(1)
	if n != nil {
		count = *n
	}
	switch name {
	case "replicated":
		s.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: count}}
	case "replicated-job":
		if count == 0 {
			return usagef("--replicas 0: a job runs at least once")
		}
		s.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{TotalCompletions: count}}
	case "global":
		s.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	case "global-job":
		s.Mode = &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}
	default:
		return usagef("--mode %q: use %s or %s", name, strings.Join(modes[:3], ", "), modes[3])
	}
	if n != nil && spec.PerNode(s) {
		return usagef("--replicas is for --mode replicated and replicated-job: a %s service runs once on every node", name)
	}
	return nil
}

// resize has a service run that many tasks, or a job complete that many.
func resize(s *schedulerpb.ServiceSpec, n uint64) error {
	if r := s.GetReplicated(); r != nil {
		r.Replicas = n
		return nil
	}
	j := s.GetReplicatedJob()
	switch {
	case j == nil:
		return fmt.Errorf("%s is a %s service, which runs once on every node: it has no number of replicas", s.GetName(), spec.ModeName(s))
	case n == 0:
		return fmt.Errorf("%s is a job, which runs at least once: `redoubt service rm %[1]s` removes it", s.GetName())
	}
	j.TotalCompletions = n
	return nil
}

// scheduleText is a schedule for people.
func scheduleText(c *schedulerpb.Schedule) string {
	if c == nil {
		return ""
	}
	sp := &schedulerpb.ServiceSpec{Schedule: c}
	return fmt.Sprintf("%s (%s), %s, begun within %v, %d runs kept", c.GetExpression(), cmp.Or(c.GetTimeZone(), "UTC"),
		enumName(cmp.Or(c.GetConcurrency(), spec.Forbid), "CONCURRENCY_"), spec.StartWithin(sp), spec.Keep(sp))
}

// concurrentText is how many tasks of a job run at a time.
func concurrentText(s *schedulerpb.ServiceSpec) string {
	switch n := s.GetReplicatedJob().GetMaxConcurrent(); {
	case s.GetReplicatedJob() == nil:
		return ""
	case n == 0:
		return "all at a time"
	default:
		return strconv.FormatUint(n, 10) + " at a time"
	}
}

type concurrency struct {
	value schedulerpb.Schedule_Concurrency
}

func (c *concurrency) Type() string   { return "concurrency" }
func (c *concurrency) String() string { return "" }
func (c *concurrency) Set(s string) error {
	switch s {
	case "allow":
		c.value = spec.Allow
	case "forbid":
		c.value = spec.Forbid
	case "replace":
		c.value = spec.Replace
	default:
		return fmt.Errorf("use forbid, allow or replace")
	}
	return nil
}
