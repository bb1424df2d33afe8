// Package sandbox is how a daemon gives up what it does not need, once its
// sockets are in hand and before it reads a byte from anybody.
//
// The supervisor (or systemd) sets uid, capability sets, bounding set and
// resource limits; what remains is applied here, by the daemon to itself:
// no_new_privs, no core dumps and no ptrace by its own user (dumpable off), a
// Landlock ruleset and a seccomp filter for every thread. Apply fails closed:
// a daemon that holds a capability its profile does not name does not start.
// Kernels differ in what Landlock can restrict; Apply reports what is in force.
package sandbox

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Profile is everything a daemon keeps.
type Profile struct {
	// Capabilities it may hold; holding any other is an error.
	Capabilities []Capability
	// Files it may touch; nil where Landlock cannot be used (it forbids mount).
	Files *Files
	// Syscalls is the seccomp filter.
	Syscalls Filter
}

// Files is a Landlock ruleset. Directories stand for all below them; what is
// missing when Apply runs stays out of reach.
type Files struct {
	ReadOnly  []string
	ReadWrite []string
	// BindTCP are the ports it may listen on; Connect allows outgoing TCP.
	BindTCP []uint16
	Connect bool
}

// Apply puts the profile in force for the whole process and returns a line for
// each protection. On an error the process must exit.
func Apply(p Profile) ([]string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var inForce []string

	if err := HideMemory(); err != nil {
		return nil, err
	}
	inForce = append(inForce, "core dumps off, not dumpable")

	if err := checkCapabilities(p.Capabilities); err != nil {
		return nil, err
	}
	inForce = append(inForce, "capabilities: "+names(p.Capabilities))

	// For this thread; the seccomp filter's TSYNC carries it to the others.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("no_new_privs: %w", err)
	}
	if p.Files != nil {
		line, err := restrictFiles(*p.Files)
		if err != nil {
			return nil, err
		}
		inForce = append(inForce, line)
	}
	if err := p.Syscalls.load(); err != nil {
		return nil, err
	}
	return append(inForce, "no_new_privs", "seccomp: "+p.Syscalls.String()), nil
}

// HideMemory keeps this process's memory out of core dumps and away from
// others of its own user.
func HideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("turn off core dumps: %w", err)
	}
	// The soft limit alone: children, which hold no secret, may raise it again.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("turn off core dumps: %w", err)
	}
	limit.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("turn off core dumps: %w", err)
	}
	return nil
}
