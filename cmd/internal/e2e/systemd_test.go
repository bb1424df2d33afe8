package e2e

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemd boots systemd itself in namespaces of its own, with what `make
// install` installs and nothing else, makes a cluster there, and kills, stops
// and starts the daemons beside a container that must not notice.
func TestSystemd(t *testing.T) {
	t.Parallel()
	m := bootSystemd(t)
	t.Run("daemons as declared", m.sub((*machine).sandboxes))
	key := regexp.MustCompile(`RDTKEY-[A-Z0-9-]+`).FindString(m.ok(nil, "redoubt", "init"))
	m.ok(nil, "redoubt", "image", "load", "--input", archive)
	m.ok(nil, "redoubt", "service", "create", "--timeout", "40s", "--name", "web", "--publish", "mode=host,published=8090,target=80", image)
	first := m.demo()
	if out := m.ok(nil, "curl", "-sS", "http://192.0.2.10:8090/"); !strings.Contains(out, "hello") {
		t.Errorf("the published port says %q", out)
	}
	unlocked := func() {
		m.ok([]byte(key), "redoubt", "unlock", "--key-file", "-")
		m.ok(nil, "redoubt", "service", "update", "--label-add", "seen=1", "web")
		if now := m.demo(); now != first {
			t.Errorf("the container was restarted: %s, then %s", first, now)
		}
	}
	m.ok(nil, "pkill", "-KILL", "-x", "redoubtd|redoubt-keyd|redoubt-netd|redoubt-named|redoubt-rund")
	for _, d := range []string{"redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-named", "redoubt-rund"} {
		eventually(t, 20*time.Second, func() string {
			if s := m.ok(nil, "systemctl", "show", "-p", "NRestarts,ActiveState", d); !strings.Contains(s, "NRestarts=1") || !strings.Contains(s, "ActiveState=active") {
				return d + ": " + s
			}
			return ""
		})
	}
	unlocked()
	if r := m.run(nil, "redoubt-node"); r.code == 0 || !strings.Contains(r.stderr, "redoubt.target") {
		t.Errorf("a supervisor beside the units: %v", r)
	}
	m.ok(nil, "systemctl", "stop", "redoubt.target")
	// The target is stopped before what is a part of it.
	eventually(t, 20*time.Second, func() string {
		if r := m.run(nil, "pgrep", "-x", "redoubtd|redoubt-keyd|redoubt-netd|redoubt-named|redoubt-rund"); r.code != 1 {
			return fmt.Sprintf("left after the stop: %v", r)
		}
		return ""
	})
	m.ok(nil, "systemctl", "start", "redoubt.target")
	unlocked()
	m.fips()
	unlocked()
}

// fips has the configuration, and nothing else, put the units' daemons into FIPS mode.
func (m *machine) fips() {
	m.t.Helper()
	const config = "/etc/redoubt/config.yaml"
	if r := m.run(nil, "test", "-s", config); r.code == 0 {
		m.t.Fatal("the machine has a configuration already")
	}
	m.ok([]byte("node:\n  fips: true\n"), "tee", config)
	m.ok(nil, "systemctl", "restart", "redoubt.target")
	for _, name := range []string{"redoubtd", "redoubt-keyd", "redoubt-netd", "redoubt-rund", "redoubt-named"} {
		eventually(m.t, 20*time.Second, func() string {
			main := strings.TrimSpace(m.ok(nil, "systemctl", "show", "--value", "-p", "MainPID", name))
			env := m.run(nil, "cat", "/proc/"+main+"/environ")
			if comm := m.run(nil, "cat", "/proc/"+main+"/comm"); strings.TrimSpace(comm.stdout) != name || !slices.Contains(strings.Split(env.stdout, "\x00"), "GODEBUG=fips140=only") {
				return fmt.Sprintf("%s is %v, with %q", name, comm, env.stdout)
			}
			return ""
		})
	}
	m.sandboxes()
	// What is not frozen is said to be no validated module; the mode is on all the same.
	module := "is not a validated one (build with GOFIPS140=v1.26.0)"
	if built, err := buildinfo.ReadFile(filepath.Join(binDir, "redoubtd")); err != nil {
		m.t.Fatal(err)
	} else if at := slices.IndexFunc(built.Settings, func(s debug.BuildSetting) bool { return s.Key == "GOFIPS140" }); at >= 0 {
		module, _, _ = strings.Cut(built.Settings[at].Value, "-")
	}
	eventually(m.t, 20*time.Second, func() string {
		r := m.run(nil, "redoubt", "status")
		for _, want := range []string{"FIPS:", module, "keyd: FIPS 140-3 mode"} {
			if !strings.Contains(r.stdout, want) {
				return fmt.Sprintf("status does not say %q: %v", want, r)
			}
		}
		return ""
	})
}

// sandboxes compares the running daemons with what the units promise.
func (m *machine) sandboxes() {
	for name, want := range map[string]struct{ user, caps string }{
		"redoubtd": {"redoubt", "0000000000000000"}, "redoubt-keyd": {"redoubt-keyd", "0000000000000000"},
		"redoubt-netd": {"redoubt-netd", "0000000000201000"}, "redoubt-rund": {"root", "00000000002000fb"}, "redoubt-named": {"redoubt-named", "0000000000000000"},
	} {
		pid := strings.TrimSpace(m.ok(nil, "pgrep", "-x", name))
		uid := strings.TrimSpace(m.ok(nil, "id", "-u", want.user))
		status := m.ok(nil, "cat", "/proc/"+pid+"/status", "/proc/"+pid+"/limits")
		for field, v := range map[string]string{"Uid:": strings.Repeat(uid+" ", 3) + uid, "CapEff:": want.caps, "CapPrm:": want.caps, "CapBnd:": want.caps,
			"CapAmb:": want.caps, "NoNewPrivs:": "1", "Seccomp:": "2", "Max core file size": "0 0 bytes"} {
			got := ""
			for line := range strings.Lines(status) {
				if rest, ok := strings.CutPrefix(line, field); ok {
					got = strings.Join(strings.Fields(rest), " ")
				}
			}
			if got != v {
				m.t.Errorf("%s: %s %q, want %q", name, field, got, v)
			}
		}
		nice := map[bool]string{true: "-10", false: "0"}[name == "redoubtd"]
		if got := strings.TrimSpace(m.ok(nil, "ps", "-o", "ni=", "-p", pid)); got != nice {
			m.t.Errorf("%s: nice %s, want %s", name, got, nice)
		}
		if m.ok(nil, "readlink", "/proc/"+pid+"/ns/mnt") == m.ok(nil, "readlink", "/proc/1/ns/mnt") {
			m.t.Errorf("%s has the machine's mount namespace", name)
		}
	}
}

// machine is what systemd was booted as the first process of.
type machine struct {
	t   *testing.T
	pid string // of systemd, seen from here
}

func (m *machine) sub(f func(*machine)) func(*testing.T) {
	return func(t *testing.T) { f(&machine{t, m.pid}) }
}

// demo is the pid of the one container's process.
func (m *machine) demo() string {
	m.t.Helper()
	return strings.TrimSpace(m.ok(nil, "pgrep", "-x", "demoapp"))
}

func (m *machine) run(stdin []byte, args ...string) result {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "nsenter", append([]string{"-t", m.pid, "-m", "-p", "-n", "-u", "-i", "-C", "--"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	cmd.Env = []string{"PATH=/usr/lib/redoubt:/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		m.t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (m *machine) ok(stdin []byte, args ...string) string {
	m.t.Helper()
	r := m.run(stdin, args...)
	if r.code != 0 {
		m.t.Fatalf("%v: %v", args, r)
	}
	return r.stdout
}

// stubs stand for what a machine has beside Redoubt.
var stubs = map[string]string{
	"machine.target":                 "[Unit]\nDefaultDependencies=no\nWants=redoubt.target\n",
	"systemd-tmpfiles-setup.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
	"containerd.service":             "[Service]\nType=notify\nExecStart=/usr/bin/containerd --config DIR/containerd.toml\nDelegate=yes\nKillMode=process\n",
	"service.d/log.conf":             "[Service]\nStandardOutput=append:/run/log/%p\nStandardError=append:/run/log/%p\n",
	"../containerd.toml":             "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.devmapper\"]\n",
}

func bootSystemd(t *testing.T) *machine {
	dir := t.TempDir()
	for _, d := range []string{"log", "scratch", "units/service.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mk := exec.CommandContext(t.Context(), "make", "-C", "../../..", "install", "DESTDIR="+filepath.Join(dir, "dest"), "PREFIX=/usr", "BIN="+binDir)
	if out, err := mk.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	if err := os.Rename(filepath.Join(dir, "dest/usr/lib/systemd/system"), filepath.Join(dir, "dest/usr/lib/systemd/redoubt")); err != nil {
		t.Fatal(err) // apart from the machine's own units
	}
	for name, text := range stubs {
		write(t, filepath.Join(dir, "units", name), strings.ReplaceAll(text, "DIR", dir))
	}
	for target := range strings.FieldsSeq("sysinit basic shutdown umount local-fs sockets slices paths timers network-pre network-online time-sync swap") {
		write(t, filepath.Join(dir, "units", target+".target"), "[Unit]\nDefaultDependencies=no\n")
	}
	group := fmt.Sprintf("redoubt-systemd-%d", os.Getpid())
	runtime.LockOSThread() // its death is the machine's
	t.Cleanup(runtime.UnlockOSThread)
	cmd := exec.Command("bash", "testdata/systemd.sh", dir, group)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{t, ""}
	t.Cleanup(func() {
		cmd.Process.Kill() // unshare takes systemd, and that every other process, with it
		cmd.Wait()
		removeGroups(t, group)
		if t.Failed() {
			t.Log(out.String())
			logs, _ := filepath.Glob(filepath.Join(dir, "log", "*"))
			for _, l := range logs {
				b, _ := os.ReadFile(l)
				t.Logf("== %s\n%s", filepath.Base(l), b[max(0, len(b)-4000):])
			}
		}
	})
	eventually(t, 20*time.Second, func() string {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		m.pid = strings.TrimSpace(string(b))
		exe, _ := os.Readlink("/proc/" + m.pid + "/exe")
		if err != nil || !strings.HasSuffix(exe, "/systemd") {
			return fmt.Sprintf("systemd does not run: %v %s %s", err, exe, out.String())
		}
		return ""
	})
	eventually(t, 30*time.Second, func() string {
		if r := m.run(nil, "redoubt", "status"); !strings.Contains(r.stdout, "State:") {
			return r.String()
		}
		return ""
	})
	return m
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// removeGroups removes the machine's cgroups once its last process is gone.
func removeGroups(t *testing.T, name string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		eventually(t, 20*time.Second, func() string {
			var dirs []string
			filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err.Error()
				}
			}
			return ""
		})
	}
}
