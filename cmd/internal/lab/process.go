package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// Processes of a host, by the name of their pid and log files.
const (
	nodeProcess       = "redoubt-node"
	containerdProcess = "containerd"
)

// pidFile is a process that outlives the command that started it: its pid and,
// as pids are used again, the time it started.
type pidFile struct{ path string }

type pidRecord struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

func (l *Lab) pidFile(h Host, process string) pidFile {
	return pidFile{filepath.Join(l.hostDir(h), process+".pid")}
}

func (p pidFile) write(pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	b, err := json.Marshal(pidRecord{pid, start})
	if err != nil {
		return err
	}
	return atomicfile.Write(p.path, b)
}

// open returns a pidfd of the process, or -1 when it is gone. A pidfd means
// this very process: nothing signalled through it can hit another.
func (p pidFile) open() (fd, pid int, err error) {
	b, err := atomicfile.ReadBounded(p.path, 1<<10)
	if errors.Is(err, os.ErrNotExist) {
		return -1, 0, nil
	}
	if err != nil {
		return -1, 0, err
	}
	var r pidRecord
	if err := json.Unmarshal(b, &r); err != nil || r.PID <= 1 {
		return -1, 0, fmt.Errorf("%s is damaged: remove it", p.path)
	}
	return openProcess(r.PID, r.Start)
}

// openProcess opens pid if it is the process that started at start.
func openProcess(pid int, start uint64) (int, int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return -1, 0, nil
	}
	if err != nil {
		return -1, 0, err
	}
	if now, err := startTime(pid); err != nil || now != start || gone(fd) {
		unix.Close(fd)
		return -1, 0, nil
	}
	return fd, pid, nil
}

func (p pidFile) alive() bool {
	fd, _, err := p.open()
	if err != nil || fd < 0 {
		return false
	}
	unix.Close(fd)
	return true
}

// end signals the process and waits until it is gone, at most for wait; then
// it is killed.
func (p pidFile) end(sig unix.Signal, wait time.Duration) error {
	fd, pid, err := p.open()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if err := signalFD(fd, sig); err != nil {
		return err
	}
	if waitGone(fd, wait) {
		return nil
	}
	if err := signalFD(fd, unix.SIGKILL); err != nil {
		return err
	}
	if !waitGone(fd, stopWait) {
		return fmt.Errorf("process %d does not end", pid)
	}
	return fmt.Errorf("process %d did not end within %s and was killed", pid, wait)
}

func signalFD(fd int, sig unix.Signal) error {
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// gone reports whether the process has ended: its pidfd is readable then.
func gone(fd int) bool { return waitGone(fd, 0) }

func waitGone(fd int, wait time.Duration) bool {
	until := time.Now().Add(wait)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(0, time.Until(until)).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}

// startTime is field 22 of /proc/<pid>/stat.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, errors.New("malformed /proc stat")
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// spawn starts a process of h that outlives this one: a session of its own, in
// h's namespaces and cgroup, its output in a log file.
func (l *Lab) spawn(h Host, process string, argv ...string) error {
	out, err := os.OpenFile(l.LogFile(h, process), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	group, err := l.systemCgroup(h)
	if err != nil {
		return err
	}
	defer group.close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = l.inside(h, func() error {
		if err := group.join(cmd.SysProcAttr); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("start %s on %s: %w", process, h.Name, err)
	}
	// Reaps it if it ends while this command still runs; afterwards it is
	// init's child.
	go cmd.Wait()
	if err := l.pidFile(h, process).write(cmd.Process.Pid); err != nil {
		return fmt.Errorf("%s on %s ended at once (%w): see %s", process, h.Name, err, out.Name())
	}
	return nil
}

// finalError is one that waiting does not mend.
type finalError struct{ error }

// await polls until ok, bounded by ctx and wait.
func await(ctx context.Context, wait time.Duration, what string, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error // that tells more than the end of the time
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		if final := new(finalError); errors.As(err, &final) {
			return fmt.Errorf("%s: %w", what, final.error)
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, wait, last)
		}
	}
}
