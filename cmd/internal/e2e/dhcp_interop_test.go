//go:build interop

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestInteropDHCP: a CNI network whose addresses a DHCP server of the segment
// gives. Debian's dhcp plugin does it with a daemon that the node's administrator
// runs; the server is busybox's.
func TestInteropDHCP(t *testing.T) {
	t.Parallel()
	c := up(t, "dhcp", 1, 1, "--cni")
	c.load()
	s := &dhcpStory{cniStory: &cniStory{overlayStory: &overlayStory{cluster: c}}}
	s.prepare()
	const m = "manager-1"
	s.ok(m, "network", "create", "--driver", "cni", "--opt", "conflist=street", "street")
	s.ok(m, "service", "create", "--detach", "--name", "house", "--network", "street", "--restart-delay", "1s", image)
	s.says("house", "dhcp.sock") // who does not run is named
	stop := s.daemon()
	eventually(t, 30*time.Second, func() string { // the attempts before stay listed
		if s.running(m, "house")["worker-1"] != 1 {
			return fmt.Sprintf("it does not run: %v", s.tasks(m, "house"))
		}
		return ""
	})
	house := s.task("house")
	s.agree(house, "house", "street", "cni0", "172.27.0.0/24")
	address := s.said("house")["street"][0]

	// A lease of 12 s is renewed halfway.
	s.hears("sending ACK to "+address, 3)
	s.kill(s.host("worker-1"), "redoubt-rund")
	s.hears("sending ACK to "+address, s.heard("sending ACK to "+address)+2)
	s.agree(s.task("house"), "house", "street", "cni0", "172.27.0.0/24")
	if now := s.task("house"); now.ID != house.ID {
		t.Error("the task was replaced")
	}

	// Who goes gives its address back; without the daemon that waits.
	s.ok(m, "service", "create", "--detach", "--name", "guest", "--network", "street", image)
	s.run("guest")
	stop()
	s.ok(m, "service", "rm", "house")
	eventually(t, 30*time.Second, func() string {
		if left := s.tasks(m, "guest"); len(left) != 1 || left[0].State != "running" {
			return fmt.Sprintf("it runs without the daemon: %v", left)
		}
		if n := len(s.list(s.host("worker-1").DataDir, "cni/attachments/*.json")); n != 2 {
			return fmt.Sprintf("%d attachments are recorded: one is in use, and one cannot be taken away", n)
		}
		return ""
	})
	s.daemon()
	eventually(t, 60*time.Second, func() string {
		if n := len(s.list(s.host("worker-1").DataDir, "cni/attachments/*.json")); n != 1 {
			return fmt.Sprintf("%d attachments are recorded, one is in use", n)
		}
		return ""
	})
	s.ok(m, "service", "create", "--detach", "--name", "heir", "--network", "street", image)
	s.run("heir")
	heir := s.said("heir")["street"][0]
	s.ok(m, "service", "rm", "heir")
	eventually(t, 30*time.Second, func() string {
		if s.wire.hear(); s.released[heir] == 0 {
			return fmt.Sprintf("%s is not given back: %v", heir, s.released)
		}
		return ""
	})
	s.ok(m, "service", "rm", "guest")
	eventually(t, 30*time.Second, func() string {
		if left := s.list(s.host("worker-1").DataDir, "cni/attachments/*"); len(left) > 0 {
			return fmt.Sprintf("attachments are still recorded: %q", left)
		}
		return ""
	})
}

// A dhcpStory is a segment with a server, and worker-1 with a card on it.
type dhcpStory struct {
	*cniStory
	wire     *ear
	released map[string]int // addresses that were given back
	log      struct {
		sync.Mutex
		lines []string
	}
}

// Write takes what the server logs.
func (s *dhcpStory) Write(b []byte) (int, error) {
	s.log.Lock()
	defer s.log.Unlock()
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		s.log.lines = append(s.log.lines, line)
		s.t.Log("server:", line)
	}
	return len(b), nil
}

func (s *dhcpStory) heard(what string) (n int) {
	s.log.Lock()
	defer s.log.Unlock()
	for _, line := range s.log.lines {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

func (s *dhcpStory) hears(what string, times int) {
	s.t.Helper()
	eventually(s.t, time.Minute, func() string {
		if n := s.heard(what); n < times {
			return fmt.Sprintf("the server says %q %d times, not %d", what, n, times)
		}
		return ""
	})
}

// says waits until a task of the service does.
func (s *dhcpStory) says(service, want string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, func() string {
		all := s.tasks("manager-1", service)
		i := slices.IndexFunc(all, func(t taskJSON) bool { return strings.Contains(t.Message+t.Error, want) })
		if i < 0 {
			return fmt.Sprintf("nobody says %q of %v", want, all)
		}
		s.t.Logf("%s: %s %s", all[i].Name, all[i].Message, all[i].Error)
		return ""
	})
}

func (s *dhcpStory) prepare() {
	const h = "worker-1"
	t := s.t
	// The server is on the other end of the card's cable, in the host's network:
	// the sandbox is nowhere else.
	s.inHost(h, "sh", "-ec", "ip link add card0 type veth peer name cable0; ip link set card0 up; ip link set cable0 up; ip addr add 172.27.0.1/24 dev cable0")
	s.released = map[string]int{}
	s.wire = listenAt(t, "the street", s.hostNS(h), "cable0")
	s.wire.keep = s.release
	dir := t.TempDir()
	config := filepath.Join(dir, "udhcpd.conf")
	s.write(config, fmt.Sprintf("start 172.27.0.10\nend 172.27.0.50\ninterface cable0\nlease_file %[1]s/leases\npidfile %[1]s/pid\noption subnet 255.255.255.0\noption lease 12\nmin_lease 10\n", dir), 0o600)
	s.write(filepath.Join(dir, "leases"), "", 0o600)
	s.background(s, "busybox", "udhcpd", "-f", "-a", "0", config)

	b, err := os.ReadFile("/usr/lib/cni/dhcp")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir(h, "plugins", "dhcp"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(s.dir(h, "conflists", "street.conflist"), fmt.Sprintf(`{"cniVersion":"1.0.0","name":"street","plugins":[
	  {"type":"macvlan","master":"card0","mode":"bridge","ipam":{"type":"dhcp","daemonSocketPath":%q}}]}`, s.socket()), 0o644)
	path := filepath.Join(filepath.Dir(s.host(h).DataDir), "config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s.write(path, strings.TrimRight(string(text), "\n")+fmt.Sprintf("\n      dhcp: %x\n", sha256.Sum256(b)), 0o644)
	s.lab("stop", h)
	s.lab("start", h)
}

// release notes a DHCPRELEASE (RFC 2131).
func (s *dhcpStory) release(frame []byte) {
	const bootp, options = 14 + 20 + 8, 14 + 20 + 8 + 240
	if len(frame) > options && frame[13] == 0 && frame[23] == 17 && frame[37] == 67 && bytes.Contains(frame[options:], []byte{53, 1, 7}) {
		s.released[net.IP(frame[bootp+12:bootp+16]).String()]++
	}
}

func (s *dhcpStory) socket() string { return s.dir("worker-1", "addresses", "dhcp.sock") }

// daemon runs the plugin's daemon on worker-1 until stop.
func (s *dhcpStory) daemon() (stop func()) {
	s.t.Helper()
	os.Remove(s.socket())
	stop = s.background(os.Stderr, s.dir("worker-1", "plugins", "dhcp"), "daemon", "-socketpath", s.socket())
	eventually(s.t, 10*time.Second, func() string {
		if _, err := os.Stat(s.socket()); err != nil {
			return err.Error()
		}
		return ""
	})
	return stop
}

// background runs a command on worker-1 until stop, or the end of the test.
func (s *dhcpStory) background(log interface{ Write([]byte) (int, error) }, command ...string) (stop func()) {
	t := s.t
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir, "redoubt"), append([]string{"lab", "exec", "--name", s.name, "worker-1", "--"}, command...)...)
	// It and what it runs are one process group.
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return stop
}
