package compose

import (
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
)

// mode maps how many tasks there are, and whether they come to an end.
func (m *mapper) mode(s types.ServiceConfig, d *types.DeployConfig, sp *schedulerpb.ServiceSpec) {
	path := []string{"services", s.Name, "deploy"}
	count := uint64(s.GetScale())
	switch d.Mode {
	case "", "replicated":
		sp.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: count}}
	case "replicated-job":
		sp.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{TotalCompletions: count}}
	case "global":
		sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	case "global-job":
		sp.Mode = &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}
	default:
		m.wrong(under(path, "mode"), "there is no mode %q: use replicated, global, replicated-job or global-job", d.Mode)
	}
	if spec.PerNode(sp) && (s.Scale != nil || d.Replicas != nil) {
		m.wrong(under(path, "replicas"), "a %s service runs once on every node: leave it out", d.Mode)
	}
	m.job(s, sp)
}

// job maps what is of jobs alone.
func (m *mapper) job(s types.ServiceConfig, sp *schedulerpb.ServiceSpec) {
	at := []string{"services", s.Name}
	if n, ok := extension[int](m, at, s.Extensions, "x-redoubt-max-concurrent"); ok {
		switch j := sp.GetReplicatedJob(); {
		case j == nil:
			m.wrong(under(at, "x-redoubt-max-concurrent"), "it is for deploy.mode replicated-job")
		case n < 1:
			m.wrong(under(at, "x-redoubt-max-concurrent"), "%d: write a number of tasks, or leave it out for all at a time", n)
		default:
			j.MaxConcurrent = uint64(n)
		}
	}
	all, ok := extension[map[string]any](m, at, s.Extensions, "x-redoubt-schedule")
	if !ok {
		return
	}
	at = under(at, "x-redoubt-schedule")
	out := &schedulerpb.Schedule{}
	out.Expression, _ = extension[string](m, at, all, "expression")
	out.TimeZone, _ = extension[string](m, at, all, "time_zone")
	if word, ok := extension[string](m, at, all, "concurrency"); ok {
		c, known := map[string]schedulerpb.Schedule_Concurrency{"allow": spec.Allow, "forbid": spec.Forbid, "replace": spec.Replace}[word]
		if out.Concurrency = c; !known {
			m.wrong(under(at, "concurrency"), "%q: use forbid, allow or replace", word)
		}
	}
	if n, ok := extension[int](m, at, all, "keep"); ok {
		if n < 1 || n > spec.MaxKeep {
			m.wrong(under(at, "keep"), "%d: write a number of runs, 1 to %d", n, spec.MaxKeep)
		} else {
			out.Keep = uint32(n)
		}
	}
	if text, ok := extension[string](m, at, all, "start_within"); ok {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			m.wrong(under(at, "start_within"), "%q: write a duration, as 10m", text)
		}
		out.StartWithinNs = int64(d)
	}
	sp.Schedule = out
}
