package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/proxy"
)

// headedAt is where the relay of port 8084 listens: 61000 + 8084 % 4536.
const headedAt = "64548"

// proxied: the program believes a PROXY protocol header alone, and hears of its
// client through every node, by both families. What the client makes up comes
// behind it.
func (s *ingressStory) proxied() {
	const port = 8084
	s.refused("manager-1", 2, "proxy-protocol is for protocol=tcp", nil, "service", "create", "--name", "datagrams", "--publish", "published=54,target=54,protocol=udp,proxy-protocol=v2", image)
	s.ok("manager-1", "service", "create", "--name", "headed", "--constraint", "node.hostname==worker-1", "--restart-delay", "1s",
		"--publish", "published=8084,target=80,proxy-protocol=v2", image, "--proxy-protocol")
	task := s.serving("headed")
	if out := s.ok("manager-1", "service", "inspect", "headed"); !strings.Contains(out, "8084->80/tcp (proxy-protocol=v2)") {
		s.t.Errorf("service inspect does not say that it has headers: %s", out)
	}
	asked := func(when string) {
		s.t.Helper()
		for _, h := range s.hosts() {
			for _, six := range []bool{false, true} {
				s.answers(askTCP, s.at(h, six, port), task...)
			}
		}
		if s.t.Failed() {
			s.t.Fatalf("%s", when)
		}
	}
	asked("at first")

	// A header of the client's own is no header.
	forged, err := proxy.Header(netip.MustParseAddrPort("198.51.100.7:1"), netip.MustParseAddrPort("198.51.100.8:2"))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.at(s.host("worker-2"), false, port))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "%sGET /client HTTP/1.0\r\n\r\n", forged)
	if b, err := io.ReadAll(bufio.NewReader(c)); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
		s.t.Errorf("a forged header is answered %q, %v", b, err)
	}

	// The relay outlives rund; another takes its place when it ends.
	first := s.relay(headedAt)
	if first == 0 {
		s.t.Fatal("no process has the port of the relay among its arguments")
	}
	s.kill("worker-1", "redoubt-rund")
	asked("after rund was killed")
	if now := s.relay(headedAt); now != first {
		s.t.Errorf("the relay was %d and is %d after rund was killed", first, now)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, 20*time.Second, func() string {
		for _, h := range s.hosts() {
			if _, err := askTCP(s.at(h, true, port)); err != nil {
				return fmt.Sprintf("the relay was killed, and %s says %v", h.Name, err)
			}
		}
		return ""
	})

	// Headers come and go with the service's ports, and no task is replaced for it.
	s.ok("manager-1", "service", "update", "headed", "--publish-add", "published=8085,target=80,proxy-protocol=v2")
	eventually(s.t, 20*time.Second, func() string {
		if _, err := askTCP(s.at(s.host("manager-1"), false, 8085)); err != nil {
			return "a port that was added says " + err.Error()
		}
		return ""
	})
	if now := s.serving("headed"); len(now) != 1 || now[0].ID != task[0].ID {
		s.t.Errorf("a port that was added made %v of %v", now, task)
	}
	s.ok("manager-1", "service", "rm", "headed")
	eventually(s.t, 20*time.Second, func() string {
		if pid := s.relay(headedAt); pid != 0 {
			return "a relay outlived its service"
		}
		return ""
	})
}

// relay is the process that listens on the port, in this story's lab: none other
// publishes that.
func (s *ingressStory) relay(port string) (pid int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.HasPrefix(string(b), "/dev/redoubt-proxy\x00") && strings.Contains(string(b), "\x00-listen\x00"+port+"\x00") {
			fmt.Sscanf(filepath.Base(filepath.Dir(f)), "%d", &pid)
		}
	}
	return pid
}

// kill ends a daemon of a host as a crash would.
func (s *ingressStory) kill(name, daemon string) {
	s.t.Helper()
	pid := s.daemons(s.host(name))[daemon]
	if pid <= 1 {
		s.t.Fatalf("%s: %s does not run", name, daemon)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, 20*time.Second, func() string {
		if now := s.daemons(s.host(name))[daemon]; now <= 1 || now == pid {
			return daemon + " does not run again"
		}
		return ""
	})
}
