package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// makeNamespaces makes and pins h's network, mount and host name namespaces.
// They are made on a thread that is thrown away afterwards, and pinned from
// outside, as a mount namespace cannot hold itself.
func (l *Lab) makeNamespaces(h Host) error {
	if err := l.privateNSDir(); err != nil {
		return err
	}
	made, pinned, done := make(chan string), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- onSpareThread(func() error {
			err := l.enterFresh(h)
			if err == nil {
				made <- fmt.Sprintf("/proc/%d/task/%d/ns", os.Getpid(), unix.Gettid())
				<-pinned
			}
			return err
		})
	}()
	select {
	case err := <-done:
		return fmt.Errorf("make %s: %w", h.Name, err)
	case ns := <-made:
		err := errors.Join(
			pinNamespace(ns+"/net", filepath.Join(netnsDir, l.netns(h))),
			pinNamespace(ns+"/mnt", l.mntns(h)),
			pinNamespace(ns+"/uts", l.utsns(h)))
		close(pinned)
		return errors.Join(err, <-done)
	}
}

// privateNSDir makes the directory of pinned namespaces a private mount: a
// mount namespace can be bound nowhere else.
func (l *Lab) privateNSDir() error {
	dir := l.nsDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	points, err := mountPoints()
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.path == dir {
			return nil
		}
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", dir, "", unix.MS_PRIVATE, "")
}

// enterFresh gives the calling thread new namespaces and h's view of the file
// system: nothing mounted here is seen outside, no other namespace is kept
// alive by a copied mount, /run/containerd and /etc/hosts are h's own.
func (l *Lab) enterFresh(h Host) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	points, err := mountPoints()
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.fstype == "nsfs" {
			if err := unix.Unmount(p.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // its file may be gone meanwhile
				return fmt.Errorf("let go of %s: %w", p.path, err)
			}
		}
	}
	if err := unix.Sethostname([]byte(h.Name)); err != nil {
		return err
	}
	// Shims keep state here whatever containerd is told.
	if err := os.MkdirAll("/run/containerd", 0o711); err != nil {
		return err
	}
	if err := unix.Mount("containerd", "/run/containerd", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711,size=512m"); err != nil {
		return fmt.Errorf("mount /run/containerd: %w", err)
	}
	if err := ownTUN(); err != nil {
		return err
	}
	hosts, err := filepath.EvalSymlinks("/etc/hosts")
	if err != nil {
		return fmt.Errorf("the machine needs an /etc/hosts: %w", err)
	}
	if err := unix.Mount(filepath.Join(l.hostDir(h), "hosts"), hosts, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", hosts, err)
	}
	return nil
}

// ownTUN gives the host a /dev/net/tun with the mode that it has on Debian,
// whatever the machine's own has: netd's user is to open it.
func ownTUN() error {
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("net", "/dev/net", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("mount /dev/net: %w", err)
	}
	const path = "/dev/net/tun"
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return os.Chmod(path, 0o666) // whatever the umask
}

// inside runs f on a thread in h's namespaces. The thread is not used again;
// processes that f starts belong to the host.
func (l *Lab) inside(h Host, f func() error) error {
	return onSpareThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		for _, ns := range []struct {
			path string
			kind int
		}{
			{filepath.Join(netnsDir, l.netns(h)), unix.CLONE_NEWNET},
			{l.utsns(h), unix.CLONE_NEWUTS},
			{l.mntns(h), unix.CLONE_NEWNS}, // last: the others' paths are not inside
		} {
			if err := setns(ns.path, ns.kind); err != nil {
				return fmt.Errorf("enter %s: %w", h.Name, err)
			}
		}
		return f()
	})
}

// onSpareThread runs f on a thread that ends afterwards. It must not be the
// main one: that never ends, and /proc/self would show its namespaces as this
// process's.
func onSpareThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			err := onSpareThread(f) // elsewhere, as this thread is held
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}

func setns(path string, kind int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return errors.New("the host is off: start it with `redoubt lab start`")
		}
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, kind); err != nil {
		return &os.PathError{Op: "setns", Path: path, Err: err}
	}
	return nil
}

// removeNamespaces unpins h's namespaces; they end with the last process in
// them.
func (l *Lab) removeNamespaces(h Host) error {
	return errors.Join(
		unpinNamespace(l.mntns(h)),
		unpinNamespace(l.utsns(h)),
		unpinNamespace(filepath.Join(netnsDir, l.netns(h))))
}

type mountPoint struct{ path, fstype string }

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// mountPoints lists the mounts that the calling thread sees.
func mountPoints() ([]mountPoint, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []mountPoint
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) > 4 && len(kind) > 0 {
			points = append(points, mountPoint{unescape.Replace(fields[4]), kind[0]})
		}
	}
	return points, s.Err()
}
