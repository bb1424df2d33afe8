package rund

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

var buildProxy = sync.OnceValue(func() error {
	dir := filepath.Join(base, "proxy")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	_, err := rundtest.BuildStatic(dir, "github.com/redoubt-cluster/redoubt/cmd/redoubt-proxy")
	return err
})

// relayed is a task that clients are led to, with relays of those ports to 7000.
func (n *node) relayed(published ...uint32) *rundpb.TaskDesired {
	d := n.desired()
	d.Spec.Ports = []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}
	d.Relays = &rundpb.Relays{}
	for _, p := range published {
		d.Relays.Relays = append(d.Relays.Relays, &rundpb.Relay{Listen: 61000 + p, Addresses: []string{"127.0.0.1", "127.0.0.2"}, Published: p, Target: 7000})
	}
	return d
}

func (n *node) awaitRelays(id, what string, ok func([]*rundpb.RelayState) bool) {
	n.t.Helper()
	n.await(id, what, func(a *rundpb.TaskActual) bool {
		return a.GetPhase() == rundpb.Phase_PHASE_RUNNING && ok(a.GetRelays())
	})
}

func listening(ports int) func([]*rundpb.RelayState) bool {
	return func(all []*rundpb.RelayState) bool {
		for _, s := range all {
			if !s.GetListening() {
				return false
			}
		}
		return len(all) == ports
	}
}

// inside does something in a task's network namespace.
func (n *node) inside(id string, do func() error) {
	n.t.Helper()
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // and ends with the goroutine
		fd, e := unix.Open(filepath.Join(n.runDir, "netns", id), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e == nil {
			e = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if e == nil {
			e = do()
		}
		err <- e
	}()
	if e := <-err; e != nil {
		n.t.Helper()
		n.t.Fatal(e)
	}
}

// program listens as the container's would, and tells what the first of each
// connection is.
func (n *node) program(id string) <-chan []byte {
	n.t.Helper()
	if err := n.server.netns.Loopback(id); err != nil {
		n.t.Fatal(err)
	}
	var l net.Listener
	n.inside(id, func() (err error) { l, err = net.Listen("tcp", ":7000"); return err })
	heard := make(chan []byte)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			c.Write([]byte("bye"))
			c.Close()
			heard <- b
		}
	}()
	n.t.Cleanup(func() { l.Close(); <-done })
	return heard
}

func (n *node) ask(id string, port uint32, heard <-chan []byte) (said string) {
	n.t.Helper()
	var c net.Conn
	n.inside(id, func() (err error) { c, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); return err })
	defer c.Close()
	c.SetDeadline(time.Now().Add(deadline))
	c.Write([]byte("hello"))
	c.(*net.TCPConn).CloseWrite()
	b := <-heard
	if bye, err := io.ReadAll(c); err != nil || string(bye) != "bye" {
		n.t.Errorf("answered %q, %v", bye, err)
	}
	return string(b)
}

// process finds a relay on the host by its arguments.
func (n *node) process(port uint32) (pid int, status string) {
	n.t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.HasPrefix(string(b), "/dev/redoubt-proxy\x00") && strings.Contains(string(b), fmt.Sprintf("\x00%d\x00", port)) {
			pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(f)))
			s, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "status"))
			return pid, string(s)
		}
	}
	return 0, ""
}

// TestRelays: headers come before connections, from a process that may do nothing;
// it outlives rund, is replaced when it ends, and goes with its port and its task.
func TestRelays(t *testing.T) {
	if err := buildProxy(); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	d := n.relayed(80)
	n.apply(d)
	id := d.GetTaskId()
	n.awaitRelays(id, "its relay", listening(1))
	heard := n.program(id)
	if s := n.ask(id, 61080, heard); len(s) != 33 || s[:16] != "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" || s[26:28] != "\x00\x50" || s[28:] != "hello" {
		t.Errorf("the program heard %q", s)
	}
	first, status := n.process(61080)
	user := strconv.Itoa(int(n.config.UserNS.Base + n.config.UserNS.Size - relayUser))
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Uid:\t" + user, "Gid:\t" + user} {
		if !strings.Contains(status, want) {
			t.Errorf("its status does not have %q:\n%s", want, status)
		}
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", first)); string(b) != "200\n" { // as the whole container
		t.Errorf("out of memory, the kernel judges it by %q, %v", b, err)
	}
	for _, dir := range n.server.taskCgroups(id) {
		if b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); !strings.Contains(string(b), strconv.Itoa(first)) {
			t.Errorf("it is not in %s: %q", dir, b)
		}
	}

	n.restart() // which is told nothing of relays, as by an agent without managers
	d.Relays = nil
	n.apply(d)
	n.awaitRelays(id, "its relay after a restart", listening(1))
	if pid, _ := n.process(61080); pid != first {
		t.Errorf("another process relays after a restart of rund")
	}

	if err := unix.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.awaitRelays(id, "a word of its end", func(all []*rundpb.RelayState) bool {
		return len(all) == 1 && !all[0].GetListening() && all[0].GetError() == "the PROXY protocol of port 80: it ended"
	})
	n.awaitRelays(id, "another relay", listening(1))
	n.ask(id, 61080, heard)
	first, _ = n.process(61080)

	// A port that comes leaves the others' alone.
	d.Relays = n.relayed(80, 443).Relays
	n.apply(d)
	n.awaitRelays(id, "two relays", listening(2))
	n.ask(id, 61443, heard)
	if pid, _ := n.process(61080); pid != first {
		t.Error("a port that came replaced the relay of another")
	}
	n.stop() // while nobody looks
	d.Relays = n.relayed(443).Relays
	n.start()
	n.apply(d)
	n.awaitRelays(id, "one relay", listening(1))
	if pid, _ := n.process(61080); pid != 0 {
		t.Error("the relay of a port that is gone runs")
	}

	d.Relays = n.relayed().Relays
	last, _ := n.process(61443)
	fd, err := unix.PidfdOpen(last, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.restart()
	n.apply(d)
	if err := errors.Join(awaitEnd(n.ctx(), fd), unix.Close(fd)); err != nil {
		t.Errorf("the last relay that is not wanted: %v", err)
	}
	d.Relays = n.relayed(443).Relays
	n.apply(d)
	n.awaitRelays(id, "one relay again", listening(1))

	// While the task stops its clients go on.
	d.Phase = rundpb.Phase_PHASE_STOPPING
	n.apply(d)
	n.awaitPhase(id, rundpb.Phase_PHASE_EXITED)
	if pid, _ := n.process(61443); pid != 0 {
		t.Error("a relay outlived its container")
	}
}

// TestRelayPortTaken: what it needs is another's; it says so and waits.
func TestRelayPortTaken(t *testing.T) {
	if err := buildProxy(); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	d := n.relayed()
	n.apply(d)
	id := d.GetTaskId()
	n.awaitPhase(id, rundpb.Phase_PHASE_RUNNING)
	var l net.Listener
	n.inside(id, func() (err error) { l, err = net.Listen("tcp", ":61080"); return err })
	d.Relays = n.relayed(80).Relays
	n.apply(d)
	n.awaitRelays(id, "why not", func(all []*rundpb.RelayState) bool {
		return len(all) == 1 && strings.Contains(all[0].GetError(), "listen tcp4 127.0.0.1:61080: bind: address already in use")
	})
	l.Close()
	n.awaitRelays(id, "its relay", listening(1))

	// A container that nobody was led to has no program to be one.
	d = n.desired()
	d.Relays = n.relayed(80).Relays
	n.apply(d)
	n.awaitRelays(d.GetTaskId(), "what to do", func(all []*rundpb.RelayState) bool {
		return len(all) == 1 && strings.Contains(all[0].GetError(), "replace the task with service update --force")
	})
}

// TestRelayPlaces: what clients cost leaves the program most of a task's memory.
func TestRelayPlaces(t *testing.T) {
	for _, c := range []struct {
		limit  int64
		relays int
		want   int
	}{{0, 1, 4096}, {64 << 20, 1, 455}, {64 << 20, 8, 56}, {6 << 20, 8, 16}, {1 << 30, 1, 4096}, {1 << 62, 0, 4096}} {
		if got := relayPlaces(c.limit, c.relays); got != c.want {
			t.Errorf("%d bytes, %d relays: %d connections and not %d", c.limit, c.relays, got, c.want)
		}
	}
}

func TestRelaysRefused(t *testing.T) {
	good := func() *rundpb.Relay {
		return &rundpb.Relay{Listen: 61080, Addresses: []string{"10.255.0.1", "fd00::1"}, Published: 80, Target: 8080, Host: "192.0.2.1"}
	}
	if err := checkRelays(&rundpb.Relays{Relays: []*rundpb.Relay{good()}}); err != nil {
		t.Error(err)
	}
	for name, harm := range map[string]func(*rundpb.Relay){
		"listen": func(r *rundpb.Relay) { r.Listen = 0 }, "published": func(r *rundpb.Relay) { r.Published = 65536 }, "target": func(r *rundpb.Relay) { r.Target = 0 },
		"no address": func(r *rundpb.Relay) { r.Addresses = nil }, "three addresses": func(r *rundpb.Relay) { r.Addresses = append(r.Addresses, "10.0.0.1") },
		"option": func(r *rundpb.Relay) { r.Addresses[0] = "-target=1" }, "host": func(r *rundpb.Relay) { r.Host = "x" }, "zone": func(r *rundpb.Relay) { r.Host = "fe80::1%lo" },
	} {
		r := good()
		if harm(r); checkRelays(&rundpb.Relays{Relays: []*rundpb.Relay{r}}) == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if checkRelays(&rundpb.Relays{Relays: []*rundpb.Relay{good(), good()}}) == nil {
		t.Error("one port for two is taken")
	}
}
