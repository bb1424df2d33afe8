package rund

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// callers listens on the Workload API's socket of each task, and hands what it
// accepts to redoubtd, which answers. rund says nothing on these connections and
// reads nothing: it looks who is at the other end, which redoubtd may not, and
// lets no process through that is not the task's. While redoubtd is
// away callers wait.
type callers struct {
	log *slog.Logger

	mu    sync.Mutex              // guards the following
	tasks map[string]*taskCallers // by task
	to    *net.UnixConn           // redoubtd; nil: away
	came  chan struct{}           // closed when to is set
	ended bool                    // nothing is opened any more

	parent string // of tasks' cgroups

	running sync.WaitGroup
}

// taskCallers is one task's socket.
type taskCallers struct {
	l      *net.UnixListener
	cancel context.CancelFunc
}

const (
	identityDir    = "spiffe"
	identitySocket = "agent.sock"
)

// identity is the directory that a task's container has at ocispec.IdentityDir.
func (d taskDir) identity() string { return filepath.Join(string(d), identityDir) }

func newCallers(log *slog.Logger, cgroupParent string) *callers {
	return &callers{log: log, tasks: map[string]*taskCallers{}, came: make(chan struct{}), parent: cgroupParent}
}

// mine reports whether a cgroup is the task's, or below it.
func (c *callers) mine(task, cgroup string) bool {
	rest, ok := strings.CutPrefix(cgroup, path.Join("/", c.parent)+"/")
	name, _, _ := strings.Cut(rest, "/")
	of, ours := taskOf(name)
	return ok && ours && of == task
}

// open makes a task's socket anew. What is there is of an earlier rund.
func (c *callers) open(task string, dir taskDir) error {
	if err := os.MkdirAll(dir.identity(), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir.identity(), 0o755); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.tasks[task] != nil {
		return nil
	}
	f, err := os.Open(dir.identity())
	if err != nil {
		return err
	}
	defer f.Close()
	// By the directory's descriptor: a socket's path is bounded, and shorter than
	// many a run directory.
	at := fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), identitySocket)
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return fmt.Errorf("socket of the Workload API: %w", err)
	}
	l.SetUnlinkOnClose(false) // the path means nothing by then
	// Every user of the container may connect, and nobody else sees the directory.
	if err := os.Chmod(at, 0o666); err != nil {
		l.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.tasks[task] = &taskCallers{l, cancel}
	c.running.Go(func() { c.serve(ctx, task, l) })
	return nil
}

// close ends a task's socket.
func (c *callers) close(task string) {
	c.mu.Lock()
	t := c.tasks[task]
	delete(c.tasks, task)
	c.mu.Unlock()
	if t != nil {
		t.cancel()
		t.l.Close()
	}
}

// end closes all and waits.
func (c *callers) end() {
	c.mu.Lock()
	c.ended = true
	for _, t := range c.tasks {
		t.cancel()
		t.l.Close()
	}
	clear(c.tasks)
	if c.to != nil {
		c.to.Close()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// serve looks at callers as they come, while the number of a process still means
// the one that connected, and hands over those that are the task's. They wait while
// redoubtd is away; those for whom there is no room are turned away.
func (c *callers) serve(ctx context.Context, task string, l *net.UnixListener) {
	known := make(chan *net.UnixConn, maxWaitingCallers)
	var handing sync.WaitGroup
	handing.Go(func() {
		for conn := range known {
			to, err := c.redoubtd(ctx)
			if err == nil {
				err = c.hand(task, conn, to)
			}
			conn.Close()
			if err != nil && ctx.Err() == nil {
				c.log.Warn("a caller of a task's Workload API was lost", "task", task, "err", err)
			}
		}
	})
	defer handing.Wait()
	defer close(known)
	quiet := time.Time{}
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if conn != nil {
				conn.Close()
			}
			return
		}
		if err == nil {
			if err = c.check(task, conn); err == nil {
				select {
				case known <- conn:
				default:
					err = errTooManyCallers
				}
			}
			if err != nil {
				conn.Close()
			}
		}
		if err != nil && time.Since(quiet) > callerLogPause {
			quiet = time.Now()
			c.log.Warn("a caller of a task's Workload API was refused", "task", task, "err", err)
		}
		// At most so many a second: who connects for the sake of connecting costs no
		// more than that.
		t := time.NewTimer(callerPause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

var errTooManyCallers = fmt.Errorf("%d callers wait already", maxWaitingCallers)

// redoubtd waits until there is one.
func (c *callers) redoubtd(ctx context.Context) (*net.UnixConn, error) {
	for {
		c.mu.Lock()
		to, came := c.to, c.came
		c.mu.Unlock()
		if to != nil {
			return to, nil
		}
		select {
		case <-came:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *callers) hand(task string, conn, to *net.UnixConn) error {
	f, err := conn.File()
	if err != nil {
		return err
	}
	defer f.Close()
	c.mu.Lock()
	defer c.mu.Unlock() // one frame at a time
	if c.to != to {
		return errors.New("redoubtd went away")
	}
	to.SetWriteDeadline(time.Now().Add(callerTimeout))
	if err := wire.WriteFiles(to, &rundpb.IdentityCaller{TaskId: task}, f); err != nil {
		to.Close() // serveRedoubtd notices
		return fmt.Errorf("hand it to redoubtd: %w", err)
	}
	return nil
}

// serveRedoubtd takes redoubtd's connection, of which the newest counts, until ctx
// ends.
func (c *callers) serveRedoubtd(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		to, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			continue
		}
		c.mu.Lock()
		if c.to != nil {
			c.to.Close()
		}
		c.to = to
		close(c.came)
		c.came = make(chan struct{})
		c.mu.Unlock()
		wg.Go(func() {
			// It says nothing: this ends with the connection.
			_, _ = to.Read(make([]byte, 1))
			to.Close()
			c.mu.Lock()
			if c.to == to {
				c.to = nil
			}
			c.mu.Unlock()
		})
	}
}

// check returns an error unless the process that connected is in the task's cgroup
// now. The kernel keeps which process that was; a number that was given to another
// one since is found out, as the descriptor is of the process and not of its number.
func (c *callers) check(task string, conn *net.UnixConn) error {
	accepted := time.Now()
	pid, pidfd, err := peerProcess(conn)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	cgroup, err := cgroupOf(pid)
	if err != nil {
		return errGone
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return errGone // what was read may be of another process
	}
	if !c.mine(task, cgroup) {
		return fmt.Errorf("process %d of cgroup %q is not the task's", pid, cgroup)
	}
	if began, err := beganAt(pid); err != nil || began.After(accepted) {
		return errGone
	}
	return nil
}

var errGone = errors.New("the process that connected is gone")

// peerProcess returns the process at the other end. Before Linux 6.5 the kernel
// tells its number alone; a process that took it over since then began after the
// connection, which check looks at.
func peerProcess(conn *net.UnixConn) (pid, pidfd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, -1, err
	}
	cerr := raw.Control(func(fd uintptr) {
		if pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
			pid, err = pidOf(pidfd)
		}
	})
	switch {
	case cerr != nil:
		return 0, -1, cerr
	case err == nil:
		return pid, pidfd, nil
	case errors.Is(err, unix.ENOPROTOOPT):
	default:
		if pidfd > 0 {
			unix.Close(pidfd)
		}
		return 0, -1, errGone
	}
	cred, err := peercred.Of(conn)
	if err != nil {
		return 0, -1, err
	}
	if pidfd, err = unix.PidfdOpen(int(cred.Pid), 0); err != nil {
		return 0, -1, errGone
	}
	return int(cred.Pid), pidfd, nil
}

// pidOf is the number of a descriptor's process.
func pidOf(pidfd int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			if pid, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && pid > 0 {
				return pid, nil
			}
		}
	}
	return 0, errGone
}

// cgroupOf is where a process is: the unified hierarchy, or that of the number of
// processes, which every task has a bound on.
func cgroupOf(pid int) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	defer f.Close()
	both := unified()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		parts := strings.SplitN(sc.Text(), ":", 3)
		if len(parts) == 3 && (both && parts[0] == "0" || !both && parts[1] == "pids") {
			return path.Clean(parts[2]), nil
		}
	}
	return "", errors.New("the process is in no cgroup")
}

// beganAt is when a process began, to a hundredth of a second and not too late.
func beganAt(pid int) (time.Time, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	// The second field is a name, which may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return time.Time{}, errGone
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, err
	}
	boot := time.Now().Add(-time.Duration(up.Nano()))
	return boot.Add(time.Duration(ticks) * (time.Second / userHz)), nil
}

// userHz is the unit of times in /proc, the same on every architecture of ours.
const userHz = 100
