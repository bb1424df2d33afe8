package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/lab"
)

// usage is that of a manager.
type usage struct {
	pid       int
	rss, peak int64
	cpu       time.Duration
}

// measure gives the most that any manager uses.
func measure(l *lab.Lab) (most usage, err error) {
	all, err := usages(l)
	for _, u := range all {
		most = usage{0, max(most.rss, u.rss), max(most.peak, u.peak), max(most.cpu, u.cpu)}
	}
	return most, err
}

// usages is that of each manager, by name.
func usages(l *lab.Lab) (map[string]usage, error) {
	all := map[string]usage{}
	for _, h := range l.Hosts {
		u, err := usageOf(l, h)
		if err != nil {
			return nil, err
		}
		all[h.Name] = u
	}
	return all, nil
}

// usageOf reads what the kernel says of a manager's redoubtd.
func usageOf(l *lab.Lab, h lab.Host) (u usage, err error) {
	pid, err := findDaemon(l.DataDir(h))
	if err != nil {
		return u, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	return usage{pid, field(status, "VmRSS:"), field(status, "VmHWM:"), processorTime(stat)}, nil
}

// processorTime is fields 14 and 15 of /proc/<pid>/stat, in ticks of 10 ms.
func processorTime(stat []byte) time.Duration {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// findDaemon is the redoubtd that works in a data directory.
func findDaemon(dataDir string) (int, error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		argv := bytes.Split(line, []byte{0})
		if filepath.Base(string(argv[0])) == "redoubtd" && bytes.Contains(line, []byte(dataDir)) {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, fmt.Errorf("no redoubtd works in %s", dataDir)
}

// field reads a line of /proc/<pid>/status in bytes.
func field(status []byte, name string) int64 {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// atRest counts the log entries that are written while nobody asks for anything.
func atRest(ctx context.Context, l *lab.Lab, d time.Duration) (float64, error) {
	if d == 0 {
		return 0, nil
	}
	before, err := l.Metric(ctx, l.Hosts[0], "redoubt_raft_applied_index")
	if err != nil {
		return 0, err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := l.Metric(ctx, l.Hosts[0], "redoubt_raft_applied_index")
	return after - before, err
}
