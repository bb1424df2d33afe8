package main

import (
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/refusal"
)

// The test binary plays every part: supervisor, launcher, and, under the
// daemons' names, each of the daemons.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case strings.HasPrefix(name, "redoubt") && !strings.HasSuffix(name, ".test") && len(os.Args) > 1 && os.Args[1] != launchVerb:
		playDaemon(name)
	case len(os.Args) > 1 && (os.Args[1] == launchVerb || os.Args[1] == "--bin-dir"):
		main()
	default:
		os.Exit(m.Run())
	}
}

// playDaemon answers every connection on its first socket with what the
// kernel says of it, until SIGTERM.
func playDaemon(name string) {
	toSupervisor := refusal.ToSupervisor()
	// The file names the daemon that refuses it; one that crashes says nothing.
	switch refuses, _ := os.ReadFile(os.Args[slices.Index(os.Args, "--config")+1]); string(refuses) {
	case name:
		toSupervisor.Tell("line 3: unknown\x1b[2J key")
		os.Exit(refusedCode)
	case name + " crashes":
		os.Exit(refusedCode)
	}
	toSupervisor.Close()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	l, err := net.FileListener(os.NewFile(3, "s"))
	if err != nil {
		os.Exit(3)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			status, _ := os.ReadFile("/proc/self/status")
			limits, _ := os.ReadFile("/proc/self/limits")
			mnt, _ := os.Readlink("/proc/self/ns/mnt")
			group, _ := os.ReadFile("/proc/self/autogroup")
			raw, _ := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 less the nice value
			fmt.Fprintf(c, "%s%sMnt:\t%s\nArgs:\t%s\nEnv:\t%s\nNice:\t%d\nAutogroup:\t%s\n", status, limits, mnt, os.Args, os.Environ(), 20-raw, group)
			c.Close()
		}
	}()
	<-term
	os.Exit(0)
}

func ask(t *testing.T, path string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String()
		}
	}
}

func field(t *testing.T, text, name string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	t.Fatalf("no %s in %q", name, text)
	return ""
}

// supervisor is one that supervises nothing but this binary, in directories of
// its own.
func supervisor(t *testing.T) (run string, args []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rdt") // short: unix sockets
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	bin, run := filepath.Join(dir, "bin"), filepath.Join(dir, "run")
	t.Cleanup(func() {
		unix.Unmount(filepath.Join(run, "netns"), unix.MNT_DETACH)
		os.RemoveAll(dir)
	})
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range daemons(config{}) {
		if err := os.WriteFile(filepath.Join(bin, d.name()), self, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return run, []string{"--bin-dir", bin, "--data-dir", filepath.Join(dir, "data"), "--run-dir", run, "--config", filepath.Join(dir, "refuses"),
		"--control-user", "71000", "--keyd-user", "71001", "--netd-user", "71002", "--named-user", "71003"}
}

func TestSupervisor(t *testing.T) {
	run, args := supervisor(t)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	waitFor(t, filepath.Join(run, "metrics.sock"))

	hard := unix.Rlimit{Max: math.MaxUint64}
	if !holds(unix.CAP_SYS_RESOURCE) {
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &hard); err != nil {
			t.Fatal(err)
		}
	}
	weight := "0"
	if holds(unix.CAP_SYS_NICE) {
		weight = "-10"
	}
	mine, _ := os.Readlink("/proc/self/ns/mnt")
	for _, tc := range []struct {
		socket, uid, caps string
		memlock           uint64
		ownMounts         bool
		nice              string
	}{
		{"keyd", "71001", "0000000000000000", 64 << 20, false, "0"},
		{"netd", "71002", "0000000000201000", 8 << 20, false, "0"},
		{"named", "71003", "0000000000000000", 8 << 20, false, "0"},
		{"rund", "0", "00000000002000fb", 8 << 20, true, "0"},
		{"api", "71000", "0000000000000000", 64 << 20, false, weight},
	} {
		got := ask(t, filepath.Join(run, tc.socket+".sock"))
		if f := field(t, got, "Uid:"); f != strings.Repeat(tc.uid+" ", 3)+tc.uid {
			t.Errorf("%s: uid %s", tc.socket, f)
		}
		if f := field(t, got, "Groups:"); f != "" {
			t.Errorf("%s: groups %s", tc.socket, f)
		}
		for _, set := range []string{"CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"} {
			if f := field(t, got, set); f != tc.caps {
				t.Errorf("%s: %s %s, want %s", tc.socket, set, f, tc.caps)
			}
		}
		if f := field(t, got, "Max core file size"); !strings.HasPrefix(f, "0 0 ") {
			t.Errorf("%s: core limit %s", tc.socket, f)
		}
		if want := strconv.FormatUint(min(tc.memlock, hard.Max), 10); !strings.HasPrefix(field(t, got, "Max locked memory"), want+" "+want) {
			t.Errorf("%s: memlock %s, want %s", tc.socket, field(t, got, "Max locked memory"), want)
		}
		if f := field(t, got, "Nice:"); f != tc.nice {
			t.Errorf("%s: nice %s, want %s", tc.socket, f, tc.nice)
		}
		// A kernel without autogroup has no line for it.
		if f := field(t, got, "Autogroup:"); f != "" && !strings.HasSuffix(f, " nice "+tc.nice) {
			t.Errorf("%s: its session's group is %q, want nice %s", tc.socket, f, tc.nice)
		}
		if other := field(t, got, "Mnt:") != mine; other != tc.ownMounts {
			t.Errorf("%s: own mount namespace: %v", tc.socket, other)
		}
		if env := field(t, got, "Env:"); strings.Contains(env, "HOME=") || !strings.Contains(env, "LISTEN_FDNAMES="+tc.socket) {
			t.Errorf("%s: environment %s", tc.socket, env)
		}
	}
	for socket, owner := range map[string]uint32{"keyd": 71000, "unlock": 0, "netd": 71000, "wg": 0, "named": 71000, "named-net": 71002, "rund": 71000, "identity": 71000, "api": 0, "users": 0} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(run, socket+".sock"), &st); err != nil || st.Uid != owner ||
			st.Mode&0o777 != map[bool]uint32{false: 0o600, true: 0o660}[socket == "users"] || socket == "users" && st.Gid != 71000 {
			t.Errorf("%s.sock: uid %d gid %d mode %o, %v", socket, st.Uid, st.Gid, st.Mode&0o777, err)
		}
	}

	// A daemon that dies is started again, and nobody is refused meanwhile.
	pid := field(t, ask(t, filepath.Join(run, "keyd.sock")), "Pid:")
	var n int
	fmt.Sscan(pid, &n)
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if again := field(t, ask(t, filepath.Join(run, "keyd.sock")), "Pid:"); again == pid {
		t.Errorf("the same process %s answered after its death", pid)
	}

	// A second supervisor is refused that shares a directory with it, and takes
	// nothing from the first.
	for _, own := range []string{"--config", "--data-dir", "--run-dir"} {
		second := slices.Clone(args)
		second[slices.Index(second, own)+1] += "2"
		before := field(t, ask(t, filepath.Join(run, "rund.sock")), "Pid:")
		out, err := exec.Command("/proc/self/exe", second...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "another redoubt-node") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("second supervisor with a %s of its own: %v %s", own, err, out)
		}
		if after := field(t, ask(t, filepath.Join(run, "rund.sock")), "Pid:"); after != before {
			t.Errorf("rund was process %s and is %s", before, after)
		}
	}

	last := field(t, ask(t, filepath.Join(run, "netd.sock")), "Pid:")
	cmd.Process.Signal(syscall.SIGTERM)
	err, stopped = cmd.Wait(), true
	if err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if _, err := os.Stat("/proc/" + last); err == nil {
		t.Errorf("netd (%s) outlived the supervisor", last)
	}
}

// holds reports whether this process has a capability.
func holds(c int) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	return unix.Capget(&h, &d[0]) == nil && d[0].Effective&(1<<c) != 0
}

// waitFor returns once path exists.
func waitFor(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not appear", path)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	ok := []string{"--control-user", "71000", "--keyd-user", "71001", "--netd-user", "71002", "--named-user", "71003"}
	for want, args := range map[string][]string{
		"unexpected argument":    {"x"},
		"not an absolute path":   {"--data-dir", "rel"},
		"are both":               {"--run-dir", "/same", "--data-dir", "/same"},
		"too long":               {"--run-dir", "/" + strings.Repeat("d", 100)},
		"no user is called":      {"--keyd-user", "no-such-user"},
		"a user of its own":      {"--keyd-user", "71000"},
		"is root's":              {"--netd-user", "0"},
		"out of range":           {"--netd-user", "4294967294"},
		"neither the name":       {"--keyd-user", "-2"},
		"flag provided but not ": {"--config-file", "x"},
	} {
		if _, err := parse(append(ok, args...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

// What ends again and again is started ever less often, and never given up.
func TestBackOff(t *testing.T) {
	c, now := child{}, time.Unix(0, 0)
	for _, want := range []time.Duration{100, 200, 400, 800, 1600, 2000, 2000} {
		if c.postpone(now); c.due.Sub(now) != want*time.Millisecond {
			t.Errorf("a pause of %v, want %v", c.due.Sub(now), want*time.Millisecond)
		}
	}
}
