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
)

// Orphans. When containerd is killed while it makes a container, its shim goes
// on: the next containerd cleans up what the shim has not made yet and then
// knows nothing of shim, waiting process and cgroup. They belong to a task by
// the shim's arguments and the cgroup's name, both of which hold its id.
//
// containerd cleans up after a shim that is gone by a short call of the shim's
// program, with the same id in its arguments. It is no orphan: without it the
// file system stays mounted and containerd's record of the shim on disk.

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
	for _, dir := range s.allCgroups() {
		if task, _ := taskOf(filepath.Base(dir)); task == id {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// allCgroups returns the directories of all tasks' cgroups.
func (s *Server) allCgroups() (dirs []string) {
	for _, h := range hierarchies() {
		parent := filepath.Join(h, s.config.CgroupParent)
		f, err := os.Open(parent)
		if err != nil {
			continue // not a hierarchy, or no task yet
		}
		names, _ := f.Readdirnames(-1)
		f.Close()
		for _, name := range names {
			if _, ok := taskOf(name); ok {
				dirs = append(dirs, filepath.Join(parent, name))
			}
		}
	}
	return dirs
}

// listCgroups returns the tasks that have a cgroup.
func (s *Server) listCgroups() (ids []string) {
	for _, dir := range s.allCgroups() {
		if task, _ := taskOf(filepath.Base(dir)); !slices.Contains(ids, task) {
			ids = append(ids, task)
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
			more, err := s.awaitCleaners(ctx, id)
			if err != nil {
				return err
			}
			if !more {
				break
			}
			continue // it may have been what kept another alive
		}
		if ctx.Err() != nil {
			return fmt.Errorf("processes %v, leftovers of the task, do not end or come again: %w", pids, ctx.Err())
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
	pids, err := s.processes(func(args []string) bool { return isShim(args, id) || isCreator(args, id) })
	if err != nil {
		return nil, err
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

// processes returns those whose arguments match. Those of containers do not
// count: their arguments say what they like, and one that never ends, or always
// comes again, would keep what is left of another task for ever. Whatever runs
// in a task's own cgroup is found there.
func (s *Server) processes(match func(args []string) bool) (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && len(b) > 0 && match(strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")) && !s.contained(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// contained reports whether a process is in the cgroup of a task.
func (s *Server) contained(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // else it has ended
	for line := range strings.Lines(string(b)) {
		for ok := true; ok; {
			if _, line, ok = strings.Cut(line, s.config.CgroupParent+"/"); ok {
				name, _, _ := strings.Cut(strings.TrimSpace(line), "/")
				if _, task := taskOf(name); task {
					return true
				}
			}
		}
	}
	return false
}

// shimCall reports whether these are the arguments of a call of containerd's
// shim for the task.
func shimCall(args []string, id string) bool {
	value := func(name string) string {
		if i := slices.Index(args, name); i > 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	task, _ := taskOf(value("-id"))
	return strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && value("-namespace") == Namespace && task == id
}

// isShim: the shim itself, or the call that starts it.
func isShim(args []string, id string) bool { return shimCall(args, id) && !isCleaner(args, id) }

// isCleaner: containerd's call that cleans up after a shim.
func isCleaner(args []string, id string) bool {
	return shimCall(args, id) && args[len(args)-1] == "delete"
}

// isCreator: the runtime, called by a shim to make the task's container. It goes
// on without the shim, and what it starts is in no cgroup at first.
func isCreator(args []string, id string) bool {
	task, _ := taskOf(args[len(args)-1])
	return task == id && slices.Contains(args, "create") && slices.Contains(args, "--bundle")
}

// awaitCleaners waits for containerd's own clean-up of the task's former shims;
// more reports whether there was any.
func (s *Server) awaitCleaners(ctx context.Context, id string) (more bool, err error) {
	pids, err := s.processes(func(args []string) bool { return isCleaner(args, id) })
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err == nil {
			err = awaitEnd(ctx, fd)
			unix.Close(fd)
		}
		if err != nil {
			return false, fmt.Errorf("await process %d, containerd's own clean-up of the task: %w", pid, err)
		}
	}
	return len(pids) > 0, err
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
	return awaitEnd(ctx, fd)
}

// awaitEnd waits for the process behind a descriptor.
func awaitEnd(ctx context.Context, fd int) error {
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
