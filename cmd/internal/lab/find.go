package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// processes returns pidfds of every living process of h: those in its cgroup,
// and those in its network or mount namespace.
func (l *Lab) processes(h Host) ([]int, error) {
	members, err := cgroupMembers(l.CgroupOf(h))
	if err != nil {
		return nil, err
	}
	spaces := map[uint64]bool{}
	for _, p := range []string{filepath.Join(netnsDir, l.netns(h)), l.mntns(h)} {
		if ino, ok := nsInode(p); ok {
			spaces[ino] = true
		}
	}
	return openMatching(func(pid int) bool {
		if members[pid] {
			// Seen before the pidfd was opened: the pid may be another's by now.
			return inCgroup(pid, l.CgroupOf(h))
		}
		for _, kind := range []string{"net", "mnt"} {
			if ino, ok := nsInode(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); ok && spaces[ino] {
				return true
			}
		}
		return false
	})
}

// nsInode returns the inode of a namespace file; a pin that is not mounted is
// an ordinary file and no namespace.
func nsInode(path string) (uint64, bool) {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC {
		return 0, false
	}
	fi, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	return fi.Sys().(*syscall.Stat_t).Ino, true
}

func inCgroup(pid int, rel string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (f[2] == "/"+rel || strings.HasPrefix(f[2], "/"+rel+"/")) {
			return true
		}
	}
	return false
}

// descendants returns pidfds of the children of pid, their children, and so on.
func descendants(pid int) ([]int, error) {
	parents, err := parentsOf()
	if err != nil {
		return nil, err
	}
	return openMatching(func(p int) bool {
		for range 64 { // a bound against a list that changed under us
			if p = parents[p]; p == pid {
				return true
			}
			if p <= 1 {
				return false
			}
		}
		return false
	})
}

func parentsOf() (map[int]int, error) {
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	parents := map[int]int{}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) > 1 {
			parents[pid], _ = strconv.Atoi(f[1])
		}
	}
	return parents, nil
}

// openMatching returns a pidfd of each living process, other than this one,
// that match accepts; match is asked when the process is already held.
func openMatching(match func(pid int) bool) ([]int, error) {
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, pid := range pids {
		if pid <= 1 || pid == os.Getpid() || !match(pid) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
			continue
		}
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		if gone(fd) || !match(pid) {
			unix.Close(fd)
			continue
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func allPIDs() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func (l *Lab) removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// removeTree removes a directory after unmounting what is mounted below it; it
// never deletes into a mount.
func removeTree(dir string) error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	for i := len(points) - 1; i >= 0; i-- {
		p := points[i].path
		if p != dir && !strings.HasPrefix(p, dir+"/") {
			continue
		}
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return os.RemoveAll(dir)
}
