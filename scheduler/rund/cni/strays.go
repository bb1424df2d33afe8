package cni

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// strays ends processes that a plugin left behind outside of its group. The
// helper is the first process of a process namespace, so they become its
// children; and when it ends, all of them end.
type strays struct {
	mu   sync.Mutex   // held while a plugin is started, so that it is never taken for a stray
	ours map[int]bool // plugins that run
}

func (s *strays) start(cmd *exec.Cmd) error {
	if s == nil {
		return cmd.Start()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	s.ours[cmd.Process.Pid] = true
	return nil
}

// ended says that a plugin was waited for, and ends what it left.
func (s *strays) ended(cmd *exec.Cmd) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ours, cmd.Process.Pid)
	// Killing one makes those that it started children of this process, too.
	for found := true; found; {
		found = false
		for _, pid := range children(os.Getpid()) {
			if s.ours[pid] {
				continue
			}
			found = true
			_ = unix.Kill(pid, unix.SIGKILL) // ours and not waited for: no other has its number
			for {
				if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
					break
				}
			}
		}
	}
}

// children are the processes whose parent is of that number.
func children(parent int) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // ended
		}
		// "pid (name) state ppid …"; the name may hold anything.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil || len(fields) < 2 || string(fields[1]) != strconv.Itoa(parent) {
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}
