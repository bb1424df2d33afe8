package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// taskFlags are the flags that service create and update share. On update only
// those that were given change anything (apply).
type taskFlags struct {
	workdir, user, hostname  string
	readOnly, tty, init      bool
	stopSignal, entrypoint   string
	stopGrace                nonNegative
	limitCPU, reserveCPU     nanoCPUs
	limitMemory, reserveMem  byteSize
	limitPids                int64
	condition                restartCondition
	restartDelay, restartWin nonNegative
	maxAttempts              uint64
	registryAuth             string
	health                   healthFlags
	identity                 identityFlags
}

func (t *taskFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&t.workdir, "workdir", "w", "", "working directory in the container")
	f.StringVarP(&t.user, "user", "u", "", "user, or user:group, in the container")
	f.StringVar(&t.hostname, "hostname", "", "host name in the container")
	f.BoolVar(&t.readOnly, "read-only", false, "read-only root file system")
	f.BoolVarP(&t.tty, "tty", "t", false, "give the container a terminal")
	f.BoolVar(&t.init, "init", false, "start it under a program that reaps processes nobody waits for")
	f.StringVar(&t.registryAuth, "registry-auth", "", "secret by which nodes get the image (made with --registry)")
	f.StringVar(&t.stopSignal, "stop-signal", "", "signal that stops the container")
	f.Var(&t.stopGrace, "stop-grace-period", "time before it is killed (default 10s)")
	f.StringVar(&t.entrypoint, "entrypoint", "", "replace the image's entrypoint")
	f.Var(&t.limitCPU, "limit-cpu", "most CPUs it may use, as 0.5")
	f.Var(&t.limitMemory, "limit-memory", "most memory it may use, as 64m")
	f.Int64Var(&t.limitPids, "limit-pids", 0, "most processes it may have")
	f.Var(&t.reserveCPU, "reserve-cpu", "CPUs kept for it on its node")
	f.Var(&t.reserveMem, "reserve-memory", "memory kept for it on its node")
	f.Var(&t.condition, "restart-condition", "any, on-failure or none (default any)")
	f.Var(&t.restartDelay, "restart-delay", "pause before a restart (default 5s)")
	f.Uint64Var(&t.maxAttempts, "restart-max-attempts", 0, "most restarts (0: no bound)")
	f.Var(&t.restartWin, "restart-window", "time over which restarts are counted")
	t.health.add(f)
	t.identity.add(f)
}

// apply puts the flags that were given into spec.
func (t *taskFlags) apply(f *pflag.FlagSet, spec *taskpb.TaskSpec) error {
	if spec.Container == nil {
		spec.Container = new(taskpb.ContainerSpec)
	}
	c := spec.Container
	set := func(name string, do func()) {
		if f.Changed(name) {
			do()
		}
	}
	set("workdir", func() { c.Workdir = t.workdir })
	set("user", func() { c.User = t.user })
	set("hostname", func() { c.Hostname = t.hostname })
	set("read-only", func() { c.ReadOnly = t.readOnly })
	set("tty", func() { c.Tty = t.tty })
	set("init", func() { c.Init = t.init })
	set("registry-auth", func() { c.RegistryAuth = t.registryAuth })
	set("stop-signal", func() { c.StopSignal = t.stopSignal })
	set("stop-grace-period", func() { c.StopGraceNs = int64(t.stopGrace) })
	t.identity.apply(f, spec)
	limits, reserved, restart := orNew(spec.Limits), orNew(spec.Reservations), orNew(spec.Restart)
	if err := t.health.apply(f, c); err != nil {
		return err
	}
	set("limit-cpu", func() { limits.NanoCpus, spec.Limits = int64(t.limitCPU), limits })
	set("limit-memory", func() { limits.MemoryBytes, spec.Limits = int64(t.limitMemory), limits })
	set("limit-pids", func() { limits.Pids, spec.Limits = t.limitPids, limits })
	set("reserve-cpu", func() { reserved.NanoCpus, spec.Reservations = int64(t.reserveCPU), reserved })
	set("reserve-memory", func() { reserved.MemoryBytes, spec.Reservations = int64(t.reserveMem), reserved })
	set("restart-condition", func() { restart.Condition, spec.Restart = t.condition.value(), restart })
	set("restart-delay", func() { restart.DelayNs, spec.Restart = int64(t.restartDelay), restart })
	set("restart-max-attempts", func() { restart.MaxAttempts, spec.Restart = t.maxAttempts, restart })
	set("restart-window", func() { restart.WindowNs, spec.Restart = int64(t.restartWin), restart })
	if f.Changed("entrypoint") {
		w, err := words(t.entrypoint)
		if err != nil {
			return usagef("--entrypoint: %v", err)
		}
		c.Command = w
	}
	if t.limitPids < 0 {
		return usagef("--limit-pids %d: give 0 or more", t.limitPids)
	}
	return checkResources(spec)
}

func orNew[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}

// checkResources refuses what no node could ever satisfy.
func checkResources(spec *taskpb.TaskSpec) error {
	l, r := spec.GetLimits(), spec.GetReservations()
	if l.GetMemoryBytes() > 0 && r.GetMemoryBytes() > l.GetMemoryBytes() {
		return usagef("--reserve-memory is larger than --limit-memory: it could never be used")
	}
	if l.GetNanoCpus() > 0 && r.GetNanoCpus() > l.GetNanoCpus() {
		return usagef("--reserve-cpu is larger than --limit-cpu: it could never be used")
	}
	return nil
}

type restartCondition string

func (r *restartCondition) Type() string   { return "any|on-failure|none" }
func (r *restartCondition) String() string { return string(*r) }
func (r *restartCondition) Set(s string) error {
	switch s {
	case "any", "on-failure", "none":
		*r = restartCondition(s)
		return nil
	}
	return fmt.Errorf("use any, on-failure or none")
}

func (r restartCondition) value() taskpb.RestartPolicy_Condition {
	return taskpb.RestartPolicy_Condition(taskpb.RestartPolicy_Condition_value["CONDITION_"+strings.ToUpper(strings.ReplaceAll(string(r), "-", "_"))])
}

// portList and mountList are repeatable flags checked as they are read.
type portList []*taskpb.Port

func (l *portList) Type() string   { return "port" }
func (l *portList) String() string { return "" }
func (l *portList) Set(s string) error {
	p, err := parsePort(s)
	if err != nil {
		return err
	}
	for _, o := range *l {
		if samePort(o, p) {
			return fmt.Errorf("%s is published twice", portString(p))
		}
	}
	*l = append(*l, p)
	return nil
}

// samePort reports whether only one of them can be published. One whose number the
// cluster chooses is known by its target.
func samePort(a, b *taskpb.Port) bool {
	if a.Published == 0 || b.Published == 0 {
		return a.Mode == b.Mode && a.Target == b.Target && a.Protocol == b.Protocol && a.HostIp == b.HostIp
	}
	return a.Published == b.Published && a.Protocol == b.Protocol && (a.HostIp == b.HostIp || a.HostIp == "" || b.HostIp == "")
}

type mountList []*taskpb.Mount

func (l *mountList) Type() string   { return "mount" }
func (l *mountList) String() string { return "" }
func (l *mountList) Set(s string) error {
	m, err := parseMount(s)
	if err != nil {
		return err
	}
	return l.add(m)
}

func (l *mountList) add(m *taskpb.Mount) error {
	for _, o := range *l {
		if o.Target == m.Target {
			return fmt.Errorf("two mounts at %s", m.Target)
		}
	}
	*l = append(*l, m)
	return nil
}

// volumeFlag is --volume, whose mounts go where those of --mount do.
type volumeFlag struct{ to *mountList }

func (f volumeFlag) Type() string   { return "volume" }
func (f volumeFlag) String() string { return "" }
func (f volumeFlag) Set(s string) error {
	m, err := parseVolume(s)
	if err != nil {
		return err
	}
	return f.to.add(m)
}

// waitFlags are --detach and --timeout.
type waitFlags struct {
	detach  bool
	quiet   bool
	timeout time.Duration
	follows follows
	run     uint64 // of a job, to be waited for; 0: the newest
}

func (w *waitFlags) add(f *pflag.FlagSet) {
	f.BoolVarP(&w.detach, "detach", "d", false, "do not wait until it has converged")
	f.BoolVarP(&w.quiet, "quiet", "q", false, "no progress")
	f.DurationVar(&w.timeout, "timeout", defaultWait, "how long to wait (exit code 3 after that)")
}
