package control

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What daemons run as in the fixture.
var uids = map[string]int{"redoubtd": 71000, "redoubt-keyd": 71001, "redoubt-netd": 71002, "redoubt-named": 71003, "redoubt-rund": 0}

// record is the head of a sealed record.
const record = "RDTS\x01\x01\x00\x00\x00\x07"

// world is a manager as it should be: directories, and a /proc with the files
// that the kernel has for its daemons. Root makes it, as files have owners.
type world struct {
	t    *testing.T
	root string
	// task is the one that runs there.
	task Container
	// lock is what its rund goes by.
	lock Lock
	// daemon is what redoubtd says there.
	daemon Own
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.root}, parts...)...)
}

func (w *world) file(name, text string, uid int, mode os.FileMode) {
	w.t.Helper()
	path := w.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		w.t.Fatal(err)
	}
	w.own(name, uid, mode)
}

func (w *world) dir(name string, uid int, mode os.FileMode) {
	w.t.Helper()
	if err := os.MkdirAll(w.path(name), mode); err != nil {
		w.t.Fatal(err)
	}
	w.own(name, uid, mode)
}

func (w *world) own(name string, uid int, mode os.FileMode) {
	w.t.Helper()
	if err := os.Lchown(w.path(name), uid, uid); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chmod(w.path(name), mode); err != nil {
		w.t.Fatal(err)
	}
}

// change replaces a text in a file.
func (w *world) change(name, old, new string) {
	w.t.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	text := strings.Replace(string(b), old, new, 1)
	if text == string(b) {
		w.t.Fatalf("%s: %q is not there", name, old)
	}
	if err := os.WriteFile(w.path(name), []byte(text), 0); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) link(name, to string) {
	w.t.Helper()
	os.Remove(w.path(name))
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink(to, w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

// socket is one that nobody serves.
func (w *world) socket(name string, uid int) {
	w.t.Helper()
	l, err := net.Listen("unix", w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	w.own(name, uid, 0o600)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "ctl") // short: unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	w := &world{t: t, root: root}
	w.dir("data/keyd", 71001, 0o700)
	w.file("data/keyd/state", "RDTK\x01sealed", 71001, 0o600)
	w.file("data/keyd/journal", "RDTJ1\n", 71001, 0o600)
	w.dir("data/control", 71000, 0o700)
	w.file("data/control/leaf", "sealed", 71000, 0o600)
	w.dir("data/control/raft", 71000, 0o700)
	w.file("data/control/raft/raft.db", strings.Repeat("x", 100)+record+strings.Repeat("x", 100), 71000, 0o600)
	w.dir("data/control/raft/audit", 71000, 0o700)
	w.file("data/control/raft/audit/0000000000000001", "RDTS\x01", 71000, 0o600)
	w.dir("data/control/raft/snapshots", 71000, 0o700)
	w.dir("data/control/raft/snapshots/1-2", 71000, 0o700)
	w.file("data/control/raft/snapshots/1-2/state", "\x00\x00\x00\x20RDTS\x01", 71000, 0o600)
	w.file("data/control/raft/snapshots/1-2/meta", "RDTS\x01", 71000, 0o600)
	w.file("etc/config.yaml", "node: {}\n", 0, 0o644)
	w.dir("run", 0, 0o711)
	for name, uid := range map[string]int{"api": 0, "unlock": 0, "keyd": 71000, "named-net": 71002} {
		w.socket("run/"+name+".sock", uid)
	}
	for i, name := range daemonNames {
		pid := fmt.Sprintf("proc/%d/", 100+i)
		uid := uids[name]
		cmdline := strings.Join([]string{"/usr/lib/redoubt/" + name, "--config", w.path("etc/config.yaml"), "--data-dir=" + w.path("data"), "--run-dir", w.path("run"), ""}, "\x00")
		w.file(pid+"cmdline", cmdline, 0, 0o444)
		caps := capabilities[name]
		w.file(pid+"status", fmt.Sprintf("Name:\t%s\nPPid:\t1\nNSpid:\t%[4]d\nUid:\t%[2]d\t%[2]d\t%[2]d\t%[2]d\nGroups:\t \nVmLck:\t   65536 kB\nVmSwap:\t       0 kB\nCapPrm:\t%[3]s\nCapEff:\t%[3]s\nCapBnd:\t%[3]s\nCapAmb:\t%[3]s\nNoNewPrivs:\t1\nSeccomp:\t2\n", name, uid, caps, 100+i), 0, 0o444)
		w.file(pid+"net/unix", "Num       RefCount Protocol Flags    Type St Inode Path\n0000000000000000: 00000002 00000000 00010000 0001 01 777 /run/keyd.sock\n", 0, 0o444)
		w.file(pid+"cgroup", "0::/system.slice/redoubt-node.service\n", 0, 0o444)
		w.file(pid+"limits", "Limit                     Soft Limit           Hard Limit           Units\nMax core file size        0                    0                    bytes\n", 0, 0o444)
		w.file(pid+"mem", "", 0, 0o600)
		w.file(pid+"net/tcp", "  sl  local_address ... inode\n   0: 0100007F:0949 00000000:0000 0A 0 0 0 0 0 4242 1\n", 0, 0o444)
		w.link(pid+"exe", "/usr/bin/env") // any program that root installed
		w.link(pid+"fd/3", "socket:[777]")
	}
	w.lock = Lock{On: true}
	w.daemon = Own{
		Roots: func() (trusted, kept [][]byte, err error) {
			return [][]byte{{1, 2}, {3, 4}}, [][]byte{{3, 4}}, nil
		},
		Networks: func(context.Context) (Networks, error) { return Networks{}, nil },
	}
	w.task = Container{Task: "t1", Image: "r.example.com/app:1", Wanted: "sha256:aa", Made: "sha256:aa", Layers: "redoubt-userns-1", Should: "redoubt-userns-1",
		PID: 800, Base: 100000, Size: 65536, User: 1000, ReadOnly: true, Granted: map[string]int{"secrets": 1, "at/1": 1}, Files: map[string]int{"secrets": 1, "at/1": 1}}
	w.file("proc/800/cmdline", "/app\x00", 0, 0o444)
	w.file("proc/800/status", "Name:\tapp\nUid:\t101000\t101000\t101000\t101000\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n", 0, 0o444)
	w.file("proc/800/uid_map", "         0     100000      65536\n", 0, 0o444)
	w.file("proc/800/mountinfo", "1 2 0:50 / / ro,relatime - overlay overlay rw,lowerdir=x\n3 1 0:51 / /proc rw,nosuid - proc proc rw\n", 0, 0o444)
	w.file("proc/800/root/proc/1/status", "Name:\tapp\n", 0, 0o444)
	w.file("proc/800/root/proc/9/stat", "9 (app) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0\n", 0, 0o444)
	w.file("proc/800/root/proc/9/status", "Name:\tapp\nUid:\t101000\t101000\t101000\t101000\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n", 0, 0o444)
	w.file("proc/1/status", "Name:\tinit\nUid:\t0\t0\t0\t0\n", 0, 0o444)
	w.file("proc/50/status", "Name:\tsh\nUid:\t1000\t1000\t1000\t1000\n", 0, 0o444)
	// None is a daemon of this node: whatever they are called, a container, who started
	// one without being root, and who left one behind.
	w.called(902, "redoubt-keyd", "PPid:\t1\nNSpid:\t902\t1\n", "/system.slice/redoubt-node.service/t1")
	w.called(903, "redoubtd", "PPid:\t50\nNSpid:\t903\n", "/")
	w.called(904, "redoubt-rund", "PPid:\t1\nNSpid:\t904\n", "/user.slice/user-1000.slice/session-3.scope")
	w.file("proc/900/cmdline", "/usr/lib/redoubt/redoubt-keyd\x00--run-dir\x00/run/other\x00", 0, 0o444)
	w.file("proc/901/cmdline", "/usr/lib/redoubt/redoubt-rund\x00logger\x00--run-dir\x00"+w.path("run")+"\x00", 0, 0o444)
	return w
}

// called is a process that says that it is a daemon of this node.
func (w *world) called(pid int, name, status, group string) {
	w.t.Helper()
	dir := fmt.Sprintf("proc/%d/", pid)
	w.file(dir+"cmdline", name+"\x00-run-dir="+w.path("run")+"\x00", 0, 0o444)
	w.file(dir+"status", "Name:\tx\n"+status+"Uid:\t1000\t1000\t1000\t1000\n", 0, 0o444)
	w.file(dir+"cgroup", "0::"+group+"\n", 0, 0o444)
}

// pid is where the /proc of a daemon is.
func pid(name string) string {
	for i, d := range daemonNames {
		if d == name {
			return fmt.Sprintf("proc/%d/", 100+i)
		}
	}
	panic(name)
}

func (w *world) results() []Result {
	w.t.Helper()
	n, err := findNode(w.path("run"), w.path("proc"))
	if err != nil {
		w.t.Fatal(err)
	}
	n.Containers = func() ([]Container, error) { return []Container{w.task}, nil }
	n.Lock = func() Lock { return w.lock }
	n.Own = &w.daemon
	return Run(w.t.Context(), All(), n)
}
