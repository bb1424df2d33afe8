package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Keep gives up every capability but those, in all threads: what a daemon needed
// only to start another process. The bounding set, which takes a capability that
// no daemon has, stays; with no_new_privs it gives nothing back.
func Keep(cs ...Capability) error {
	header, data, more, err := reduced(cs)
	if err != nil || !more {
		return err
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return fmt.Errorf("give up capabilities: %w (build with CGO_ENABLED=0, as make does)", errno)
	}
	return nil
}

// KeepByExec is Keep for a process that has done nothing yet: unless it holds no
// more than those, it executes its own program again, from a thread that does
// not, with the same arguments and environment. That it does once.
func KeepByExec(cs ...Capability) error {
	header, data, more, err := reduced(cs)
	if err != nil || !more {
		return err
	}
	runtime.LockOSThread() // never unlocked: it is this thread that lives on
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	// Else what is executed as root would have them again.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return fmt.Errorf("execute itself again: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// reduced is what capset is to be given; more: something is to be given up. The
// kernel takes ambient ones away with the inheritable.
func reduced(cs []Capability) (header unix.CapUserHeader, data [2]unix.CapUserData, more bool, err error) {
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err := unix.Capget(&header, &data[0]); err != nil {
		return header, data, false, fmt.Errorf("read capabilities: %w", err)
	}
	var mask uint64
	for _, c := range cs {
		mask |= 1 << uint(c)
	}
	for i := range data {
		keep := uint32(mask >> (32 * i))
		more = more || data[i].Permitted&^keep != 0
		data[i].Permitted &= keep
		data[i].Effective = data[i].Permitted
		data[i].Inheritable &= keep
	}
	return header, data, more, nil
}
