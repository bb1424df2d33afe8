package rund

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestConfinement looks at a container from outside.
func TestConfinement(t *testing.T) {
	n := newNode(t)
	root, app := n.desired(), n.desired()
	app.Spec.Container.User = "app"
	n.apply(root, app)
	for _, c := range []struct {
		d            *rundpb.TaskDesired
		uid          uint32
		capabilities string
	}{
		{root, n.config.UserNS.Base, "00000000000000fb"}, // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID
		{app, n.config.UserNS.Base + 1000, "0000000000000000"},
	} {
		n.awaitPhase(c.d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
		n.awaitLog(c.d.GetTaskId(), "ready")
		pid := n.pid(c.d.GetTaskId())
		status := procStatus(t, pid)
		for key, want := range map[string]string{
			"Uid":        strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d\t", c.uid), 4)),
			"CapEff":     c.capabilities,
			"CapPrm":     c.capabilities,
			"CapBnd":     c.capabilities,
			"CapInh":     "0000000000000000",
			"CapAmb":     "0000000000000000",
			"NoNewPrivs": "1",
			"Seccomp":    "2",
		} {
			if status[key] != want {
				t.Errorf("uid %d: %s is %q, want %q", c.uid, key, status[key], want)
			}
		}
		if status["Groups"] == "" || strings.HasPrefix(status["Groups"], "0") {
			t.Errorf("groups %q", status["Groups"])
		}
		limits, err := os.ReadFile("/proc/" + pid + "/limits")
		if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
			t.Errorf("uid %d may dump core (%v)", c.uid, err)
		}
		// What the kernel counts by user is not counted against root.
		if owner := namespaceOwner(t, "/proc/"+pid+"/ns/user"); owner < n.config.UserNS.Base {
			t.Errorf("the user namespace belongs to %d", owner)
		}
		for _, ns := range []string{"user", "net", "mnt", "pid", "ipc", "uts", "cgroup"} {
			mine, _ := os.Readlink("/proc/self/ns/" + ns)
			its, err := os.Readlink("/proc/" + pid + "/ns/" + ns)
			if err != nil || its == mine {
				t.Errorf("%s namespace is shared with the host (%s, %v)", ns, its, err)
			}
		}
	}
	a, _ := os.Readlink("/proc/" + n.pid(root.GetTaskId()) + "/ns/user")
	b, _ := os.Readlink("/proc/" + n.pid(app.GetTaskId()) + "/ns/user")
	if a == b {
		t.Error("two tasks share a user namespace")
	}
}

// TestConfinementInside lets a container try.
func TestConfinementInside(t *testing.T) {
	n := newNode(t)
	out := n.output(n.desired("syscalls"))
	for _, want := range []string{
		"mount: operation not permitted", "unshare: operation not permitted", "keyctl: operation not permitted",
		"raw socket: operation not permitted", "mknod: operation not permitted", "chown: <nil>", "stdout: <nil>",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	// Masked, read-only, and a sysfs of its own.
	out = n.output(n.desired("cat", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/self/uid_map", "/proc/net/dev"))
	if strings.Contains(out, "/proc/kcore: \x7fELF") || !strings.Contains(out, "/proc/timer_list: \n") || !strings.Contains(out, "/proc/keys: \n") {
		t.Errorf("not masked:\n%s", out)
	}
	if want := fmt.Sprintf("%d      65536", n.config.UserNS.Base); !strings.Contains(out, want) {
		t.Errorf("no mapping %q:\n%s", want, out)
	}
	if strings.Contains(out, "eth0") {
		t.Errorf("the host's interfaces are visible:\n%s", out)
	}
	out = n.output(n.desired("write", "/proc/sys/kernel/hostname", "/sys/kernel/uevent_helper", "/proc/sysrq-trigger", "/etc/hosts", "/sys/fs/cgroup/x"))
	if strings.Contains(out, "<nil>") {
		t.Errorf("something was writable:\n%s", out)
	}
	if out = n.output(n.desired("listen", "80")); out != "listening\n" {
		t.Errorf("port 80: %s", out)
	}
	out = n.output(n.desired("cat", "/sys/class/net/lo/address"))
	if !strings.Contains(out, "00:00:00:00:00:00") {
		t.Errorf("no sysfs: %s", out)
	}
}

func procStatus(t *testing.T, pid string) map[string]string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, l := range strings.Split(string(b), "\n") {
		k, v, _ := strings.Cut(l, ":")
		m[k] = strings.TrimSpace(v)
	}
	return m
}

func TestBindMounts(t *testing.T) {
	dir := filepath.Join(base, "binds-"+t.Name())
	for _, d := range []string{"ok/sub", "ro", "secret"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("ok/sub/file")
	write("ro/file")
	write("secret/file")
	for link, to := range map[string]string{"ok/out": "../secret", "ok/abs": "/etc", "ok/in": "sub"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, func(c *Config) {
		c.BindMounts = []BindMount{{Path: dir + "/ok"}, {Path: dir + "/ro", ReadOnly: true}, {Path: base}, {Path: "/proc/self"}, {Path: "/var"}}
	})
	task := func(source string, readOnly bool) *rundpb.TaskDesired {
		d := n.desired("cat", "/data/file")
		d.Spec.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: source, Target: "/data", ReadOnly: readOnly}}
		return d
	}
	for source, want := range map[string]string{dir + "/ok/sub": "content of ok/sub/file", dir + "/ok/in": "content of ok/sub/file"} {
		if out := n.output(task(source, false)); !strings.Contains(out, want) {
			t.Errorf("%s: %s", source, out)
		}
	}
	if out := n.output(task(dir+"/ro", true)); !strings.Contains(out, "content of ro/file") {
		t.Errorf("read-only: %s", out)
	}
	for _, c := range []struct {
		source, want string
		readOnly     bool
	}{
		{dir + "/ok/../secret", "clean absolute path", true},
		{dir + "/ok/out", "leads out of", true},
		{dir + "/ok/abs", "leads out of", true},
		{dir + "/ro", "read-only alone", false},
		{dir + "/ok/missing", "no such file", true},
		{"/etc", "not on this node's allow-list", true},
		{"relative", "clean absolute path", true},
		{n.runDir, "never allowed", true},
		{n.runDir + "/rund", "never allowed", true},
		{base, "never allowed", true},
		{ctrd.Dir, "never allowed", true},
		{filepath.Join(ctrd.Dir, "root"), "never allowed", true},
		{"/proc/self/fd", "never allowed", true},
		{"/var", "never allowed", true}, // holds /var/lib/containerd
	} {
		d := task(c.source, c.readOnly)
		n.apply(d)
		a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED)
		if !a.GetRejected() || !strings.Contains(a.GetError(), c.want) {
			t.Errorf("%s: rejected=%v %q, want %q", c.source, a.GetRejected(), a.GetError(), c.want)
		}
	}
}

func namespaceOwner(t *testing.T, path string) uint32 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	uid, err := unix.IoctlGetUint32(int(f.Fd()), unix.NS_GET_OWNER_UID)
	if err != nil {
		t.Fatal(err)
	}
	return uid
}
