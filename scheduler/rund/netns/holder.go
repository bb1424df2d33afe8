package netns

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holder is a child process that exists to own a new user and network
// namespace until they are pinned.
//
// A user namespace cannot be entered by a process with threads, which a Go
// program always is, and rund's seccomp filter forbids exec. So the child is a
// bare fork that makes a handful of system calls and waits to be killed; it
// never returns into the Go runtime.
type holder struct{ pid int }

func newHolder(ids IDMap) (*holder, error) {
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	h := &holder{pid}
	mapping := fmt.Appendf(nil, "0 %d %d\n", ids.Base, ids.Size)
	for _, file := range []string{"uid_map", "gid_map"} {
		if err := h.write(file, mapping); err != nil {
			h.release()
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return h, nil
}

func (h *holder) write(file string, data []byte) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", h.pid, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func (h *holder) path(ns string) string { return fmt.Sprintf("/proc/%d/ns/%s", h.pid, ns) }

func (h *holder) release() {
	// The child is ours and not yet reaped, so the pid cannot be another's.
	_ = unix.Kill(h.pid, unix.SIGKILL)
	for {
		_, err := unix.Wait4(h.pid, nil, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// fork returns when the child may be looked at through /proc. The calling
// thread is locked.
func fork() (int, error) {
	var ready [2]int
	if err := unix.Pipe2(ready[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer unix.Close(ready[0])
	// No handler of the Go runtime may run in the child.
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, err
	}
	pid, errno := rawFork(unix.CLONE_NEWUSER|unix.CLONE_NEWNET|uintptr(unix.SIGCHLD), uintptr(ready[1]))
	unix.Close(ready[1])
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		return 0, err
	}
	if errno != 0 {
		return 0, fmt.Errorf("clone: %w", errno)
	}
	if err := awaitByte(ready[0]); err != nil {
		(&holder{pid}).release()
		return 0, err
	}
	return pid, nil
}

// awaitByte waits for the child's word that it is dumpable; without it the
// child has ended.
func awaitByte(fd int) error {
	var b [1]byte
	for {
		n, err := unix.Read(fd, b[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return errors.New("the process that holds the new namespaces ended")
		default:
			return nil
		}
	}
}

var readyByte byte = 1

// rawFork is fork(2) with flags. In the child only raw system calls follow:
// dumpable, so that the parent, which is not, may open its /proc entries, and a
// byte to ready to say so; death with the parent thread; no descriptor kept;
// then wait for SIGKILL.
//
//go:norace
//go:noinline
func rawFork(flags, ready uintptr) (int, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0, 0)
	syscall.RawSyscall6(syscall.SYS_WRITE, ready, uintptr(unsafe.Pointer(&readyByte)), 1, 0, 0, 0)
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, 0, 1<<31-1, 0, 0, 0, 0)
	for {
		syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}
