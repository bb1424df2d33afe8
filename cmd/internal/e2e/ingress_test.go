package e2e

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestIngress: a published port answers on every node, whoever runs the task, and
// the task sees who asks.
func TestIngress(t *testing.T) {
	t.Parallel()
	c := up(t, "ingress", 1, 2)
	c.load()
	begun := time.Now()
	s := &ingressStory{client: c.newClient()}
	s.ok("manager-1", "service", "create", "--name", "web", "--restart-delay", "1s", "--replicas", "2", "--constraint", "node.role==worker", "--replicas-max-per-node", "1",
		"--publish", "published=8080,target=80", "--publish", "published=8080,target=80,protocol=udp", image)
	for _, story := range []struct {
		name string
		tell func(*ingressStory)
	}{
		{"every node answers, and the task sees the client", (*ingressStory).everyNode},
		{"an address is an address", (*ingressStory).hostIP},
		{"tasks of the node first", (*ingressStory).local},
		{"the PROXY protocol", (*ingressStory).proxied},
		{"a port that a process has", (*ingressStory).taken},
		{"daemons die and it answers on", (*ingressStory).daemonsDie},
		{"a killed task leaves", (*ingressStory).killed},
		{"what is removed is refused, and leaves nothing", (*ingressStory).removed},
	} {
		at := time.Now()
		if !t.Run(story.name, func(t *testing.T) { story.tell(&ingressStory{client: s.client.with(t)}) }) {
			return
		}
		t.Logf("%s: %v", story.name, time.Since(at).Round(100*time.Millisecond))
	}
	t.Logf("the story took %v", time.Since(begun).Round(100*time.Millisecond))
}

// ingressStory has service web with a task on each worker, at port 8080 of TCP and
// UDP.
type ingressStory struct{ *client }

func (s *ingressStory) everyNode() {
	s.everywhere(s.hosts(), 8080, s.serving("web")...)
	for _, h := range s.hosts() { // and to the node itself
		for _, url := range []string{"http://127.0.0.1:8080/", "http://[::1]:8080/"} {
			if out := s.inHost(h.Name, "curl", "-sS", "-g", "--max-time", "3", url); !strings.Contains(out, "hello from") {
				s.t.Errorf("%s, %s: %s", h.Name, url, out)
			}
		}
	}
	s.refused("manager-1", 1, "8080", nil, "service", "create", "--name", "other", "--publish", "published=8080,target=80", image)
}

// hostIP: who published to the node itself is not heard from outside.
func (s *ingressStory) hostIP() {
	s.ok("manager-1", "service", "create", "--name", "inner", "--constraint", "node.hostname==worker-2", "--publish", "published=8081,target=80,host_ip=127.0.0.1", image)
	defer s.ok("manager-1", "service", "rm", "inner")
	for _, h := range s.hosts() {
		if out := s.inHost(h.Name, "curl", "-sS", "--max-time", "3", "http://127.0.0.1:8081/"); !strings.Contains(out, "hello from") {
			s.t.Errorf("%s: %s", h.Name, out)
		}
		if a, err := askTCP(s.at(h, false, 8081)); err == nil {
			s.t.Errorf("%s answers from outside: %v", h.Name, a)
		}
	}
}

func (s *ingressStory) local() {
	s.ok("manager-1", "service", "create", "--name", "near", "--replicas", "2", "--constraint", "node.role==worker", "--replicas-max-per-node", "1",
		"--publish", "published=8082,target=80,prefer-local", image)
	defer s.ok("manager-1", "service", "rm", "near")
	all := s.serving("near")
	for _, h := range s.hosts() {
		want := slices.DeleteFunc(slices.Clone(all), func(t taskJSON) bool { return h.Role == "worker" && t.Node != h.Name })
		s.answers(askTCP, s.at(h, false, 8082), want...)
	}
}

// taken: a process of one node has the port. The others answer, and the cluster says
// where it is not answered on.
func (s *ingressStory) taken() {
	stop := s.holdPort("worker-1", "8083")
	defer stop()
	s.ok("manager-1", "service", "create", "--name", "late", "--constraint", "node.hostname==worker-1", "--publish", "published=8083,target=80", image)
	task := s.serving("late")[0]
	s.answers(askTCP, s.at(s.host("manager-1"), false, 8083), task)
	s.answers(askTCP, s.at(s.host("worker-2"), true, 8083), task)
	const why = "port 8083/tcp is in use on this node"
	eventually(s.t, 10*time.Second, func() string {
		if text := s.ok("manager-1", "node", "inspect", "worker-1"); !strings.Contains(text, why) {
			return "node inspect says nothing of the port: " + text
		}
		if m := s.serving("late")[0].Message; !strings.Contains(m, why) {
			return "the task says nothing of the port: " + m
		}
		return ""
	})
	stop()
	eventually(s.t, 15*time.Second, func() string {
		if _, err := askTCP(s.at(s.host("worker-1"), false, 8083)); err != nil {
			return "the port is free, and not published: " + err.Error()
		}
		return ""
	})
	s.ok("manager-1", "service", "rm", "late")
}

func (s *ingressStory) daemonsDie() {
	for _, daemon := range []string{"redoubt-netd", "redoubtd", "redoubt-rund"} {
		for _, name := range []string{"worker-1", "worker-2"} {
			pid := s.daemons(s.host(name))[daemon]
			if pid <= 1 {
				s.t.Fatalf("%s: %s does not run", name, daemon)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				s.t.Fatal(err)
			}
		}
		eventually(s.t, 30*time.Second, func() string {
			for _, h := range s.hosts() {
				if _, err := askTCP(s.at(h, false, 8080)); err != nil {
					return fmt.Sprintf("%s killed, and %s says %v", daemon, h.Name, err)
				}
			}
			return ""
		})
	}
}

// killed: new flows go to whoever is left within a moment.
func (s *ingressStory) killed() {
	gone := s.serving("web")[0]
	s.kill9(gone)
	at := time.Now()
	eventually(s.t, 20*time.Second, func() string {
		left := s.serving("web")
		if len(left) != 2 || left[0].ID == gone.ID || left[1].ID == gone.ID {
			return fmt.Sprintf("%s is not replaced: %v", gone.Name, left)
		}
		return ""
	})
	for _, task := range s.serving("web") {
		s.soon(s.hosts(), 8080, task)
	}
	s.everywhere(s.hosts(), 8080, s.serving("web")...)
	s.t.Logf("replaced after %v", time.Since(at).Round(100*time.Millisecond))
}

// kill9 kills what runs in a task's container.
func (c *cluster) kill9(task taskJSON) {
	c.t.Helper()
	for line := range strings.Lines(c.inHost(task.Node, "ctr", "-n", "redoubt", "tasks", "ls")) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != task.ID {
			continue
		}
		pid, err := strconv.Atoi(f[1])
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			c.t.Fatal(err)
		}
		return
	}
	c.t.Fatalf("%s does not run on %s", task.Name, task.Node)
}

func (s *ingressStory) removed() {
	s.ok("manager-1", "service", "rm", "web")
	eventually(s.t, 20*time.Second, func() string {
		for _, h := range s.hosts() {
			conn, err := net.DialTimeout("tcp", s.at(h, false, 8080), 2*time.Second)
			if err == nil {
				conn.Close()
				return h.Name + " still answers"
			}
			if !strings.Contains(err.Error(), "refused") {
				return fmt.Sprintf("%s does not refuse: %v", h.Name, err)
			}
			if out := s.inHost(h.Name, "sh", "-c", "nft list tables; ip -br link; ls "+h.RunDir+"/netns"); strings.Contains(out, "redoubt_ingress") || strings.Contains(out, "rdti") || strings.Contains(out, "net-ingress") {
				return h.Name + " has something left: " + out
			}
		}
		return ""
	})
}
