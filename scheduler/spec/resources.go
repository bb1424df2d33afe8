package spec

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

func validateResources(reserve, limit *taskpb.Resources) error {
	for _, r := range []struct {
		what        string
		value, most int64
	}{
		{"reserved CPU", reserve.GetNanoCpus(), MaxNanoCPUs},
		{"reserved memory", reserve.GetMemoryBytes(), MaxMemoryBytes},
		{"CPU limit", limit.GetNanoCpus(), MaxNanoCPUs},
		{"memory limit", limit.GetMemoryBytes(), MaxMemoryBytes},
		{"pids limit", limit.GetPids(), MaxPids},
	} {
		if r.value < 0 || r.value > r.most {
			return fmt.Errorf("%s is %d: use 0 to %d", r.what, r.value, r.most)
		}
	}
	switch {
	case reserve.GetPids() != 0:
		return fmt.Errorf("pids cannot be reserved: set a pids limit instead")
	case limit.GetMemoryBytes() != 0 && limit.GetMemoryBytes() < MinMemoryLimit:
		return fmt.Errorf("memory limit is %d bytes: use at least %d", limit.GetMemoryBytes(), MinMemoryLimit)
	case limit.GetNanoCpus() != 0 && limit.GetNanoCpus() < MinNanoCPUsLimit:
		return fmt.Errorf("CPU limit is %g cores: use at least %g", float64(limit.GetNanoCpus())/1e9, float64(MinNanoCPUsLimit)/1e9)
	case limit.GetMemoryBytes() != 0 && reserve.GetMemoryBytes() > limit.GetMemoryBytes():
		return fmt.Errorf("reserved memory exceeds the memory limit: raise the limit or reserve less")
	case limit.GetNanoCpus() != 0 && reserve.GetNanoCpus() > limit.GetNanoCpus():
		return fmt.Errorf("reserved CPU exceeds the CPU limit: raise the limit or reserve less")
	}
	return nil
}

func validateRestart(p *taskpb.RestartPolicy) error {
	switch p.GetCondition() {
	case taskpb.RestartPolicy_CONDITION_NONE, taskpb.RestartPolicy_CONDITION_ON_FAILURE, taskpb.RestartPolicy_CONDITION_ANY:
	default:
		return fmt.Errorf("the restart condition is unknown: use none, on-failure or any")
	}
	if err := checkDuration("restart delay", p.GetDelayNs(), MaxRestartDelay); err != nil {
		return err
	}
	if n := p.GetMaxAttempts(); n > MaxRestartAttempts {
		return fmt.Errorf("restart attempts is %d: use 0 (no bound) to %d", n, MaxRestartAttempts)
	}
	return checkDuration("restart window", p.GetWindowNs(), MaxRestartWindow)
}

var platformRule = regexp.MustCompile(`^[a-z0-9]{1,32}/[a-z0-9]{1,32}$`)

func validatePlatforms(list []string) error {
	if len(list) > MaxPlatforms {
		return fmt.Errorf("there are %d platforms: at most %d are allowed", len(list), MaxPlatforms)
	}
	for _, p := range list {
		if !platformRule.MatchString(p) {
			return fmt.Errorf("platform %q: use os/arch such as linux/amd64", clip(p))
		}
	}
	return nil
}

// signalName gives the one spelling of a signal: SIGTERM for TERM, sigterm and
// 15. Empty stays empty: the image's, else SIGTERM.
func signalName(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if name := unix.SignalName(unix.Signal(n)); name != "" {
			return name, nil
		}
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if unix.SignalNum(name) == 0 {
		return "", fmt.Errorf("stop signal %q is unknown: use a name such as SIGTERM", clip(s))
	}
	return name, nil
}
