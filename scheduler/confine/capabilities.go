package confine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// All stands for every capability that a container's root has, where some are dropped.
const All = "ALL"

const prefix = "CAP_"

// DefaultCapabilities are what a container's root holds, and nobody else: what
// entrypoints need that prepare a directory and then become another user.
var DefaultCapabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"}

// always is what every process of a container may do without it: any port may be bound.
const always = "CAP_NET_BIND_SERVICE"

// capabilities are all there are, each at its number (capabilities(7)).
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CheckCapability returns an error unless it is the whole name of one.
func CheckCapability(name string) error {
	if !slices.Contains(capabilities, name) {
		return fmt.Errorf("capability %q is unknown: use a name such as CAP_NET_ADMIN, see capabilities(7)", clip(name))
	}
	return nil
}

// CapabilityMask has the bit of each that is named.
func CapabilityMask(names []string) (mask uint64) {
	for _, n := range names {
		if i := slices.Index(capabilities, n); i >= 0 {
			mask |= 1 << i
		}
	}
	return mask
}

// Capabilities makes of what people add and drop what a specification has: whole names
// in order, and nothing that says what is so anyhow. What a container's root has may be
// dropped, all of it by ALL, and of that some be kept by adding it. To add what every
// container has, or may do without, asks for nothing.
func Capabilities(add, drop []string) (capAdd, capDrop []string, err error) {
	if add, err = named("add", add); err != nil {
		return nil, nil, err
	}
	if drop, err = named("drop", drop); err != nil {
		return nil, nil, err
	}
	if slices.Contains(add, All) {
		return nil, nil, fmt.Errorf("capabilities are added by their names: ALL is for those that are dropped")
	}
	all := slices.Contains(drop, All)
	for _, n := range add {
		switch {
		case slices.Contains(drop, n):
			return nil, nil, fmt.Errorf("capability %s is added and dropped: keep one", n)
		case n != always && !slices.Contains(DefaultCapabilities, n):
			capAdd = append(capAdd, n)
		}
	}
	kept := slices.ContainsFunc(add, func(n string) bool { return slices.Contains(DefaultCapabilities, n) })
	switch {
	case all && !kept:
		capDrop = []string{All}
	case all:
		capDrop = slices.DeleteFunc(slices.Clone(DefaultCapabilities), func(n string) bool { return slices.Contains(add, n) })
	default:
		capDrop = drop
	}
	return capAdd, capDrop, nil
}

// named gives each its whole name, sorted, once.
func named(what string, list []string) ([]string, error) {
	out := make([]string, 0, len(list))
	for _, s := range list {
		n := strings.ToUpper(s)
		if n != All {
			if n = prefix + strings.TrimPrefix(n, prefix); !slices.Contains(capabilities, n) {
				return nil, fmt.Errorf("capability %q to %s is unknown: use a name such as NET_ADMIN, see capabilities(7)", clip(s), what)
			}
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func checkCapabilities(add, drop []string) error {
	if err := atMost("capabilities", len(add)+len(drop), 2*len(capabilities)); err != nil {
		return err
	}
	if slices.Contains(drop, All) && len(drop) > 1 {
		return fmt.Errorf("all capabilities are dropped, and some by name: keep one")
	}
	seen := map[string]bool{}
	for _, n := range slices.Concat(add, drop) {
		if n == All && len(drop) == 1 && !slices.Contains(add, All) {
			continue
		}
		if err := CheckCapability(n); err != nil {
			return err
		}
		if seen[n] {
			return fmt.Errorf("capability %s is given twice: keep one", n)
		}
		seen[n] = true
	}
	for _, n := range add {
		if n == always {
			return fmt.Errorf("capability %s is not needed: a container may bind every port; leave it out", n)
		}
		if slices.Contains(DefaultCapabilities, n) {
			return fmt.Errorf("capability %s is what a container's root has: leave it out, and out of what is dropped", n)
		}
	}
	return nil
}

// Held are the capabilities of a container's first process, by whether it is root there.
// What was added is held by any user: who asked for it asked for the service.
func Held(c *taskpb.ContainerSpec, root bool) []string {
	var out []string
	if drop := c.GetCapDrop(); root && !slices.Contains(drop, All) {
		out = slices.DeleteFunc(slices.Clone(DefaultCapabilities), func(n string) bool { return slices.Contains(drop, n) })
	}
	return append(out, c.GetCapAdd()...)
}

// ChangeCapabilities is Capabilities for a specification that has some already: what is
// added is dropped no more, and what is dropped is added no more.
func ChangeCapabilities(hasAdd, hasDrop, add, drop []string) (capAdd, capDrop []string, err error) {
	if add, err = named("add", add); err != nil {
		return nil, nil, err
	}
	if drop, err = named("drop", drop); err != nil {
		return nil, nil, err
	}
	for _, n := range add {
		if slices.Contains(drop, n) {
			return nil, nil, fmt.Errorf("capability %s is added and dropped: keep one", n)
		}
	}
	without := func(list, gone []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return slices.Contains(gone, n) })
	}
	if slices.Contains(drop, All) {
		hasDrop, drop = nil, []string{All}
	}
	return Capabilities(append(without(hasAdd, drop), add...), append(without(hasDrop, add), without(drop, hasAdd)...))
}
