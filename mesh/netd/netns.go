package netd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openOwnNetns is the namespace netd itself runs in.
func openOwnNetns() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") }

// openSandbox opens <run-dir>/netns/<name>. The name was checked to be an id.
// The file is rund's; it is still opened without following any link, and what
// it is must be a network namespace other than the node's own, so that a
// mistake over there cannot make netd reconfigure the node.
func openSandbox(runDir, name string, node *os.File) (*os.File, error) {
	dir, err := unix.Open(filepath.Join(runDir, "netns"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Join(runDir, "netns"), err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("sandbox %s does not exist (any more)", name)
	}
	if err != nil {
		return nil, fmt.Errorf("open sandbox %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := checkSandbox(fd, int(node.Fd())); err != nil {
		f.Close()
		return nil, fmt.Errorf("sandbox %s: %w", name, err)
	}
	return f, nil
}

func checkSandbox(fd, node int) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return errors.New("the file is no namespace")
	}
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return errors.New("the file is no network namespace")
	}
	a, err := nsID(fd)
	if err != nil {
		return err
	}
	b, err := nsID(node)
	if err != nil {
		return err
	}
	if a == b {
		return errors.New("it is the node's own network namespace")
	}
	return nil
}

type nsIdentity struct{ dev, ino uint64 }

func nsID(fd int) (nsIdentity, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return nsIdentity{uint64(st.Dev), st.Ino}, err
}

// inNetns runs fn on a thread of its own in the namespace and waits for it. The
// thread ends with fn: it never comes back to run anything in a namespace it
// does not expect.
func inNetns(ns *os.File, fn func() error) error {
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

// withRoutes runs fn in the namespace with a netlink handle of it.
func withRoutes(ns *os.File, fn func(h *netlink.Handle) error, families ...int) error {
	return inNetns(ns, func() error {
		h, err := netlink.NewHandle(append(families, unix.NETLINK_ROUTE)...)
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		defer h.Close()
		if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
			return err
		}
		return fn(h)
	})
}

// setSysctl writes below /proc/sys/net of the calling thread's namespace unless
// the value is there already, and reports whether it was not.
func setSysctl(value string, path ...string) (bool, error) {
	name := filepath.Join(append([]string{"/proc/sys/net"}, path...)...)
	have, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	if string(have) == value+"\n" {
		return false, nil
	}
	return true, os.WriteFile(name, []byte(value), 0)
}

// noIPv6 turns IPv6 off on the link; a kernel without IPv6 is fine.
func noIPv6(link string) (bool, error) {
	changed, err := setSysctl("1", "ipv6/conf", link, "disable_ipv6")
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return changed, err
}
