package rund

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
)

// callersWorld is the Workload API's sockets with this test for redoubtd. A
// process is a task's when it is in a cgroup that the test made for that task.
type callersWorld struct {
	*callers
	dir     string
	redoubt net.Conn
}

func newCallersWorld(t *testing.T) *callersWorld {
	dir, err := os.MkdirTemp("", "callers")
	if err != nil {
		t.Fatal(err)
	}
	w := &callersWorld{callers: newCallers(slog.New(slog.NewTextHandler(t.Output(), nil)), testCgroupParent(t)), dir: dir}
	l, err := net.Listen("unix", filepath.Join(dir, "identity.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.serveRedoubtd(ctx, l) })
	t.Cleanup(func() {
		cancel()
		w.end()
		if w.redoubt != nil {
			w.redoubt.Close()
		}
		wg.Wait()
		os.RemoveAll(dir)
	})
	return w
}

// testCgroupParent is a cgroup of this test's own, below which tasks have theirs.
func testCgroupParent(t *testing.T) string {
	name := "redoubt-test-" + ident.New()
	dir := cgroupDir(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return name
}

func cgroupDir(name string) string {
	if unified() {
		return filepath.Join(cgroupRoot, name)
	}
	return filepath.Join(cgroupRoot, "pids", name)
}

// connect has a process of a cgroup connect to the socket and go on; an empty
// cgroup is the host's. It returns the process's end.
func connect(t *testing.T, cgroup, socket string) (end func()) {
	t.Helper()
	// Nothing of it runs before it is where it is to be: it waits for a line.
	c := exec.Command("python3", "-c", `import socket,sys
sys.stdin.readline()
s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
print("connected", flush=True)
s.recv(1)
sys.stdin.readline()`, socket)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if cgroup != "" {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(c.Process.Pid)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if _, err := out.Read(b); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() { in.Close(); c.Process.Kill(); c.Wait() })
	t.Cleanup(end)
	return end
}

// next is the task of the next caller that redoubtd gets; empty: none in that time.
func (w *callersWorld) next(t *testing.T, patience time.Duration) string {
	t.Helper()
	if w.redoubt == nil {
		c, err := net.Dial("unix", filepath.Join(w.dir, "identity.sock"))
		if err != nil {
			t.Fatal(err)
		}
		w.redoubt = c
	}
	w.redoubt.SetReadDeadline(time.Now().Add(patience))
	var who rundpb.IdentityCaller
	files, err := wire.ReadFiles(w.redoubt.(*net.UnixConn), &who, 1)
	if err != nil {
		return ""
	}
	for _, f := range files {
		f.Close()
	}
	if len(files) != 1 {
		t.Fatal("a caller came without its connection")
	}
	return who.GetTaskId()
}

// Only a process of the task's own cgroup is handed over as the task.
func TestCallers(t *testing.T) {
	w := newCallersWorld(t)
	web, db := ident.New(), ident.New()
	cgroups := map[string]string{}
	for _, task := range []string{web, db} {
		if err := w.open(task, taskDir(filepath.Join(w.dir, task))); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(cgroupDir(w.parent), task+".abcdef")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cgroups[task] = dir
		t.Cleanup(func() { os.Remove(dir) })
	}
	socket := func(task string) string {
		return filepath.Join(taskDir(filepath.Join(w.dir, task)).identity(), identitySocket)
	}
	// While redoubtd is away callers wait.
	end := connect(t, cgroups[web], socket(web))
	if got := w.next(t, 20*time.Second); got != web {
		t.Fatalf("redoubtd got %q of web", got)
	}
	end()
	// The host's, another container's, and then a right one: that is the next that
	// comes, so the others never did.
	for _, of := range []string{"", cgroups[db]} {
		end := connect(t, of, socket(web))
		end()
	}
	host := connect(t, "", socket(web))
	other := connect(t, cgroups[db], socket(web))
	connect(t, cgroups[db], socket(db))
	if got := w.next(t, 20*time.Second); got != db {
		t.Errorf("redoubtd got %q where the next was db", got)
	}
	// One that is gone when it is looked at.
	for range 3 {
		connect(t, cgroups[web], socket(web))()
	}
	host()
	other()
	// A cgroup below the task's is the task's; one beside it with its name in front
	// is not.
	below := filepath.Join(cgroups[web], "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(below) })
	connect(t, below, socket(web))
	for got := w.next(t, 20*time.Second); got != web; got = w.next(t, 20*time.Second) {
		t.Fatalf("redoubtd got %q of a cgroup below web's", got)
	}
	w.close(web)
	if _, err := net.Dial("unix", socket(web)); err == nil {
		t.Error("the socket of a task that ended answers")
	}
	if w.mine(web, "/"+w.parent+"/"+web+"x/y") || w.mine(web, "/"+web) || w.mine(web, "/"+w.parent) || !w.mine(web, "/"+w.parent+"/"+web) {
		t.Error("a cgroup is taken for another")
	}
}

// What is known of a process is known by its descriptor: one that ended is told
// from one that has its number now.
func TestProcessGone(t *testing.T) {
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if pid, err := pidOf(fd); err != nil || pid != c.Process.Pid {
		t.Errorf("%d, %v", pid, err)
	}
	if at, err := beganAt(c.Process.Pid); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("began at %v, %v", at, err)
	}
	c.Process.Kill()
	c.Wait()
	if pid, err := pidOf(fd); err == nil {
		t.Errorf("a process that is gone has number %d", pid)
	}
}

// A process of the host connects and ends while redoubtd is away, and a process of
// the task is given its number: what connected is still the host's.
func TestRecycledNumber(t *testing.T) {
	w := newCallersWorld(t)
	web := ident.New()
	if err := w.open(web, taskDir(filepath.Join(w.dir, web))); err != nil {
		t.Fatal(err)
	}
	cgroup := filepath.Join(cgroupDir(w.parent), web+".abcdef")
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(cgroup) })
	socket := filepath.Join(taskDir(filepath.Join(w.dir, web)).identity(), identitySocket)
	connect(t, cgroup, socket) // the accept loop has somebody to wait with
	stranger := exec.Command("python3", "-c", "import socket,sys\ns=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('x', flush=True); s.recv(1); sys.stdin.readline()", socket)
	out, err := stranger.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := stranger.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	out.Read(make([]byte, 1))
	stranger.Process.Kill()
	stranger.Wait()
	heir := numbered(t, stranger.Process.Pid)
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(heir.Process.Pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := w.next(t, 20*time.Second); got != web {
		t.Fatalf("redoubtd got %q first", got)
	}
	if got := w.next(t, time.Second); got != "" {
		t.Errorf("a process that has another's number was taken for it: %q", got)
	}
}

// numbered starts a process that has that number.
func numbered(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0o644); err != nil {
			t.Skipf("numbers cannot be chosen here: %v", err)
		}
		c := exec.Command("sleep", "60")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		if c.Process.Pid == pid {
			return c
		}
	}
	t.Skip("the number was not had")
	return nil
}
