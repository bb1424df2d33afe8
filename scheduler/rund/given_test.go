package rund

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// What containers are given beyond what every one has: real ones, looked at from inside
// and outside.

// status gives some lines of a running task's /proc/PID/status.
func (n *node) status(t *testing.T, d *rundpb.TaskDesired) map[string]string {
	t.Helper()
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	return procStatus(t, n.pid(d.GetTaskId()))
}

func TestCapabilitiesGiven(t *testing.T) {
	n := newNode(t, func(c *Config) { c.AllowedCapabilities = []string{"CAP_NET_RAW", "CAP_SYS_ADMIN"} })
	root, app, none := n.desired(), n.desired(), n.desired()
	root.Spec.Container.CapAdd, root.Spec.Container.CapDrop = []string{"CAP_NET_RAW"}, []string{"CAP_CHOWN"}
	app.Spec.Container.CapAdd, app.Spec.Container.User = []string{"CAP_NET_RAW"}, "app"
	none.Spec.Container.CapDrop = []string{"ALL"}
	n.apply(root, app, none)
	for _, tc := range []struct {
		d             *rundpb.TaskDesired
		held, ambient string
	}{{root, "00000000000020fa", "0000000000000000"}, {app, "0000000000002000", "0000000000002000"}, {none, "0000000000000000", "0000000000000000"}} {
		s := n.status(t, tc.d)
		if s["CapEff"] != tc.held || s["CapPrm"] != tc.held || s["CapBnd"] != tc.held || s["CapAmb"] != tc.ambient || s["NoNewPrivs"] != "1" || s["Seccomp"] != "2" {
			t.Errorf("%v: %v", tc.d.Spec.Container, s)
		}
	}
	for _, r := range n.running() {
		if want := map[string]uint64{root.TaskId: 0x20fa, app.TaskId: 0x2000, none.TaskId: 0}[r.Task]; r.Capabilities != want || r.Unfiltered {
			t.Errorf("%s may hold %x, want %x", r.Task, r.Capabilities, want)
		}
	}
	raw := n.desired("syscalls")
	raw.Spec.Container.CapAdd = []string{"CAP_NET_RAW"}
	if out := n.output(raw); !strings.Contains(out, "raw socket: <nil>") || !strings.Contains(out, "mount: operation not permitted") {
		t.Error(out)
	}
	// The default filter follows the capabilities.
	admin := n.desired("syscalls")
	admin.Spec.Container.CapAdd = []string{"CAP_SYS_ADMIN"}
	if out := n.output(admin); !strings.Contains(out, "mount: <nil>") && !strings.Contains(out, "mount: no such device") {
		t.Error(out)
	}
}

func (n *node) running() []Running {
	n.t.Helper()
	all, err := n.server.inventory(n.ctx())
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

// refused is why a task does not begin here.
func (n *node) refused(d *rundpb.TaskDesired) string {
	n.t.Helper()
	n.apply(d)
	a := n.await(d.GetTaskId(), "its refusal", func(a *rundpb.TaskActual) bool { return a.GetPhase() == rundpb.Phase_PHASE_FAILED })
	if !a.GetRejected() || strings.ContainsAny(a.GetError(), "\n\x00") {
		n.t.Errorf("not rejected in one line: %v", a)
	}
	return a.GetError()
}

// TestHostileGifts: a redoubtd that was taken over asks rund itself for all of it.
func TestHostileGifts(t *testing.T) {
	n := newNode(t, func(c *Config) {
		c.AllowedCapabilities = []string{"CAP_NET_RAW"}
		c.AllowedDevices = []AllowedDevice{{Path: "/dev/full", Access: "r"}, {Path: "/dev/pts"}}
		c.Init = "/nowhere/tini"
	})
	good := n.desired()
	type c = taskpb.ContainerSpec
	device := func(source, access string) func(*c) {
		return func(c *c) { c.Devices = []*taskpb.Device{{Source: source, Target: "/dev/x", Access: access}} }
	}
	for _, tc := range []struct {
		want   string
		change func(*c)
	}{
		{"rund.allowed_capabilities", func(c *c) { c.CapAdd = []string{"CAP_NET_RAW", "CAP_SYS_ADMIN"} }},
		{"is unknown", func(c *c) { c.CapAdd = []string{"CAP_net_raw"} }},
		{"is unknown", func(c *c) { c.CapAdd = []string{"ALL"} }},
		{"rund.allowed_devices", device("/dev/kmsg", "r")},
		{"below /dev", device("/dev/../etc/shadow", "r")},
		{"as r alone", device("/dev/full", "rw")},
		{"is no device", device("/dev/pts", "rw")},
		{"of its own", func(c *c) { c.Devices = []*taskpb.Device{{Source: "/dev/full", Target: "/dev/null", Access: "r"}} }},
		{"rund.seccomp_unconfined", func(c *c) { c.Security = &taskpb.Security{Seccomp: "unconfined"} }},
		{"no seccomp profile tight", func(c *c) { c.Security = &taskpb.Security{Seccomp: "tight"} }},
		{"seccomp profile", func(c *c) { c.Security = &taskpb.Security{Seccomp: "../../etc/x"} }},
		{"says nothing", func(c *c) { c.Security = &taskpb.Security{} }},
		{"rund.init", func(c *c) { c.Init = true }},
		{"sysctl", func(c *c) { c.Sysctls = []*taskpb.Sysctl{{Name: "kernel.core_pattern", Value: "|/x"}} }},
		{"sysctl", func(c *c) { c.Sysctls = []*taskpb.Sysctl{{Name: "net.ipv4.conf.all.forwarding", Value: "1"}} }},
		{"numbers", func(c *c) { c.Sysctls = []*taskpb.Sysctl{{Name: "net.core.somaxconn", Value: "1\n2"}} }},
		{"core", func(c *c) { c.Ulimits = []*taskpb.Ulimit{{Name: "core", Soft: -1, Hard: -1}} }},
		{"raise that of containerd", func(c *c) { c.Ulimits = []*taskpb.Ulimit{{Name: "nofile", Soft: 1 << 40, Hard: 1 << 40}} }},
		{"groups nobody", func(c *c) { c.Groups = []string{"nobody"} }},
		{"outside the user namespace", func(c *c) { c.Groups = []string{"100000"} }},
		{"letters, digits", func(c *c) { c.Hosts = []*taskpb.Host{{Name: "a\n127.0.0.1 b", Address: "192.0.2.1"}} }},
		{"DNS server", func(c *c) { c.Dns = &taskpb.DNS{Servers: []string{"127.0.0.1"}} }},
		{"DNS option", func(c *c) { c.Dns = &taskpb.DNS{Options: []string{"ndots:1\nnameserver 1.2.3.4"}} }},
		{"came without what they may say", func(c *c) { c.Templated = true }},
	} {
		d := proto.CloneOf(good)
		d.TaskId = ident.New()
		tc.change(d.Spec.Container)
		if got := n.refused(d); !strings.Contains(got, tc.want) {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
	// Templates are of this very task, and what becomes of them is looked at.
	facts := func(d *rundpb.TaskDesired) *taskpb.FileFacts {
		return &taskpb.FileFacts{ClusterId: "c1", NodeId: ident.New(), NodeName: "node-1", ServiceId: d.ServiceId, ServiceName: d.ServiceName, Slot: d.Slot}
	}
	for want, change := range map[string]func(*c, *taskpb.FileFacts){
		"of another task":  func(_ *c, f *taskpb.FileFacts) { f.ServiceName = "db" },
		"of another task ": func(_ *c, f *taskpb.FileFacts) { f.Slot = 9 },
		"node name":        func(_ *c, f *taskpb.FileFacts) { f.NodeName = "../../etc" },
		"no id of a node":  func(_ *c, f *taskpb.FileFacts) { f.NodeId = "../x" },
		"names no secret":  func(c *c, _ *taskpb.FileFacts) { c.Hostname = `{{secret "x"}}` },
		"hostname \"web_":  func(c *c, f *taskpb.FileFacts) { c.Hostname = "{{.Service.Name}}_ " },
		"clean absolute": func(c *c, f *taskpb.FileFacts) {
			c.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: "/srv/{{.Task.Slot}}/../x", Target: "/x"}}
		},
		"on this node's all": func(c *c, f *taskpb.FileFacts) {
			c.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: "/etc/{{.Service.Name}}", Target: "/x"}}
		},
	} {
		d := proto.CloneOf(good)
		d.TaskId, d.Spec.Container.Templated = ident.New(), true
		d.Facts = facts(d)
		change(d.Spec.Container, d.Facts)
		if got := n.refused(d); !strings.Contains(got, strings.TrimSpace(want)) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestUlimitsSysctlsAndGroups(t *testing.T) {
	needsInit(t) // Go raises its own soft limit, tini does not
	n := newNode(t)
	d := n.desired("cat", "/proc/1/limits", "/proc/self/status", "/proc/sys/net/ipv4/tcp_keepalive_time", "/proc/sys/net/core/somaxconn", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
	c := d.Spec.Container
	c.User, c.Groups, c.Init = "app", []string{"2000", "3000"}, true
	c.Ulimits = []*taskpb.Ulimit{{Name: "nofile", Soft: 512, Hard: 1024}, {Name: "stack", Soft: 8 << 20, Hard: -1}}
	c.Sysctls = []*taskpb.Sysctl{{Name: "net.ipv4.tcp_keepalive_time", Value: "77"}, {Name: "net.core.somaxconn", Value: "99"}, {Name: "net.ipv4.ip_unprivileged_port_start", Value: "1000"}}
	out := strings.Join(strings.Fields(n.output(d)), " ")
	for _, want := range []string{"Max open files 512 1024 files", "Max stack size 8388608 unlimited bytes", "Max core file size 0 0 bytes", "Groups: 1000 2000 3000",
		"tcp_keepalive_time: 77", "somaxconn: 99", "port_start: 1000"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	named := n.desired("cat", "/proc/self/status")
	named.Spec.Container.Groups = []string{"extra"}
	if out := strings.Join(strings.Fields(n.output(named)), " "); !strings.Contains(out, "Groups: 0 2000") {
		t.Error(out)
	}
	// A check of health has the same bounds.
	sick := n.desired()
	sick.Spec.Container.Ulimits = c.Ulimits[:1]
	sick.Spec.Container.Healthcheck = &taskpb.Healthcheck{Test: []string{"CMD", "/probe", "cat", "/proc/self/limits", "/nowhere"}, IntervalNs: 1e9}
	n.apply(sick)
	n.await(sick.TaskId, "health", func(a *rundpb.TaskActual) bool { return a.GetHealth() == rundpb.Health_HEALTH_HEALTHY })
}

func TestHostsAndResolvers(t *testing.T) {
	n := newNode(t)
	d := n.desired("cat", "/etc/hosts", "/etc/resolv.conf")
	c := d.Spec.Container
	c.Hostname = "box"
	c.Hosts = []*taskpb.Host{{Name: "db", Address: "192.0.2.7"}, {Name: "db6", Address: "2001:db8::7"}, {Name: "BOX", Address: "192.0.2.9"}}
	c.Dns = &taskpb.DNS{Servers: []string{"192.0.2.53"}, Search: []string{"corp.example", "example"}, Options: []string{"rotate", "ndots:3"}}
	out := n.output(d)
	for _, want := range []string{"10.9.8.7\tbox\n192.0.2.7\tdb\n2001:db8::7\tdb6", "search corp.example example\noptions rotate ndots:3"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "192.0.2.9") {
		t.Errorf("the container's own name means another:\n%s", out)
	}
}

func needsInit(t *testing.T) {
	if _, err := os.Stat(Defaults().Init); err != nil {
		t.Skip("tini is not installed")
	}
}

func TestInit(t *testing.T) {
	needsInit(t)
	n := newNode(t)
	plain := n.desired("orphan")
	if out := n.output(plain); !strings.Contains(out, "zombies: 1 pid: 1") {
		t.Errorf("without: %s", out)
	}
	reaped := n.desired("orphan")
	reaped.Spec.Container.Init, reaped.Spec.Container.User = true, "app"
	if out := n.output(reaped); !strings.Contains(out, "zombies: 0 pid: 2") && !strings.Contains(out, "zombies: 0") {
		t.Errorf("with: %s", out)
	}
	// Signals reach the program, its end is the container's, and it is checked.
	d := n.desired()
	d.Spec.Container.Init = true
	d.Spec.Container.Healthcheck = &taskpb.Healthcheck{Test: []string{"CMD", "/probe", "test", "/dev/redoubt-init"}, IntervalNs: 1e9}
	n.apply(d)
	n.await(d.TaskId, "health", func(a *rundpb.TaskActual) bool { return a.GetHealth() == rundpb.Health_HEALTH_HEALTHY })
	d.Phase = rundpb.Phase_PHASE_STOPPING
	n.apply(d)
	if a := n.awaitPhase(d.TaskId, rundpb.Phase_PHASE_EXITED); a.GetExitCode() != 0 || !strings.Contains(n.logText(d.TaskId), "got terminated") {
		t.Errorf("%v %s", a, n.logText(d.TaskId))
	}
	code := n.desired("exit", "7")
	code.Spec.Container.Init = true
	n.apply(code)
	if a := n.awaitPhase(code.TaskId, rundpb.Phase_PHASE_EXITED); a.GetExitCode() != 7 {
		t.Errorf("%v", a)
	}
}

func TestInitIsRoots(t *testing.T) {
	own := filepath.Join(t.TempDir(), "tini")
	if err := os.WriteFile(own, nil, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(own, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"": "set rund.init", "/nowhere/x": "install tini", own: "root alone may write", "/": "root alone may write"} {
		a := &allowed{init: path}
		if f, err := a.openInit(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
			if err == nil {
				f.Close()
			}
		}
	}
}

func TestDevices(t *testing.T) {
	dev := filepath.Join("/dev", "redoubt-test-"+ident.New()[:6])
	if err := unix.Mknod(dev, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil { // null
		t.Fatal(err)
	}
	defer os.Remove(dev)
	if _, err := findDevice(dev, "r"); err == nil || !strings.Contains(err.Error(), "chmod o+r") {
		t.Errorf("a device that is root's alone: %v", err)
	}
	if err := os.Chmod(dev, 0o666); err != nil {
		t.Fatal(err)
	}
	mem := dev + "m"
	if err := unix.Mknod(mem, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 1))); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(mem)
	if _, err := findDevice(mem, "r"); err == nil || !strings.Contains(err.Error(), "the machine's memory") {
		t.Errorf("all memory: %v", err)
	}
	n := newNode(t, func(c *Config) { c.AllowedDevices = []AllowedDevice{{Path: dev}} })
	d := n.desired("open", "/dev/mine", "/dev/null")
	d.Spec.Container.Devices = []*taskpb.Device{{Source: dev, Target: "/dev/mine", Access: "rw"}}
	d.Spec.Container.User = "app"
	if out := n.output(d); !strings.Contains(out, "/dev/mine: <nil>") || !strings.Contains(out, "/dev/null: <nil>") {
		t.Error(out)
	}
	reads := n.desired("open", "/dev/mine")
	reads.Spec.Container.Devices = []*taskpb.Device{{Source: dev, Target: "/dev/mine", Access: "r"}}
	// Number 3 of 1 is every container's: cgroups let it pass whatever is said.
	if out := n.output(reads); !strings.Contains(out, "/dev/mine: <nil>") {
		t.Error(out)
	}
	other := dev + "z"
	if err := unix.Mknod(other, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil { // kmsg
		t.Fatal(err)
	}
	defer os.Remove(other)
	if err := os.Chmod(other, 0o666); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.config.AllowedDevices = append(n.config.AllowedDevices, AllowedDevice{Path: other, Access: "r"})
	n.start()
	kmsg := n.desired("open", "/dev/mine")
	kmsg.Spec.Container.Devices = []*taskpb.Device{{Source: other, Target: "/dev/mine", Access: "r"}}
	if out := n.output(kmsg); !strings.Contains(out, "operation not permitted") { // to write
		t.Error(out)
	}
}

const tight = `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [%s], "action": "SCMP_ACT_ALLOW"}]}`

func TestSeccompProfiles(t *testing.T) {
	dir := t.TempDir()
	const all = `{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [{"names": ["NAMES"], "action": "SCMP_ACT_ALLOW"}]}`
	names := `read","write","openat","openat2","fstatfs","statfs","close","mmap","munmap","mprotect","brk","rt_sigaction","rt_sigprocmask","rt_sigreturn","sigaltstack","arch_prctl","gettid","getpid","futex","sched_getaffinity","clone","clone3","exit","exit_group","execve","fcntl","fstat","newfstatat","prctl","capset","capget","setresuid","setresgid","setgroups","setuid","setgid","getuid","geteuid","getgid","getegid","readlinkat","readlink","epoll_create1","epoll_ctl","epoll_pwait","eventfd2","pipe2","madvise","nanosleep","getrandom","rseq","set_robust_list","set_tid_address","prlimit64","tgkill","uname","getcwd","mknodat","fchownat","socket","unshare","chdir","lseek","getdents64","statx","faccessat2","faccessat","access","stat","umask","dup3","setsid","ioctl","kill","wait4","timer_create","timer_settime","timer_delete","clock_nanosleep","sched_yield","fchown","chown","keyctl`
	if err := os.WriteFile(filepath.Join(dir, "tight.json"), []byte(strings.Replace(all, "NAMES", names, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) { c.SeccompProfiles, c.SeccompUnconfined = dir, true })
	d := n.desired("syscalls")
	d.Spec.Container.Security = &taskpb.Security{Seccomp: "tight"}
	if out := n.output(d); !strings.Contains(out, "mount: function not implemented") || strings.Contains(out, "keyctl: operation not permitted") {
		t.Errorf("not the node's filter:\n%s", out)
	}
	free := n.desired()
	free.Spec.Container.Security = &taskpb.Security{Seccomp: "unconfined"}
	n.apply(free)
	if s := n.status(t, free); s["Seccomp"] != "0" || s["NoNewPrivs"] != "1" {
		t.Error(s)
	}
	if all := n.running(); len(all) != 1 || !all[0].Unfiltered {
		t.Errorf("%+v", all)
	}
	for want, text := range map[string]string{
		"OCI runtime specification": `{"defaultAction": "SCMP_ACT_ERRNO", "archMap": []}`,
		"name what is allowed":      `{"defaultAction": "SCMP_ACT_ALLOW"}`,
		"asks another process":      `{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/x"}`,
		"another action":            `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}`,
		"names system calls":        `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}`,
		"something follows":         fmt.Sprintf(tight, `"read"`) + "{}",
		"at most":                   strings.Repeat(" ", maxProfileBytes+1),
	} {
		if _, err := parseProfile([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for name, mode := range map[string]os.FileMode{"x.json": 0o666, "unconfined.json": 0o644, "notes.txt": 0o644, "A b.json": 0o644} {
		bad := t.TempDir()
		if err := os.WriteFile(filepath.Join(bad, name), []byte(fmt.Sprintf(tight, `"read"`)), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(bad, name), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := loadProfiles(bad); err == nil {
			t.Errorf("%s with mode %o was taken", name, mode)
		}
	}
}

func FuzzParseProfile(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(tight, `"read","write"`)))
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ALLOW"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parseProfile(b); err == nil && (p.DefaultAction == "SCMP_ACT_ALLOW" || p.DefaultAction == "SCMP_ACT_LOG" || p.ListenerPath != "") {
			t.Fatalf("%s", b)
		}
	})
}

func TestTemplates(t *testing.T) {
	data := t.TempDir()
	if err := os.MkdirAll(filepath.Join(data, "web", "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "web", "1", "f"), []byte("of slot 1"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, func(c *Config) { c.BindMounts = []BindMount{{Path: data}} })
	wait := n.desired("wait")
	for _, d := range []*rundpb.TaskDesired{n.desired("env", "WHO", "WHERE"), n.desired("cat", "/data/f"), wait} {
		c := d.Spec.Container
		c.Templated, c.Hostname = true, "{{.Service.Name}}-{{.Task.Slot}}"
		c.Env = []string{"WHO={{.Task.Name}}", "WHERE={{.Node.Hostname}}/{{.Service.Labels.tier}}"}
		c.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: data + "/{{.Service.Name}}/{{.Task.Slot}}", Target: "/data", ReadOnly: true}}
		d.Facts = &taskpb.FileFacts{ClusterId: "c1", NodeId: ident.New(), NodeName: "node-7", ServiceId: d.ServiceId, ServiceName: "web", Slot: 1, ServiceLabels: map[string]string{"tier": "front"}}
		if d == wait {
			n.apply(d)
			if a := n.awaitPhase(d.TaskId, rundpb.Phase_PHASE_RUNNING); a.GetHostname() != "web-1" || !a.GetSpec().GetContainer().GetTemplated() {
				t.Errorf("%v", a)
			}
			n.stop()
			n.start() // who comes after knows it from the container alone
			n.apply(d)
			if a := n.awaitPhase(d.TaskId, rundpb.Phase_PHASE_RUNNING); a.GetHostname() != "web-1" {
				t.Errorf("%v", a)
			}
			continue
		}
		out := n.output(d)
		if !strings.Contains(out, "WHO=web.1\nWHERE=node-7/front\n") && !strings.Contains(out, "of slot 1") {
			t.Error(out)
		}
		if strings.Contains(out, "host=") && !strings.Contains(out, "host=web-1") {
			t.Error(out)
		}
	}
}

func TestAllowedConfig(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"allowed_capabilities":   func(c *Config) { c.AllowedCapabilities = []string{"NET_ADMIN"} },
		"given twice":            func(c *Config) { c.AllowedCapabilities = []string{"CAP_BPF", "CAP_BPF"} },
		"rund.allowed_devices":   func(c *Config) { c.AllowedDevices = []AllowedDevice{{Path: "/etc/x"}} },
		"letters r, w":           func(c *Config) { c.AllowedDevices = []AllowedDevice{{Path: "/dev/x", Access: "a"}} },
		"at most 24":             func(c *Config) { c.AllowedDevices = make([]AllowedDevice, 25) },
		"seccomp_profiles \"x\"": func(c *Config) { c.SeccompProfiles = "x" },
		"rund.init":              func(c *Config) { c.Init = "tini" },
	} {
		c := Defaults()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	c := Defaults()
	c.AllowedCapabilities, c.AllowedDevices, c.SeccompUnconfined = []string{"CAP_BPF"}, []AllowedDevice{{Path: "/dev/null", Access: "rw"}, {Path: "/dev/nowhere"}}, true
	a, err := newAllowed(c)
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, f := range a.features() {
		has[f.GetName()] = f.GetPresent()
		if !f.GetPresent() && f.GetDetail() == "" || f.GetRequired() {
			t.Errorf("%v", f)
		}
	}
	for name, want := range map[string]bool{"capability CAP_BPF": true, "device /dev/null": true, "device /dev/nowhere": false, "seccomp unconfined": true, "capability CAP_SYS_ADMIN": false} {
		if has[name] != want {
			t.Errorf("%s: %v", name, has[name])
		}
	}
}

// TestSignedFacts: under the deployment lock templates say what was signed.
func TestSignedFacts(t *testing.T) {
	st := &lockpb.Statement{ClusterId: "c1", Labels: map[string]string{"tier": "front"}}
	d := &rundpb.TaskDesired{Spec: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Templated: true}},
		Facts: &taskpb.FileFacts{ClusterId: "c1", ServiceLabels: map[string]string{"tier": "front"}}}
	if err := admitFacts(st, d); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]*taskpb.FileFacts{"other labels": {ClusterId: "c1", ServiceLabels: map[string]string{"tier": "back"}}, "another cluster": {ClusterId: "c2", ServiceLabels: st.Labels}} {
		d.Facts = f
		if err := admitFacts(st, d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	d.Spec.Container.Templated = false
	if err := admitFacts(st, d); err != nil {
		t.Error(err)
	}
}
