package compose

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/spec"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// mapper makes a stack of a project. What it cannot, it notes, and goes on.
type mapper struct {
	read     *Read
	project  *types.Project
	out      *stack.Stack
	problems []Problem
}

func (m *mapper) wrong(path []string, format string, args ...any) {
	m.problems = append(m.problems, m.read.source.at(path, format, args...))
}

// fail notes err, if it is one.
func (m *mapper) fail(path []string, err error) {
	if err != nil {
		m.wrong(path, "%v", err)
	}
}

func under(path []string, more ...string) []string {
	return append(path[:len(path):len(path)], more...)
}

func (m *mapper) all() {
	if len(m.project.Services) == 0 {
		m.wrong(nil, "there is no service in it, or none of these profiles")
		return
	}
	m.networks()
	m.volumes()
	m.secrets()
	m.configs()
	m.policies()
	for _, name := range m.project.ServiceNames() {
		m.service(m.project.Services[name])
	}
}

// labels are those given, and the stack's.
func (m *mapper) labels(given types.Labels) map[string]string {
	out := map[string]string{}
	maps.Copy(out, given)
	out[stack.Label] = m.out.Name
	return out
}

// full is the name of an object in the cluster; a file may give it.
func (m *mapper) full(given, key string, external bool) string {
	switch {
	case given != "":
		return given
	case external:
		return key
	}
	return stack.Name(m.out.Name, key)
}

func (m *mapper) service(s types.ServiceConfig) {
	path := []string{"services", s.Name}
	if s.Image == "" { // else the loader would want a build
		m.wrong(path, "it has no image: name one")
		return
	}
	before := len(m.problems)
	sp := &schedulerpb.ServiceSpec{Name: stack.Name(m.out.Name, s.Name), Labels: m.labels(nil)}
	c := &taskpb.ContainerSpec{
		Image: s.Image, Command: s.Entrypoint, Args: s.Command, Workdir: s.WorkingDir, User: s.User, Hostname: s.Hostname,
		Labels: m.labels(s.Labels), ReadOnly: s.ReadOnly, StopSignal: s.StopSignal, Tty: s.Tty,
	}
	for _, k := range slices.Sorted(maps.Keys(s.Environment)) {
		if v := s.Environment[k]; v != nil { // a name that has no value here
			c.Env = append(c.Env, k+"="+*v)
		}
	}
	if s.StopGracePeriod != nil {
		c.StopGraceNs = int64(*s.StopGracePeriod)
	}
	t := &taskpb.TaskSpec{Container: c}
	sp.Task = t
	m.healthcheck(s, c)
	m.mounts(s, c)
	m.files(s, c)
	m.confine(s, c)
	m.ports(s, t)
	m.attach(s, t)
	m.depends(s, t)
	m.deploy(s, sp)
	m.extensions(s, sp)
	m.placement(s, sp)
	// What is wrong with it as a whole is said as the managers would, at the place
	// that it is about.
	if len(m.problems) == before {
		if err := ident.CheckName(s.Name); err != nil { // it is an alias on its networks
			m.fail(path, err)
		} else if err := spec.Validate(spec.Normalize(sp)); err != nil {
			m.wrong(append(path, about(err.Error(), s)...), "%v", err)
		}
	}
	m.out.Services = append(m.out.Services, sp)
}

// about is the key below a service that an error of its specification is about.
func about(text string, s types.ServiceConfig) []string {
	for _, k := range []struct{ begins, key string }{
		{"image", "image"}, {"environment", "environment"}, {"there are", "environment"}, {"hostname", "hostname"}, {"user", "user"},
		{"workdir", "working_dir"}, {"stop signal", "stop_signal"}, {"signal", "stop_signal"}, {"stop grace", "stop_grace_period"},
		{"healthcheck", "healthcheck"}, {"health", "healthcheck"}, {"the command", "command"}, {"an argument", "command"}, {"command", "command"},
		{"mount", "volumes"}, {"volume", "volumes"}, {"secret", "secrets"}, {"config", "configs"}, {"port", "ports"}, {"published", "ports"}, {"target port", "ports"},
		{"ulimit", "ulimits"}, {"sysctl", "sysctls"}, {"device", "devices"}, {"capabilit", "cap_add"}, {"dns", "dns"}, {"resolver", "dns"}, {"host", "extra_hosts"}, {"group", "group_add"}, {"seccomp", "security_opt"}, {"network", "networks"}, {"constraint", "deploy.placement.constraints"}, {"restart", "deploy.restart_policy"}, {"update", "deploy.update_config"}, {"rollback", "deploy.rollback_config"}, {"replicas", "deploy.replicas"},
		{"max per node", "deploy.placement.max_replicas_per_node"}, {"total completions", "deploy.replicas"}, {"max concurrent", "x-redoubt-max-concurrent"}, {"schedule", "x-redoubt-schedule"},
		{"the schedule", "x-redoubt-schedule"}, {"a schedule", "x-redoubt-schedule"}, {"time zone", "x-redoubt-schedule"}, {"start within", "x-redoubt-schedule"}, {"a job cannot publish", "ports"}, {"an endpoint", "deploy.endpoint_mode"}, {"endpoint", "deploy.endpoint_mode"}, {"limit", "deploy.resources.limits"},
		{"memory limit", "deploy.resources.limits.memory"}, {"cpu limit", "deploy.resources.limits.cpus"}, {"reserv", "deploy.resources.reservations"},
		{"placement preference", "deploy.placement.preferences"}, {"a global service", "deploy.mode"}, {"priority", "x-redoubt-placement.priority"}, {"strategy", "x-redoubt-placement.strategy"}, {"rebalance", "x-redoubt-placement"},
		{"container label", "labels"}, {"it depends", "depends_on"}, {"what it depends", "depends_on"}, {"that it depends", "depends_on"}, {"service label", "deploy.labels"}, {"identity", "x-redoubt-identity"}, {"the identity", "x-redoubt-identity"},
	} {
		if strings.HasPrefix(strings.ToLower(text), k.begins) {
			if k.key == "volumes" && len(s.Volumes) == 0 {
				return []string{"tmpfs"}
			}
			return strings.Split(k.key, ".")
		}
	}
	return nil
}

func (m *mapper) healthcheck(s types.ServiceConfig, c *taskpb.ContainerSpec) {
	h := s.HealthCheck
	if h == nil {
		return
	}
	if h.Disable {
		c.Healthcheck = &taskpb.Healthcheck{Test: []string{"NONE"}}
		return
	}
	check := &taskpb.Healthcheck{Test: h.Test}
	for _, d := range []struct {
		from *types.Duration
		to   *int64
	}{{h.Interval, &check.IntervalNs}, {h.Timeout, &check.TimeoutNs}, {h.StartPeriod, &check.StartPeriodNs}, {h.StartInterval, &check.StartIntervalNs}} {
		if d.from != nil {
			*d.to = int64(*d.from)
		}
	}
	if h.Retries != nil {
		check.Retries = uint32(min(*h.Retries, 1<<32-1))
	}
	c.Healthcheck = check
}

// depends maps what the service's tasks wait for: services of the same file, which the
// loader saw to.
func (m *mapper) depends(s types.ServiceConfig, t *taskpb.TaskSpec) {
	for _, name := range slices.Sorted(maps.Keys(s.DependsOn)) {
		d := s.DependsOn[name]
		out := &taskpb.Dependency{Service: stack.Name(m.out.Name, name), Optional: !d.Required}
		switch d.Condition {
		case types.ServiceConditionStarted:
			out.Condition = taskpb.Dependency_CONDITION_STARTED
		case types.ServiceConditionHealthy:
			out.Condition = taskpb.Dependency_CONDITION_HEALTHY
		case types.ServiceConditionCompletedSuccessfully:
			out.Condition = taskpb.Dependency_CONDITION_COMPLETED
		default:
			m.wrong([]string{"services", s.Name, "depends_on", name, "condition"}, "there is no condition %q: use service_started, service_healthy or service_completed_successfully", d.Condition)
		}
		t.DependsOn = append(t.DependsOn, out)
	}
}

func (m *mapper) attach(s types.ServiceConfig, t *taskpb.TaskSpec) {
	for _, key := range slices.Sorted(maps.Keys(s.Networks)) {
		use, n := s.Networks[key], m.project.Networks[key]
		u := &taskpb.NetworkUse{Network: m.full(n.Name, key, bool(n.External))}
		if name := s.Name; name != stack.Name(m.out.Name, s.Name) {
			u.Aliases = []string{name}
		}
		if use != nil {
			for _, a := range use.Aliases {
				if !slices.Contains(u.Aliases, a) {
					u.Aliases = append(u.Aliases, a)
				}
			}
		}
		t.Networks = append(t.Networks, u)
	}
}

// extension reads one of ours; ok is false where it is not there, or is wrong.
func extension[T any](m *mapper, path []string, all types.Extensions, name string) (v T, ok bool) {
	raw, there := all[name]
	if !there || raw == nil {
		return v, false
	}
	if v, ok = raw.(T); !ok {
		m.wrong(under(path, name), "it is of another kind: write %s", map[string]string{
			"bool": "true or false", "string": "a text", "map[string]interface {}": "a mapping", "[]interface {}": "a list", "int": "a number",
		}[fmt.Sprintf("%T", v)])
	}
	return v, ok
}
