package cni

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/cni/cnipb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/netns"
)

// deadline is how long any one event may take on a loaded machine.
const deadline = 60 * time.Second

const inside = "CNI_TEST_INSIDE"

// TestMain runs the tests in mount, process and network namespaces of their own:
// what plugins make on "the node" is made there. As Command it is the helper.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == Command {
		if err := helperOf(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			os.Exit(exit.ExitCode())
		case err != nil:
			fmt.Fprintln(os.Stderr, "these tests need root:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	for _, err := range []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
	} {
		if err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func helperOf(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var o Options
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return Helper(o)
}

// world is a node with CNI networks.
type world struct {
	t       *testing.T
	dir     string
	o       Options
	client  *Client
	sandbox *netns.Store
}

// debian are the plugins of containernetworking-plugins that tests use.
var debian = []string{"bridge", "macvlan", "host-local", "static", "portmap"}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.o = Options{Config: Config{Conflists: filepath.Join(w.dir, "cni.d"), PluginDir: "/usr/lib/cni", Plugins: map[string]string{},
		Paths: []string{filepath.Join(w.dir, "lib")}}, Netns: filepath.Join(w.dir, "netns"), State: filepath.Join(w.dir, "state"),
		Bin: filepath.Join(w.dir, "bin"), RetryMin: 10 * time.Millisecond}
	for _, d := range []string{w.o.Config.Conflists, w.o.Netns, w.path("lib"), w.path("plugins")} {
		w.must(os.MkdirAll(d, 0o700))
	}
	w.must(unix.Mount(w.o.Netns, w.o.Netns, "", unix.MS_BIND, ""))
	w.must(unix.Mount("", w.o.Netns, "", unix.MS_SHARED, ""))
	var err error
	w.sandbox, err = netns.Open(w.o.Netns, func(string) netns.IDMap { return netns.IDMap{Base: 0x4000_0000, Size: 65536} })
	w.must(err)
	t.Cleanup(func() {
		if w.client != nil {
			w.client.Close()
		}
		w.must(unix.Unmount(w.o.Netns, unix.MNT_DETACH))
	})
	return w
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// pin pins plugins as they are now.
func (w *world) pin(names ...string) {
	w.t.Helper()
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(w.o.Config.PluginDir, n))
		w.must(err)
		w.o.Config.Plugins[n] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
}

// script makes a plugin of a shell script and pins it.
func (w *world) script(name, text string) {
	w.t.Helper()
	w.o.Config.PluginDir = w.path("plugins")
	w.must(os.WriteFile(w.path("plugins", name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	w.pin(name)
}

func (w *world) conflist(name, text string) {
	w.t.Helper()
	text = strings.ReplaceAll(text, "LIB", w.path("lib"))
	w.must(os.WriteFile(filepath.Join(w.o.Config.Conflists, name+".conflist"), []byte(text), 0o644))
}

// simple is a conflist of one script.
func (w *world) simple(name string) {
	w.conflist(name, fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":%q}]}`, name, name))
}

func (w *world) start() {
	w.t.Helper()
	w.must(w.o.Config.Validate())
	b, err := json.Marshal(w.o)
	w.must(err)
	w.must(os.WriteFile(w.path("options"), b, 0o600))
	w.client, err = Launch(w.path("options"))
	w.must(err)
}

// kill ends the helper as a crash does.
func (w *world) kill() {
	w.t.Helper()
	w.must(w.client.cmd.Process.Kill())
	<-w.client.Done()
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	w.t.Cleanup(cancel)
	return ctx
}

// task makes a sandbox.
func (w *world) task() string {
	w.t.Helper()
	id := ident.New()
	w.must(w.sandbox.Create(id))
	w.must(w.sandbox.Loopback(id))
	w.t.Cleanup(func() { w.must(w.sandbox.Remove(id)) })
	return id
}

func on(conflists ...string) (list []*cnipb.Network) {
	for i, c := range conflists {
		list = append(list, &cnipb.Network{Id: networkID(c), Conflist: c, Index: uint32(i)})
	}
	return list
}

var networkIDs = map[string]string{}

// networkID is one for a name.
func networkID(name string) string {
	if networkIDs[name] == "" {
		networkIDs[name] = ident.New()
	}
	return networkIDs[name]
}

func (w *world) attach(task string, conflists ...string) []*cnipb.Attachment {
	w.t.Helper()
	at, err := w.client.Attach(w.ctx(), task, on(conflists...))
	w.must(err)
	return at
}

// refused wants an error of one line that says so.
func (w *world) refused(err error, want string) {
	w.t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		w.t.Errorf("got %v, want one line with %q", err, want)
	}
}

// left are the records and addresses that are still held.
func (w *world) left() (names []string) {
	w.t.Helper()
	for _, dir := range []string{w.path("state", "attachments"), w.path("state", "cache", "results"), w.path("lib")} {
		w.must(filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err == nil && !d.IsDir() && d.Name() != "lock" && !strings.HasPrefix(d.Name(), "last_reserved_ip") {
				names = append(names, strings.TrimPrefix(p, w.dir))
			}
			return err
		}))
	}
	return names
}

func (w *world) nothingLeft() {
	w.t.Helper()
	if left := w.left(); len(left) > 0 {
		w.t.Errorf("left: %q", left)
	}
}

// in runs f on a thread in a task's sandbox.
func (w *world) in(task string, f func() error) {
	w.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		fd, err := unix.Open(w.sandbox.Path(task), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	w.must(<-done)
}

// talk sends a line from one sandbox to an address of another.
func (w *world) talk(from, to, address string) {
	w.t.Helper()
	ip, _, _ := strings.Cut(address, "/")
	var l net.Listener
	w.in(to, func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(ip, "7")); return err })
	defer l.Close()
	w.in(from, func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "7"), deadline)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("canary"))
		return err
	})
	c, err := l.Accept()
	w.must(err)
	defer c.Close()
	b := make([]byte, 6)
	if n, err := c.Read(b); err != nil || !bytes.Equal(b[:n], []byte("canary")) {
		w.t.Fatalf("%q %v", b[:n], err)
	}
}

// run is a command on the node.
func (w *world) run(args ...string) string {
	w.t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

// fifo is one that scripts write to; line reads what the next one writes.
func (w *world) fifo(name string) {
	w.t.Helper()
	w.must(unix.Mkfifo(w.path(name), 0o600))
}

func (w *world) line(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(w.path(name))
	w.must(err)
	return strings.TrimSpace(string(b))
}
