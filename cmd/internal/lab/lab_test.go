package lab

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hosts makes a lab whose hosts are up but for Redoubt's own daemons.
func hosts(t *testing.T, name string, managers, workers int) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the lab's tests make namespaces: run them as root")
	}
	if err := Down(t.Context(), name); err != nil { // of a run that was killed
		t.Fatal(err)
	}
	l, err := create(Options{Name: name, Managers: managers, Workers: workers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), name); err != nil {
			t.Error(err)
		}
		nothingLeft(t, l)
	})
	if err := os.MkdirAll(l.binDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.makeCA(); err != nil {
		t.Fatal(err)
	}
	if err := l.makeBridge(); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hosts {
		if err := l.writeHost(h); err != nil {
			t.Fatal(err)
		}
		if err := l.makeNamespaces(h); err != nil {
			t.Fatal(err)
		}
		if err := l.connect(h); err != nil {
			t.Fatal(err)
		}
		if err := l.startContainerd(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// nothingLeft looks for anything that carries the lab's names.
func nothingLeft(t *testing.T, l *Lab) {
	t.Helper()
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Error(err)
	}
	for _, link := range links {
		if n := link.Attrs().Name; n == l.Bridge() || strings.HasPrefix(n, strings.TrimSuffix(l.veth(Host{}), "0")) || link.Attrs().Alias == l.alias() {
			t.Errorf("interface %s is left", n)
		}
	}
	points, err := mountPoints()
	if err != nil {
		t.Error(err)
	}
	for _, p := range points {
		if strings.Contains(p.path, l.Dir()) || strings.Contains(p.path, l.RunDir()) || strings.Contains(p.path, "rdt-"+l.Name+"-") {
			t.Errorf("mount %s is left", p.path)
		}
	}
	for _, p := range []string{l.Dir(), l.RunDir()} {
		if _, err := os.Lstat(p); !os.IsNotExist(err) {
			t.Errorf("%s is left", p)
		}
	}
	pins, _ := filepath.Glob(filepath.Join(netnsDir, "rdt-"+l.Name+"-*"))
	groups, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroup, l.Name))
	group2, _ := filepath.Glob(filepath.Join(cgroupRoot, cgroup, l.Name))
	if left := append(append(pins, groups...), group2...); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, h := range l.Hosts {
		if fds, err := l.processes(h); err != nil || len(fds) > 0 {
			t.Errorf("%s: %d processes left, %v", h.Name, len(fds), err)
			closeAll(fds)
		}
	}
}

func run(t *testing.T, l *Lab, host, script string) (string, int) {
	t.Helper()
	h, err := l.Host(host)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code, err := l.Exec(h, []string{"sh", "-c", script}, strings.NewReader(""), &out, &out)
	if err != nil {
		t.Fatalf("exec on %s: %v", host, err)
	}
	return strings.TrimSpace(out.String()), code
}

func TestHosts(t *testing.T) {
	l := hosts(t, "t-hosts", 1, 1)
	m, w := l.Hosts[0], l.Hosts[1]
	for script, want := range map[string]string{ // each quick: nothing waits for a name server
		"hostname":           "manager-1",
		"echo $REDOUBT_HOST": "unix://" + l.APISocket(m),
		"getent ahostsv4 worker-1 | head -1 | cut -d' ' -f1":     l.Addr(w).String(),
		"getent ahostsv4 registry.lab | head -1 | cut -d' ' -f1": l.Gateway().String(),
		"ip -o route show default | cut -d' ' -f3":               l.Gateway().String(),
		"ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4":    l.Addr(m).String() + "/24",
		"test -d /sys/fs/cgroup && echo there":                   "there",
		"findmnt -no FSTYPE /run/containerd":                     "tmpfs",
		"findmnt -t nsfs | wc -l":                                "0", // no other namespace is kept alive
	} {
		if got, code := run(t, l, "manager-1", script); got != want || code != 0 {
			t.Errorf("%s: %q, exit code %d, want %q", script, got, code, want)
		}
	}
	if _, code := run(t, l, "worker-1", "exit 7"); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	if _, code := run(t, l, "worker-1", "kill -9 $$"); code != 137 {
		t.Errorf("exit code %d after a kill, want 137", code)
	}
	// Hosts reach each other, and the machine reaches them.
	if out, code := run(t, l, "manager-1", "bash -c 'echo >/dev/tcp/worker-1/1' 2>&1 | grep -i refused"); code != 0 {
		t.Errorf("worker-1 is not reached: %s", out)
	}
	// Each containerd is its host's own.
	if out, _ := run(t, l, "worker-1", "ctr version 2>&1 | grep -c Revision"); out != "2" {
		t.Errorf("containerd does not answer: %s", out)
	}
	if _, err := os.Lstat("/run/containerd/containerd.sock"); err == nil {
		t.Log("the machine has a containerd of its own; it must not be the lab's")
	}
}

func TestTwoLabsSideBySide(t *testing.T) {
	a, b := hosts(t, "t-side-a", 1, 0), hosts(t, "t-side-b", 1, 0)
	if a.Number == b.Number || a.Subnet().Overlaps(b.Subnet()) || a.uid(a.Hosts[0]) == b.uid(b.Hosts[0]) {
		t.Fatalf("labs share a number: %d and %d", a.Number, b.Number)
	}
	if err := Down(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, a)
	if out, code := run(t, b, "manager-1", "ctr version >/dev/null && hostname"); code != 0 || out != "manager-1" {
		t.Errorf("the other lab was hurt: %q, %d", out, code)
	}
}

func TestPowerOffLeavesOnlyTheDisk(t *testing.T) {
	l := hosts(t, "t-power", 1, 0)
	h := l.Hosts[0]
	keep := filepath.Join(l.DataDir(h), "kept")
	gone := filepath.Join(l.HostRunDir(h), "gone")
	for _, f := range []string{keep, gone} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A process that left its session, as shims do, is found all the same.
	if _, code := run(t, l, "manager-1", "setsid sleep 1000 >/dev/null 2>&1 & exit 0"); code != 0 {
		t.Fatal(code)
	}
	if err := l.Kill(t.Context(), h, true); err != nil {
		t.Fatal(err)
	}
	if fds, err := l.processes(h); err != nil || len(fds) > 0 {
		closeAll(fds)
		t.Errorf("%d processes survived, %v", len(fds), err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error("the disk was wiped")
	}
	if _, err := os.Stat(gone); err == nil {
		t.Error("/run survived")
	}
	if _, err := l.Exec(h, []string{"true"}, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "lab start") {
		t.Errorf("a host without power ran a command: %v", err)
	}
	// Once more, as an impatient user would.
	if err := l.Kill(t.Context(), h, true); err != nil {
		t.Error(err)
	}
	// And it can come back.
	if err := l.makeNamespaces(h); err != nil {
		t.Fatal(err)
	}
	if err := l.connect(h); err != nil {
		t.Fatal(err)
	}
	if err := l.startContainerd(t.Context(), h); err != nil {
		t.Fatal(err)
	}
}

func TestDownAfterACrashHalfWay(t *testing.T) {
	for name, crash := range map[string]func(l *Lab) error{
		"state file only": func(l *Lab) error { return nil },
		"bridge":          func(l *Lab) error { return l.makeBridge() },
		"namespaces without link": func(l *Lab) error {
			if err := l.writeHost(l.Hosts[0]); err != nil {
				return err
			}
			return l.makeNamespaces(l.Hosts[0])
		},
		"a pin that was never mounted": func(l *Lab) error {
			if err := os.MkdirAll(l.nsDir(), 0o700); err != nil {
				return err
			}
			return os.WriteFile(l.mntns(l.Hosts[0]), nil, 0o400)
		},
		"a mount in the run directory": func(l *Lab) error {
			dir := filepath.Join(l.HostRunDir(l.Hosts[0]), "netns")
			if err := os.MkdirAll(dir, 0o711); err != nil {
				return err
			}
			return unix.Mount(dir, dir, "", unix.MS_BIND, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Down(t.Context(), "t-crash"); err != nil {
				t.Fatal(err)
			}
			l, err := create(Options{Name: "t-crash", Managers: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := crash(l); err != nil {
				t.Fatal(err)
			}
			for range 2 { // idempotent
				if err := Down(t.Context(), l.Name); err != nil {
					t.Fatal(err)
				}
			}
			nothingLeft(t, l)
		})
	}
}

func TestDownWithoutStateFile(t *testing.T) {
	l := hosts(t, "t-nostate", 1, 0)
	if err := os.WriteFile(filepath.Join(l.Dir(), "lab.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), l.Name); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, l)
}

func TestPidFileOfAnotherProcessIsNotSignalled(t *testing.T) {
	p := pidFile{filepath.Join(t.TempDir(), "x.pid")}
	if err := p.write(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if !p.alive() {
		t.Fatal("this process is not seen")
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The same pid, used again by a later process: this test, if it were hit.
	if fd, _, err := openProcess(os.Getpid(), start-1); fd >= 0 || err != nil {
		t.Fatalf("a process with another start time was opened: %d, %v", fd, err)
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"lab", "a", "a1-b2", strings.Repeat("a", 20)} {
		if err := CheckName(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "-a", "a-", "A", "a/b", "..", "a b", "a--b", "a\n", strings.Repeat("a", 21)} {
		if CheckName(s) == nil {
			t.Errorf("%q was accepted", s)
		}
		if _, err := Open(s); err == nil {
			t.Errorf("lab %q was opened", s)
		}
		if Down(t.Context(), s) == nil {
			t.Errorf("lab %q was removed", s)
		}
	}
	for _, o := range []Options{{Name: "x"}, {Name: "x", Managers: -1}, {Name: "x", Managers: 1, Workers: -1}, {Name: "x", Managers: 30, Workers: 30}} {
		if o.check() == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	l := &Lab{Name: strings.Repeat("a", 20), Number: maxLabs - 1}
	h := Host{"manager-50", "manager", 50}
	if n := len(l.veth(h)); n > 15 {
		t.Errorf("interface name of %d characters", n)
	}
	if n := len(l.HostRunDir(h) + "/unlock.sock"); n > 107 {
		t.Errorf("socket path of %d characters", n)
	}
	if uint64(l.usernsBase(h))+usernsSize > 1<<32-2 || l.uid(h) > 1<<31-2 {
		t.Error("ids out of range")
	}
}

func TestStateFileCannotPointOutside(t *testing.T) {
	for _, l := range []Lab{
		{Name: "x", Hosts: []Host{{Name: "../../etc", Number: 1}}},
		{Name: "x", Hosts: []Host{{Name: "manager-1", Number: 0}}},
		{Name: "y", Hosts: []Host{{Name: "manager-1", Number: 1}}},
		{Name: "x", Number: -1, Hosts: []Host{{Name: "manager-1", Number: 1}}},
		{Name: "x"},
	} {
		if l.check("x") == nil {
			t.Errorf("%+v was accepted", l)
		}
	}
}
