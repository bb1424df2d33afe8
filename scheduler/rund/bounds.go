package rund

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// bound gives a process of a task its ulimits, and keeps its memory out of the host's
// core files and their handlers. The process waits to be started, so the pid is its own.
// The runtime cannot do it where root lacks CAP_SYS_RESOURCE: the namespace is not
// root's. No hard limit becomes higher than the node gave to containerd: who
// administers that decides what containers may have at most.
func (s *Server) bound(id string, pid int, list []*taskpb.Ulimit) error {
	return s.netns.AsOwner(id, func() error {
		if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
			return fmt.Errorf("forbid core dumps: %w", err)
		}
		for _, u := range list {
			resource, limit := confine.Rlimit(u)
			err := unix.Prlimit(pid, resource, &limit, nil)
			if errors.Is(err, unix.EPERM) {
				return rejected(fmt.Errorf("ulimit %s: the hard limit of %d is above what this node gives%s: lower it, or raise that of containerd's unit", u.GetName(), u.GetHard(), given(pid, resource)))
			}
			if err != nil {
				return fmt.Errorf("ulimit %s: %w", u.GetName(), err)
			}
		}
		return nil
	})
}

// given says what a process has.
func given(pid, resource int) string {
	var has unix.Rlimit
	if unix.Prlimit(pid, resource, nil, &has) != nil {
		return ""
	}
	return fmt.Sprintf(", %d", has.Max)
}

// boundShim keeps also the first moment of commands and healthchecks out of core files:
// the runtime starts them at once, as children of the container's shim, of which they
// have this limit. pid is of the container's own process, which is one as well.
func boundShim(pid int) error {
	shim, err := parentOf(pid)
	if err != nil {
		return err
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", shim)); err != nil || !strings.HasPrefix(string(name), "containerd-shim") {
		return errors.Join(err, fmt.Errorf("process %d, whose parent %d is %q, is no shim's", pid, shim, strings.TrimSpace(string(name))))
	}
	if err := unix.Prlimit(shim, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("forbid core dumps of the shim: %w", err)
	}
	return nil
}

func parentOf(pid int) (parent int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "PPid: %d", &parent); err == nil {
			return parent, nil
		}
	}
	return 0, fmt.Errorf("process %d has no parent", pid)
}
