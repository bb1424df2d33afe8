package compose

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// deploy maps the section of that name, and what says the same beside it.
func (m *mapper) deploy(s types.ServiceConfig, sp *schedulerpb.ServiceSpec) {
	path := []string{"services", s.Name, "deploy"}
	d := s.Deploy
	if d == nil {
		d = &types.DeployConfig{}
	}
	sp.Labels = m.labels(d.Labels)
	m.mode(s, d, sp)
	switch d.EndpointMode {
	case "":
	case "vip":
		sp.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_VIP
	case "dnsrr":
		sp.EndpointMode = schedulerpb.EndpointMode_ENDPOINT_MODE_DNSRR
	default:
		m.wrong(under(path, "endpoint_mode"), "there is no mode %q: use vip or dnsrr", d.EndpointMode)
	}
	sp.Update = m.update(under(path, "update_config"), d.UpdateConfig)
	sp.Rollback = m.update(under(path, "rollback_config"), d.RollbackConfig)
	t := sp.Task
	t.Constraints = d.Placement.Constraints
	if t.MaxPerNode = uint32(d.Placement.MaxReplicas); d.Placement.MaxReplicas > math.MaxUint32 {
		m.wrong(under(path, "placement", "max_replicas_per_node"), "%d is too many", d.Placement.MaxReplicas)
	}
	for i, pref := range d.Placement.Preferences {
		text := "spread=" + pref.Spread
		if _, err := spec.ParsePreference(text); err != nil {
			m.wrong(under(path, "placement", "preferences", strconv.Itoa(i), "spread"), "%v", err)
		}
		t.Preferences = append(t.Preferences, text)
	}
	t.Limits = m.resources(under(path, "resources", "limits"), d.Resources.Limits, s.CPUS, s.MemLimit, s.PidsLimit)
	t.Reservations = m.resources(under(path, "resources", "reservations"), d.Resources.Reservations, 0, s.MemReservation, 0)
	m.restart(s, sp)
}

// update maps how tasks are replaced.
func (m *mapper) update(path []string, c *types.UpdateConfig) *schedulerpb.UpdateConfig {
	if c == nil {
		return nil
	}
	out := &schedulerpb.UpdateConfig{Parallelism: spec.DefaultParallelism, DelayNs: int64(c.Delay), MonitorNs: int64(c.Monitor), MaxFailureRatio: c.MaxFailureRatio}
	if c.Parallelism != nil {
		out.Parallelism = *c.Parallelism
	}
	switch c.FailureAction {
	case "", "pause":
	case "continue":
		out.FailureAction = spec.ActionContinue
	case "rollback":
		out.FailureAction = spec.ActionRollback
	default:
		m.wrong(under(path, "failure_action"), "there is no action %q: use pause, continue or rollback", c.FailureAction)
	}
	switch c.Order {
	case "", "stop-first":
	case "start-first":
		out.Order = spec.StartFirst
	default:
		m.wrong(under(path, "order"), "there is no order %q: use stop-first or start-first", c.Order)
	}
	return out
}

// resources are those of deploy, or what older keys say.
func (m *mapper) resources(path []string, r *types.Resource, cpus float32, memory types.UnitBytes, pids int64) *taskpb.Resources {
	if r == nil {
		r = &types.Resource{}
	}
	out := &taskpb.Resources{MemoryBytes: int64(r.MemoryBytes), Pids: r.Pids}
	if r.NanoCPUs != 0 {
		cpus = float32(r.NanoCPUs)
	}
	if out.MemoryBytes == 0 {
		out.MemoryBytes = int64(memory)
	}
	if out.Pids == 0 {
		out.Pids = pids
	}
	// The shortest decimal that reads as this one is what was written.
	n, ok := new(big.Rat).SetString(strconv.FormatFloat(float64(cpus), 'f', -1, 32))
	if ok {
		n.Mul(n, big.NewRat(1e9, 1))
	}
	if !ok || !n.IsInt() || !n.Num().IsInt64() || n.Sign() < 0 {
		m.wrong(under(path, "cpus"), "write a number of CPUs, as 0.5 or 2")
		return nil
	}
	out.NanoCpus = n.Num().Int64()
	if out.MemoryBytes < 0 {
		m.wrong(under(path, "memory"), "write a size, as 64m or 1g")
	}
	if out.Pids < 0 {
		out.Pids = 0 // -1: no bound
	}
	if out.NanoCpus == 0 && out.MemoryBytes == 0 && out.Pids == 0 {
		return nil
	}
	return out
}

func (m *mapper) restart(s types.ServiceConfig, sp *schedulerpb.ServiceSpec) {
	t := sp.Task
	if s.Deploy == nil || s.Deploy.RestartPolicy == nil {
		m.restartWord(s, t)
		return
	}
	p, path := s.Deploy.RestartPolicy, []string{"services", s.Name, "deploy", "restart_policy"}
	out := &taskpb.RestartPolicy{}
	switch p.Condition {
	case "":
	case "any":
		if spec.IsJob(sp) { // of which that is not the default
			out.Condition = taskpb.RestartPolicy_CONDITION_ANY
		}
	case "on-failure":
		out.Condition = taskpb.RestartPolicy_CONDITION_ON_FAILURE
	case "none":
		out.Condition = taskpb.RestartPolicy_CONDITION_NONE
	default:
		m.wrong(under(path, "condition"), "there is no condition %q: use any, on-failure or none", p.Condition)
	}
	if p.Delay != nil {
		out.DelayNs = atOnce(time.Duration(*p.Delay))
	}
	if p.MaxAttempts != nil {
		out.MaxAttempts = *p.MaxAttempts
	}
	if p.Window != nil {
		out.WindowNs = int64(*p.Window)
	}
	t.Restart = out
}

// atOnce is a delay of which 0 is none, and not the default.
func atOnce(d time.Duration) int64 { return int64(max(d, 1)) }

// restartWord maps what stands for a policy in one word.
func (m *mapper) restartWord(s types.ServiceConfig, t *taskpb.TaskSpec) {
	word, attempts, counted := strings.Cut(s.Restart, ":")
	switch word {
	case "":
		return
	case "always", "unless-stopped":
		t.Restart = &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ANY}
	case "no":
		t.Restart = &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_NONE}
	case "on-failure":
		t.Restart = &taskpb.RestartPolicy{Condition: taskpb.RestartPolicy_CONDITION_ON_FAILURE}
		if counted {
			n, err := strconv.ParseUint(attempts, 10, 32)
			if err != nil {
				m.wrong([]string{"services", s.Name, "restart"}, "%q: write on-failure:3", s.Restart)
			}
			t.Restart.MaxAttempts = n
		}
		return
	}
	if t.Restart == nil || counted {
		m.wrong([]string{"services", s.Name, "restart"}, "%q: use always, unless-stopped, on-failure, on-failure:3 or no", s.Restart)
	}
}
