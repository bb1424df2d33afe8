package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/cmd/internal/meshload"
)

// spent is the processor time that each process of the lab has had, by pid.
type spent map[string]struct {
	program string
	time    time.Duration
}

func (c *cluster) spent() spent {
	out := spent{}
	all, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, p := range all {
		b, _ := os.ReadFile(p)
		if !strings.Contains(string(b), "/redoubt-lab/"+c.name+"/") {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "stat"))
		_, program, _ := strings.Cut(string(stat), "(")
		program, rest, ok := strings.Cut(program, ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 13 {
			continue // it has ended
		}
		of := out[filepath.Base(filepath.Dir(p))]
		of.program = program
		for _, ticks := range f[11:13] { // in user space, and in the kernel
			n, _ := strconv.ParseInt(ticks, 10, 64)
			of.time += time.Duration(n) * time.Second / 100
		}
		out[filepath.Base(filepath.Dir(p))] = of
	}
	return out
}

// tellSpent says who had the processors since before, besides the loads.
func (s *loadStory) tellSpent(before spent, since time.Time, loads time.Duration) {
	s.t.Helper()
	by := map[string]time.Duration{"the load itself": loads}
	for pid, now := range s.spent() {
		by[now.program] += now.time - before[pid].time
	}
	names := slices.SortedFunc(maps.Keys(by), func(a, b string) int { return int(by[b] - by[a]) })
	var out []string
	for _, name := range names[:min(6, len(names))] {
		out = append(out, fmt.Sprintf("%s %v", name, by[name].Round(10*time.Millisecond)))
	}
	s.t.Logf("  processor time in %v on %d cores: %s", time.Since(since).Round(100*time.Millisecond), runtime.NumCPU(), strings.Join(out, ", "))
}

// tellFailure says what is known of one: who stopped to answer at about that time
// is who may have been asked.
func (s *loadStory) tellFailure(r *meshload.Report, f meshload.Failure, at time.Time) {
	s.t.Helper()
	connected := "never"
	if f.Connected > 0 {
		connected = fmt.Sprint(time.Duration(f.Connected - f.Began).Round(time.Millisecond))
	}
	const about = int64(2 * time.Second)
	var ended []string
	for _, who := range slices.Sorted(maps.Keys(r.Answered)) {
		if last := r.Answered[who].Last; last > f.Began-about && last < f.Ended+about && last < r.Ended-about {
			ended = append(ended, fmt.Sprintf("%.6s… %v", who, time.Unix(0, last).Sub(at).Round(time.Millisecond)))
		}
	}
	s.t.Logf("  %s, fresh %v, from %s: sent %v, connected after %s, failed after %v; last answers about then: %s", f.Cause, f.Fresh, f.Local,
		time.Unix(0, f.Began).Sub(at).Round(time.Millisecond), connected, time.Duration(f.Ended-f.Began).Round(time.Millisecond), strings.Join(ended, ", "))
}

// kill ends processes by SIGKILL and returns when the last of them was dead. On a busy
// machine that is a while after they were killed, and until then their sockets
// are there.
func kill(t *testing.T, pids []int) (dead time.Time) {
	t.Helper()
	var fds []int
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		if err := unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, fd := range fds {
		for end := time.Now().Add(time.Minute); ; {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
			if n > 0 {
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
				t.Fatalf("a process that was killed does not end: %v", err)
			}
		}
	}
	return time.Now()
}
