package e2e

import (
	"archive/tar"
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

var attackProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "redoubt-attacker-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return rundtest.BuildStatic(dir, "github.com/redoubt-cluster/redoubt/cmd/internal/e2e/attacker")
})

// attackImage is a program that tries to get out, among files that an honest
// image does not have.
func attackImage(t *testing.T, ref string, config v1.Config, more ...rundtest.File) string {
	t.Helper()
	dir := t.TempDir()
	program, err := attackProgram()
	if err != nil {
		t.Fatal(err)
	}
	files := append([]rundtest.File{
		{Name: "tmp/", Mode: 0o1777},
		{Name: "attacker", Data: program, Mode: 0o755},
		{Name: "suid/", Mode: 0o755},
		{Name: "suid/attacker", Data: program, Mode: 0o4755},
	}, more...)
	if config.Entrypoint == nil {
		config.Entrypoint = []string{"/attacker"}
	}
	img, err := rundtest.BuildImage(files, config, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := rundtest.SaveDocker(f, ref, img); err != nil {
		t.Fatal(err)
	}
	return path
}

// devices are nodes that an image may hold and no container may use.
var devices = []rundtest.File{
	{Name: "devices/", Mode: 0o755},
	{Name: "devices/mem", Type: tar.TypeChar, Mode: 0o666, Major: 1, Minor: 1},
	{Name: "devices/zero", Type: tar.TypeChar, Mode: 0o666, Major: 1, Minor: 5},
	{Name: "devices/disk", Type: tar.TypeBlock, Mode: 0o666, Major: 254, Minor: 0},
	{Name: "pipe", Type: tar.TypeFifo, Mode: 0o666},
}

// attack runs one task that ends by itself and returns what it printed.
func (c *cluster) attack(name string, flags []string, image string, args ...string) []string {
	c.t.Helper()
	create := append([]string{"service", "create", "--detach", "--name", name, "--restart-condition", "none"}, flags...)
	c.ok("manager-1", append(append(append(create, image), args...), "stay")...)
	return c.finished(name)
}

// finished waits until the service's only task has printed "done".
func (c *cluster) finished(name string) []string {
	c.t.Helper()
	return c.printed(name, "done")
}

// printed waits until the service's only task has printed a line and returns
// all up to then.
func (c *cluster) printed(name, last string) []string {
	c.t.Helper()
	var lines []string
	eventually(c.t, 30*time.Second, func() string {
		r := c.on("manager-1", "service", "logs", "--raw", name)
		lines = strings.Split(strings.TrimSpace(r.stdout), "\n")
		if !slices.Contains(lines, last) {
			return r.String() + c.on("manager-1", "service", "ps", "--format", "json", name).String()
		}
		return ""
	})
	return lines
}

const attackRef = "redoubt.lab/attacker:1"

// TestHostileContainer puts a program that tries to get out into real
// containers, and looks from inside and outside at what came of it.
func TestHostileContainer(t *testing.T) {
	t.Parallel()
	c := up(t, "breakout", 1, 1)
	c.lab("load", attackImage(t, attackRef, v1.Config{}, devices...))
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"the kernel refuses what is the host's", kernelRefuses},
		{"the host cannot be seen or written", hostUnseen},
		{"a setuid program gains nothing", setuidGains},
		{"what a container hoards is its own", hoarding},
		{"logs and processes are bounded", bounded},
		{"the network lets out and nothing else", network},
		{"hostile images start well or are refused", hostileImages},
		{"host paths are refused", hostPaths},
	} {
		t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			story.tell(t, &sub)
		})
	}
}

// nothingOpen fails for every attempt that succeeded.
func nothingOpen(t *testing.T, lines []string, atLeast int, allowed ...string) {
	t.Helper()
	shut := 0
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l, "shut "):
			shut++
		case strings.HasPrefix(l, "OPEN ") && !slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(l, "OPEN "+a) }):
			t.Error(l)
		}
	}
	if shut < atLeast {
		t.Errorf("only %d attempts, want %d:\n%s", shut, atLeast, strings.Join(lines, "\n"))
	}
}

func has(t *testing.T, lines []string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(lines, w) {
			t.Errorf("lacks %q:\n%s", w, strings.Join(lines, "\n"))
		}
	}
}

func kernelRefuses(t *testing.T, c *cluster) {
	lines := c.attack("kernel", nil, attackRef, "kernel")
	nothingOpen(t, lines, 34)
	has(t, lines, "is CapEff 00000000000000fb", "is CapBnd 00000000000000fb", "is CapAmb 0000000000000000", "is NoNewPrivs 1", "is Seccomp 2")
}

func hostUnseen(t *testing.T, c *cluster) {
	lines := c.attack("files", nil, attackRef, "files")
	// What is masked is /dev/null; the program's own runtime reads its limits.
	nothingOpen(t, lines, 35, "write /proc/kmsg", "inherited descriptor 3 /sys/fs/cgroup/", "inherited descriptor 4 /sys/fs/cgroup/")
	has(t, lines, "is link eth0", "is link lo")
	for _, l := range lines {
		f := strings.Fields(l)
		if f[0] == "is" && f[1] == "mount" && strings.HasPrefix(f[4], "/run/") &&
			(!slices.Contains([]string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/redoubt/spiffe"}, f[2]) || !strings.HasPrefix(f[3], "ro,")) {
			t.Errorf("a host directory is mounted: %s", l)
		}
		if f[0] == "is" && f[1] == "link" && f[2] != "eth0" && f[2] != "lo" {
			t.Errorf("another interface: %s", l)
		}
	}
}

func setuidGains(t *testing.T, c *cluster) {
	has(t, c.attack("setuid", nil, attackRef, "setuid"), "is euid 1000 uid 1000")
}

// hoarding: what the kernel counts by user is the container's alone.
func hoarding(t *testing.T, c *cluster) {
	if lines := c.attack("hoard-a", nil, attackRef, "hoard"); slices.Contains(lines, "is hoarded 0") {
		t.Fatalf("nothing was taken: %v", lines)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Errorf("the host has none left: %v", err)
	} else {
		unix.Close(fd)
	}
	if lines := c.attack("hoard-b", nil, attackRef, "hoard"); slices.Contains(lines, "is hoarded 0") {
		t.Errorf("its neighbour has none left: %v", lines)
	}
}

func bounded(t *testing.T, c *cluster) {
	lines := c.attack("fork", []string{"--limit-pids", "64"}, attackRef, "fork")
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "is processes ") }) {
		t.Errorf("no bound on processes: %v", lines)
	}
	c.attack("flood", nil, attackRef, "flood", "64")
	var used int64
	dir := filepath.Join(c.host("worker-1").RunDir, "rund", c.tasks("manager-1", "flood")[0].ID)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		used += i.Size()
		return err
	})
	if err != nil || used == 0 || used > 3<<20 {
		t.Errorf("64 MiB of output take %d bytes (%v)", used, err)
	}
}

// network: a victim on the same node, listeners on the node itself and on the
// other one, a manager's port, metadata; and a host that is no node.
func network(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--detach", "--name", "victim", "--publish", "mode=host,published=8081,target=8080", attackRef, "serve", ":8080")
	var victim string
	for _, l := range c.printed("victim", "serving") {
		if a, ok := strings.CutPrefix(l, "is address 172."); ok {
			victim, _, _ = strings.Cut("172."+a, "/")
		}
	}
	if victim == "" {
		t.Fatal("the victim has no address")
	}
	manager, worker := c.host("manager-1").Address, c.host("worker-1").Address
	gateway := netip.MustParsePrefix(victim + "/20").Masked().Addr().Next().String()
	c.listenOn("manager-1", "9100")
	c.listenOn("worker-1", "9100")
	s := c.stranger(250)
	outside := netip.AddrPortFrom(s.addr, 9100).String()
	within(t, s.ns, func() error {
		l, err := net.Listen("tcp", outside)
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	lines := c.attack("reach", nil, attackRef, "reach",
		"tcp://"+victim+":8080",                           // a neighbour on the bridge
		"tcp://"+gateway+":9100", "tcp://"+worker+":9100", // the node's own listeners
		"tcp://"+gateway+":2377", "tcp://"+worker+":2377", "tcp://"+manager+":2377", // management
		"tcp://"+manager+":9100",                               // what another node shows its neighbours
		"tcp://169.254.169.254:80", "udp://169.254.169.254:53", // metadata
		"tcp6://[fe80::1%eth0]:80", "tcp6://[::ffff:"+worker+"]:9100", // other families
		"udp://255.255.255.255:67", "udp://224.0.0.251:5353", // broadcast and multicast
		"tcp://127.0.0.1:9100", "tcp://"+worker+":8080", // what is published is 8081
	)
	nothingOpen(t, lines, 15)
	// What must work: out, and what is published.
	has(t, c.attack("reach-out", nil, attackRef, "reach", "tcp://"+outside, "tcp://"+worker+":8081"),
		"OPEN reach tcp://"+outside, "OPEN reach tcp://"+worker+":8081")
	c.ok("manager-1", "service", "rm", "victim")
}

// listenOn runs a server on a host until the test ends.
func (c *cluster) listenOn(host, port string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), "lab", "exec", "--name", c.name, host, "--", filepath.Join(binDir, "redoubt-demoapp"), "--listen", ":"+port)
	if err := cmd.Start(); err != nil {
		cancel()
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	eventually(c.t, 20*time.Second, func() string {
		if code, err := get("http://" + net.JoinHostPort(c.host(host).Address, port)); err != nil || code != 200 {
			return fmt.Sprintf("listener on %s: %d %v", host, code, err)
		}
		return ""
	})
}

// hostileImages: each either starts with what it should see, or fails with a
// reason; none holds the node up.
func hostileImages(t *testing.T, c *cluster) {
	link := func(name, to string) rundtest.File {
		return rundtest.File{Name: name, Type: tar.TypeSymlink, Link: to, Mode: 0o777}
	}
	etc := rundtest.File{Name: "etc/", Mode: 0o755}
	for i, tc := range []struct {
		name   string
		config v1.Config
		files  []rundtest.File
		want   string // a line it prints; empty: it must fail
	}{
		{"links to the host's files", v1.Config{}, []rundtest.File{etc, link("etc/hosts", "/../../../../etc/hostname"), link("etc/hostname", "../../../../../../run/x")}, "is uid 0 0"},
		{"proc is a link", v1.Config{}, []rundtest.File{link("proc", "/tmp")}, ""},
		{"sys is a link", v1.Config{}, []rundtest.File{link("sys", "/../../../tmp")}, ""},
		{"users in a pipe", v1.Config{User: "app"}, []rundtest.File{etc, {Name: "etc/passwd", Type: tar.TypeFifo, Mode: 0o666}}, ""},
		{"groups in a pipe", v1.Config{User: "7:staff"}, []rundtest.File{etc, {Name: "etc/group", Type: tar.TypeFifo, Mode: 0o666}}, ""},
		{"users in a device", v1.Config{User: "app"}, []rundtest.File{etc, {Name: "etc/passwd", Type: tar.TypeChar, Major: 1, Minor: 5, Mode: 0o666}}, ""},
		{"the host's users", v1.Config{User: "daemon"}, []rundtest.File{etc, link("etc/passwd", "/../../../../../../../etc/passwd")}, ""},
		{"a negative user", v1.Config{User: "-1"}, nil, ""},
		{"a user out of range", v1.Config{User: "4294967295:0"}, nil, ""},
		{"a user's number that is the host's", v1.Config{User: "70000"}, nil, ""},
		{"a user list", v1.Config{User: "1:2:3"}, nil, ""},
		{"a descriptor as directory", v1.Config{WorkingDir: "/proc/self/fd/7"}, nil, ""},
		{"a directory above the root", v1.Config{WorkingDir: "../../../../.."}, nil, "is cwd / <nil>"},
		{"a relative command", v1.Config{Entrypoint: []string{"../../../../attacker"}}, nil, "is uid 0 0"},
		{"an odd environment", v1.Config{Env: []string{"", "=", "LD_PRELOAD=/x", "no variable", strings.Repeat("A", 100_000) + "=1"}}, nil, "is uid 0 0"},
		{"an endless signal", v1.Config{StopSignal: strings.Repeat("S", 5000)}, nil, ""},
	} {
		name, ref := fmt.Sprintf("image-%d", i), fmt.Sprintf("redoubt.lab/hostile:%d", i)
		c.lab("load", attackImage(t, ref, tc.config, tc.files...))
		if tc.want != "" {
			if lines := c.attack(name, nil, ref, "env"); !slices.Contains(lines, tc.want) {
				t.Errorf("%s: lacks %q:\n%s", tc.name, tc.want, strings.Join(lines, "\n"))
			}
			continue
		}
		c.ok("manager-1", "service", "create", "--detach", "--name", name, "--restart-condition", "none", ref, "env", "stay")
		eventually(t, 20*time.Second, func() string {
			ts := c.tasks("manager-1", name)
			if len(ts) != 1 || ts[0].State != "failed" && ts[0].State != "rejected" || ts[0].Error == "" {
				return fmt.Sprintf("%s: %+v", tc.name, ts)
			}
			return ""
		})
		t.Logf("%s: %s", tc.name, c.tasks("manager-1", name)[0].Error)
	}
}

// hostPaths: nothing is on a node's allow-list unless its administrator puts it
// there.
func hostPaths(t *testing.T, c *cluster) {
	h := c.host("worker-1")
	for i, source := range []string{"/", "/etc", "/run/containerd/containerd.sock", h.RunDir, filepath.Join(h.RunDir, "rund.sock"), h.DataDir, "/proc/1/root", "/var/run"} {
		name := fmt.Sprintf("bind-%d", i)
		r := c.on("manager-1", "service", "create", "--detach", "--name", name, "--restart-condition", "none",
			"--mount", "type=bind,source="+source+",target=/host", attackRef, "idle")
		if r.code != 0 {
			continue // refused by the manager already
		}
		eventually(t, 20*time.Second, func() string {
			ts := c.tasks("manager-1", name)
			if len(ts) != 1 || ts[0].State != "rejected" || !strings.Contains(ts[0].Error, "bind source") {
				return fmt.Sprintf("%s: %+v", source, ts)
			}
			return ""
		})
	}
}
