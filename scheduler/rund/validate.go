package rund

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/confine"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/ocispec"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// checkTask refuses a task that this node must not run, whatever its state.
// Managers check what users write; rund does not rely on it.
func checkTask(t *rundpb.TaskDesired) error {
	c := t.GetSpec().GetContainer()
	if c == nil {
		return errors.New("the task has no container specification")
	}
	return cmp.Or(
		checkImage(c),
		confine.Check(c),
		checkFacts(t),
		checkProcess(c),
		checkMounts(c.GetMounts()),
		checkVolumes(t),
		checkResources(t.GetSpec()),
		checkEndpoint(t.GetEndpoint()),
		checkLocalNetworks(t.GetLocalNetworks()),
	)
}

// checkImage refuses an image that is not named by its content.
func checkImage(c *taskpb.ContainerSpec) error {
	if c.GetDigest() == "" {
		return fmt.Errorf("image %q came without a digest", c.GetImage())
	}
	// The name is what people, reports and policies read.
	if _, named, pinned := strings.Cut(c.GetImage(), "@"); pinned && named != c.GetDigest() {
		return fmt.Errorf("image %q is to be %q, which is another digest than it names", c.GetImage(), c.GetDigest())
	}
	return nil
}

func checkProcess(c *taskpb.ContainerSpec) error {
	n, size := 0, 0
	for _, list := range [][]string{c.GetCommand(), c.GetArgs(), c.GetEnv()} {
		n += len(list)
		for _, s := range list {
			size += len(s)
			if strings.ContainsRune(s, 0) {
				return errors.New("command, arguments and environment must not contain NUL")
			}
		}
	}
	if n > maxArgs || size > maxArgBytes {
		return fmt.Errorf("command, arguments and environment together exceed %d entries or %d bytes", maxArgs, maxArgBytes)
	}
	for i, e := range c.GetEnv() {
		// The value may be sensitive: say only which.
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return fmt.Errorf("environment entry %d is not NAME=value", i+1)
		}
	}
	if w := c.GetWorkdir(); w != "" && (!path.IsAbs(w) || strings.ContainsRune(w, 0)) {
		return fmt.Errorf("workdir %q must be an absolute path", w)
	}
	if h := c.GetHostname(); h != "" && !c.GetTemplated() {
		if err := ident.CheckHostname(h); err != nil || len(h) > 63 {
			return fmt.Errorf("hostname %q must be at most 63 letters, digits, dots and hyphens", h)
		}
	}
	if _, err := parseSignal(c.GetStopSignal()); err != nil {
		return err
	}
	if g := time.Duration(c.GetStopGraceNs()); g < 0 || g > maxGrace {
		return fmt.Errorf("stop grace %s must be between 0 and %s", g, maxGrace)
	}
	return nil
}

// propagation of every mount: what is mounted in a container, or below what it has of the
// node, is seen by nobody else.
const propagation = "rprivate"

// checkFacts refuses what templates cannot be filled in with: the facts are of this very
// task, and are written out as names.
func checkFacts(t *rundpb.TaskDesired) error {
	f := t.GetFacts()
	switch {
	case !t.GetSpec().GetContainer().GetTemplated():
		return nil
	case f == nil:
		return errors.New("the container has templates, and came without what they may say")
	case f.GetServiceId() != t.GetServiceId() || f.GetServiceName() != t.GetServiceName() || f.GetSlot() != t.GetSlot():
		return errors.New("what the container's templates may say is of another task")
	}
	if err := ident.CheckHostname(f.GetNodeName()); err != nil {
		return fmt.Errorf("what the container's templates may say: %w", err)
	}
	if !ident.Valid(f.GetNodeId()) || f.GetClusterId() == "" || ident.CheckName(f.GetClusterId()) != nil {
		return errors.New("what the container's templates may say has no id of a node or cluster")
	}
	return ident.CheckLabels("service label", f.GetServiceLabels())
}

// expand returns the task with its container's templates filled in, and refuses what
// becomes of them as if it had been written.
func expand(t *rundpb.TaskDesired) (*rundpb.TaskDesired, error) {
	if !t.GetSpec().GetContainer().GetTemplated() {
		return t, nil
	}
	c, err := confine.Expand(t.GetSpec().GetContainer(), confine.Facts(t.GetTaskId(), t.GetFacts()))
	if err != nil {
		return nil, err
	}
	t = proto.CloneOf(t)
	t.Spec.Container = c
	return t, cmp.Or(checkProcess(c), checkMounts(c.GetMounts()))
}

func checkMounts(ms []*taskpb.Mount) error {
	if len(ms) > maxMounts {
		return fmt.Errorf("%d mounts: at most %d are allowed", len(ms), maxMounts)
	}
	seen := map[string]bool{}
	for _, m := range ms {
		if err := ocispec.CheckTarget(m.GetTarget()); err != nil {
			return err
		}
		if seen[m.GetTarget()] {
			return fmt.Errorf("two mounts on %s", m.GetTarget())
		}
		seen[m.GetTarget()] = true
		if (m.GetVolume() != nil) != (m.GetType() == taskpb.Mount_TYPE_VOLUME) || m.GetBind() != nil && m.GetType() != taskpb.Mount_TYPE_BIND {
			return fmt.Errorf("mount on %s has what only another type of mount has", m.GetTarget())
		}
		switch m.GetType() {
		case taskpb.Mount_TYPE_VOLUME:
			if m.GetSource() != "" || m.GetTmpfsSize() != 0 || m.GetTmpfsMode() != 0 {
				return fmt.Errorf("volume on %s must have no source, and no tmpfs size or mode", m.GetTarget())
			}
		case taskpb.Mount_TYPE_TMPFS:
			if m.GetSource() != "" {
				return fmt.Errorf("tmpfs mount on %s must have no source", m.GetTarget())
			}
			if m.GetTmpfsSize() < 0 || m.GetTmpfsSize() > maxTmpfsSize || m.GetTmpfsMode() > 0o1777 {
				return fmt.Errorf("tmpfs mount on %s: size or mode is out of range", m.GetTarget())
			}
		case taskpb.Mount_TYPE_BIND:
			if m.GetTmpfsSize() != 0 || m.GetTmpfsMode() != 0 {
				return fmt.Errorf("bind mount on %s must have no tmpfs size or mode", m.GetTarget())
			}
			if p := m.GetBind().GetPropagation(); p != "" && p != propagation {
				return fmt.Errorf("bind mount on %s: its propagation can be %s alone", m.GetTarget(), propagation)
			}
		default:
			return fmt.Errorf("mount on %s is of an unknown type", m.GetTarget())
		}
	}
	return nil
}

func checkResources(s *taskpb.TaskSpec) error {
	const minMemory = 6 << 20 // below, a container cannot even start
	for _, r := range []*taskpb.Resources{s.GetLimits(), s.GetReservations()} {
		if r.GetNanoCpus() < 0 || r.GetMemoryBytes() < 0 || r.GetPids() < 0 {
			return errors.New("resources must not be negative")
		}
	}
	if m := s.GetLimits().GetMemoryBytes(); m != 0 && m < minMemory {
		return fmt.Errorf("memory limit %d is below the least a container starts with (%d)", m, minMemory)
	}
	return nil
}

func checkEndpoint(e *rundpb.Endpoint) error {
	if e == nil {
		return nil
	}
	if a := e.GetAddress(); a != "" {
		if _, err := netip.ParsePrefix(a); err != nil {
			return fmt.Errorf("endpoint address %q is not in CIDR form", a)
		}
	}
	if len(e.GetHosts()) > maxHosts {
		return fmt.Errorf("%d addresses of the host name: at most %d are allowed", len(e.GetHosts()), maxHosts)
	}
	for _, a := range e.GetHosts() {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("address %q of the host name is none", a)
		}
	}
	if len(e.GetDns()) > maxDNS {
		return fmt.Errorf("%d name servers: at most %d are allowed", len(e.GetDns()), maxDNS)
	}
	for _, d := range e.GetDns() {
		if _, err := netip.ParseAddr(d); err != nil {
			return fmt.Errorf("name server %q is not an address", d)
		}
	}
	return nil
}

// parseSignal reads SIGTERM, TERM or 15; empty is 0.
func parseSignal(s string) (unix.Signal, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("stop signal %d must be between 1 and 64", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok { // systemd's images use these
		if n, err := strconv.Atoi(rest); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(34 + n), nil
		}
	}
	return 0, fmt.Errorf("stop signal %q is unknown: use a name such as SIGTERM", s)
}
