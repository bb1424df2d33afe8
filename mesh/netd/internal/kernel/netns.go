package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// OpenOwn is the namespace netd itself runs in.
func OpenOwn() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// InNetns runs fn on a thread of its own in the namespace and waits for it. The
// thread ends with fn: it never comes back to run anything in a namespace it
// does not expect.
func InNetns(ns *os.File, fn func() error) error {
	done := make(chan error, 1)
	go enter(ns, fn, done)
	err := <-done
	runtime.KeepAlive(ns)
	return err
}

func enter(ns *os.File, fn func() error, done chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
	if unix.Gettid() == unix.Getpid() {
		// The first thread cannot end, and /proc/self is read through it: it
		// waits here, locked, while another one goes, and is then given back.
		again := make(chan error, 1)
		go enter(ns, fn, again)
		err := <-again
		runtime.UnlockOSThread()
		done <- err
		return
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		done <- fmt.Errorf("enter network namespace: %w", err)
		return
	}
	done <- fn()
}

// WithRoutes runs fn in the namespace with a netlink handle of it.
func WithRoutes(ns *os.File, fn func(h *netlink.Handle) error, families ...int) error {
	return InNetns(ns, func() error {
		h, err := netlink.NewHandle(append(families, unix.NETLINK_ROUTE)...)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		if err := h.SetSocketTimeout(requestTimeout); err != nil {
			return err
		}
		return fn(h)
	})
}

// SetSysctl writes below /proc/sys/net of the calling thread's namespace unless
// the value is there already, and reports whether it was not.
func SetSysctl(value string, path ...string) (bool, error) {
	var s Sysctls
	defer s.Close()
	return s.Set(value, path...)
}

// Sysctls are those below /proc/sys/net of the calling thread's namespace. Each
// namespace has its own directories of the same names there, and the kernel looks
// through those of all to find one: several settings go by one of these. Close it.
type Sysctls struct{ dirs map[string]int }

// Set is SetSysctl.
func (s *Sysctls) Set(value string, path ...string) (bool, error) {
	name := filepath.Join(path...)
	top, rest, ok := strings.Cut(name, "/")
	if !ok {
		return false, fmt.Errorf("setting %s: %w", name, os.ErrNotExist)
	}
	dir, ok := s.dirs[top]
	if !ok {
		var err error
		if dir, err = unix.Open("/proc/sys/net/"+top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return false, &os.PathError{Op: "open", Path: "/proc/sys/net/" + top, Err: err}
		}
		if s.dirs == nil {
			s.dirs = make(map[string]int)
		}
		s.dirs[top] = dir
	}
	have, err := s.use(dir, rest, unix.O_RDONLY, nil)
	if err != nil || have == value+"\n" {
		return false, err
	}
	_, err = s.use(dir, rest, unix.O_WRONLY, []byte(value))
	return true, err
}

// use reads the setting, or writes it.
func (s *Sysctls) use(dir int, name string, mode int, value []byte) (string, error) {
	fd, err := unix.Openat(dir, name, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	buf, n := make([]byte, 64), 0
	if value != nil {
		_, err = unix.Write(fd, value)
	} else {
		n, err = unix.Read(fd, buf)
	}
	if err != nil {
		return "", &os.PathError{Op: "use", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// Close gives back the descriptors.
func (s *Sysctls) Close() {
	for _, dir := range s.dirs {
		unix.Close(dir)
	}
	s.dirs = nil
}

// NoIPv6 turns IPv6 off on the link; a kernel without IPv6 is fine.
func NoIPv6(link string) (bool, error) {
	changed, err := SetSysctl("1", "ipv6/conf", link, "disable_ipv6")
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return changed, err
}

// FindLink is LinkByName with nil for a link that does not exist.
func FindLink(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for interface %s: %w", name, err)
	}
	return link, nil
}

// DeleteLink deletes it; a link that is gone already is fine.
func DeleteLink(h *netlink.Handle, link netlink.Link) error {
	err := h.LinkDel(link)
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete interface %s: %w", link.Attrs().Name, err)
	}
	return nil
}
