package netns

import (
	"fmt"
	"hash/fnv"
	"runtime"

	"golang.org/x/sys/unix"
)

// owner is the host id that owns the user namespace of a task. What the kernel
// counts per user, such as inotify instances, pending signals and message
// queues, it charges to the user inside a namespace and again to the
// namespace's owner outside. Were that root, one container could use up what
// the host's own daemons have. It is one of the range, which no process on the
// host runs as, and a task's own but for collisions, so that neighbours do not
// pay either.
func (m IDMap) owner(id string) int {
	h := fnv.New32a()
	h.Write([]byte(id))
	return int(m.Base + h.Sum32()%m.Size)
}

// AsOwner runs f on a thread that owns the task's user namespace, which gives it
// every capability there.
func (s *Store) AsOwner(id string, f func() error) error { return asOwner(s.ids(id).owner(id), f) }

// asOwner runs f on a thread of its own whose effective user is uid and which
// keeps its capabilities. The thread is not used again.
func asOwner(uid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := becomeOwner(uid)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// becomeOwner makes its system calls raw, as those of the standard library
// change every thread.
func becomeOwner(uid int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
		return fmt.Errorf("setresuid: %w", e)
	}
	// The change took the effective ones; the permitted ones are still there.
	if err := unix.Capset(&header, &caps[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	// Files that are made stay root's. There is no error to look at.
	unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
	return nil
}
