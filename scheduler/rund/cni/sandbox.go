package cni

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// sandboxOf identifies the network namespace at path, which must not be this
// process's own: the boot, and the kernel's cookie of the namespace, which it does
// not use again before the next boot. An inode's number it does.
func sandboxOf(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("%s is no network namespace: %w", path, err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return "", fmt.Errorf("%s is no network namespace", path)
	}
	own, err := cookie()
	if err != nil {
		return "", err
	}
	type answer struct {
		cookie uint64
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- answer{err: fmt.Errorf("enter %s: %w", path, err)}
			return
		}
		c, err := cookie()
		done <- answer{c, err}
	}()
	got := <-done
	if got.err != nil {
		return "", got.err
	}
	if got.cookie == own {
		return "", refuse("%s is the node's own network namespace", path)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s.%d", strings.TrimSpace(string(boot)), got.cookie), nil
}

// cookie is that of the thread's network namespace.
func cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return c, errors.Join(err, unix.Close(fd))
}
