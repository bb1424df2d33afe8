package rund

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// Orphans. When containerd is killed while it makes a container, its shim goes
// on: the next containerd cleans up what the shim has not made yet and then
// knows nothing of shim, waiting process and cgroup. They belong to a task by
// the shim's arguments and the cgroup's name, both of which hold its id.

// hierarchies are the directories that may hold a cgroup's directory.
func hierarchies() []string {
	if unified() {
		return []string{cgroupRoot}
	}
	found, _ := filepath.Glob(filepath.Join(cgroupRoot, "*"))
	return found
}

// taskCgroups returns the existing directories of a task's cgroup.
func (s *Server) taskCgroups(id string) (dirs []string) {
	for _, h := range hierarchies() {
		dir := filepath.Join(h, s.config.CgroupParent, id)
		if fi, err := os.Lstat(dir); err == nil && fi.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// listCgroups returns the tasks that have a cgroup.
func (s *Server) listCgroups() (ids []string) {
	for _, h := range hierarchies() {
		entries, err := os.ReadDir(filepath.Join(h, s.config.CgroupParent))
		if err != nil {
			continue // not a hierarchy, or no task yet
		}
		for _, e := range entries {
			if e.IsDir() && ident.Valid(e.Name()) && !slices.Contains(ids, e.Name()) {
				ids = append(ids, e.Name())
			}
		}
	}
	return ids
}

// reap ends whatever runs for a task that containerd has no running task for,
// and removes its cgroup.
func (s *Server) reap(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, killWait)
	defer cancel()
	for {
		pids, err := s.orphans(id)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			break
		}
		s.log.Warn("ending what an interrupted containerd left", "task", id, "processes", len(pids))
		for _, pid := range pids {
			if err := s.endOrphan(ctx, id, pid); err != nil {
				return fmt.Errorf("end process %d, a leftover of the task: %w", pid, err)
			}
		}
	}
	var errs []error
	for _, dir := range s.taskCgroups(id) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// orphans returns the processes of a task: shims first, so that they do not
// start others, then what is in its cgroup.
func (s *Server) orphans(id string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isShim(pid, id) {
			pids = append(pids, pid)
		}
	}
	for _, dir := range s.taskCgroups(id) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// isShim reports whether a process is containerd's shim of the task. A container
// that pretends to be one has its own process ended.
func isShim(pid int, id string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
	follows := func(name, value string) bool {
		i := slices.Index(args, name)
		return i > 0 && i+1 < len(args) && args[i+1] == value
	}
	return strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && follows("-namespace", Namespace) && follows("-id", id)
}

// endOrphan kills a process and waits for its end. The descriptor is opened
// before it is looked at again, so that the signal meets no other.
func (s *Server) endOrphan(ctx context.Context, id string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	again, err := s.orphans(id)
	if err != nil || !slices.Contains(again, pid) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int((100 * time.Millisecond).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
	return ctx.Err()
}
