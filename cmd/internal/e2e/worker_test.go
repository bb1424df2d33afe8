package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestStolenWorker gives a worker's certificate and key to an agent of our own
// and sees what can be made of it; and what a load of services does to the
// operator.
func TestStolenWorker(t *testing.T) {
	t.Parallel()
	c := up(t, "thief", 1, 2)
	c.load()
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"logs follow tasks that are begun later", logsFollow},
		{"why a container keeps failing can be read", crashLogs},
		{"a node without its helpers is not ready", helpersAway},
		{"ten thousand replicas that cannot run disturb nobody", tenThousand},
		{"a stolen worker", stolenWorker},
	} {
		t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			story.tell(t, &sub)
		})
	}
}

// TestWorkerKnowsManagers: a worker that joined one manager outlives it.
func TestWorkerKnowsManagers(t *testing.T) {
	t.Parallel()
	c := up(t, "known", 3, 1)
	start := time.Now()
	eventually(t, 30*time.Second, func() string {
		var m struct {
			Managers []string `json:"managers"`
		}
		readFile(t, filepath.Join(c.host("worker-1").DataDir, "control", "member"), &m)
		if len(m.Managers) != 3 {
			return fmt.Sprintf("the worker knows %v", m.Managers)
		}
		return ""
	})
	t.Logf("all managers known %v after the lab was ready", time.Since(start).Round(100*time.Millisecond))
	leader := c.leader("manager-1")
	from := map[bool]string{true: "manager-2", false: "manager-1"}[leader == "manager-1"]
	c.lab("kill", leader)
	start = time.Now()
	c.leader(from)
	eventually(t, time.Minute, func() string {
		r := c.on("worker-1", "status")
		if r.code != 0 || strings.Contains(r.stdout, "Session:") {
			return "the worker has no session: " + r.String()
		}
		return ""
	})
	t.Logf("the worker has a session again %v after the leader was killed", time.Since(start).Round(100*time.Millisecond))
	c.ok(from, "node", "update", "--label-add", "seen=yes", "worker-1")
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func logsFollow(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--name", "talk", image)
	ctx, cancel := context.WithCancel(t.Context())
	var out output
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), "lab", "exec", "--name", c.name, "manager-1", "--",
		"redoubt", "service", "logs", "--follow", "talk")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 10*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		cmd.Wait()
	}()
	says := func(task string, times int) {
		t.Helper()
		eventually(t, 30*time.Second, func() string {
			n := 0
			for line := range strings.Lines(out.String()) {
				if strings.Contains(line, task) && strings.Contains(line, "listening on") {
					n++
				}
			}
			if n != times {
				return fmt.Sprintf("%s spoke %d times, want %d:\n%s", task, n, times, out.String())
			}
			return ""
		})
	}
	says("talk.1", 1)
	c.ok("manager-1", "service", "scale", "talk=2")
	says("talk.2", 1)
	c.ok("manager-1", "service", "update", "--force", "talk")
	says("talk.1", 2)
	says("talk.2", 2)
	c.ok("manager-1", "service", "rm", "talk")
}

func crashLogs(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--detach", "--name", "crash", image, "exit", "3")
	eventually(t, 30*time.Second, func() string {
		for _, task := range c.tasks("manager-1", "crash") {
			if strings.Contains(task.Error, "exit code 3") {
				return ""
			}
		}
		return "no task ended with 3"
	})
	eventually(t, 30*time.Second, func() string {
		if r := c.on("manager-1", "service", "logs", "crash"); !strings.Contains(r.stdout, "ending with 3") {
			return r.String()
		}
		return ""
	})
	c.ok("manager-1", "service", "rm", "crash")
}

// stopDaemon holds a daemon of a host still until the function it returns is
// called.
func (c *cluster) stopDaemon(host, name string) (release func()) {
	c.t.Helper()
	pid := c.daemons(c.host(host))[name]
	if pid == 0 {
		c.t.Fatalf("%s: %s does not run", host, name)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	return sync.OnceFunc(func() { syscall.Kill(pid, syscall.SIGCONT) })
}

func (c *cluster) wantState(node, want string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		for _, n := range c.nodes("manager-1") {
			if n.Hostname == node && n.State != want {
				return node + " is " + n.State
			}
		}
		return ""
	})
}

func helpersAway(t *testing.T, c *cluster) {
	rund, netd := c.stopDaemon("worker-1", "redoubt-rund"), c.stopDaemon("manager-1", "redoubt-netd")
	defer rund()
	defer netd()
	start := time.Now()
	c.wantState("worker-1", "not ready")
	c.wantState("manager-1", "not ready")
	t.Logf("not ready %v after the helpers were stopped", time.Since(start).Round(100*time.Millisecond))
	for what, args := range map[string][]string{"ls": {"node", "ls"}, "inspect": {"node", "inspect", "worker-1"}, "status": {"status"}} {
		if out := c.ok("manager-1", args...); !strings.Contains(out, "rund does not answer") {
			t.Errorf("%s does not say why:\n%s", what, out)
		}
	}
	c.ok("manager-1", "service", "create", "--detach", "--name", "wait", "--constraint", "node.hostname==worker-1", image)
	eventually(t, 30*time.Second, func() string {
		for _, task := range c.tasks("manager-1", "wait") {
			if task.Node == "" && strings.Contains(task.Message, "1 lacks the required feature rund") {
				return ""
			}
		}
		return fmt.Sprint(c.tasks("manager-1", "wait"))
	})
	// The manager leads all the same.
	if c.leader("manager-1") != "manager-1" {
		t.Error("the manager does not lead")
	}
	rund()
	netd()
	c.wantState("worker-1", "ready")
	c.wantState("manager-1", "ready")
	eventually(t, 30*time.Second, func() string {
		if c.running("manager-1", "wait")["worker-1"] != 1 {
			return "the waiting task does not run"
		}
		return ""
	})
	c.ok("manager-1", "service", "rm", "wait")
}

func tenThousand(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--detach", "--name", "huge", "--replicas", "10000", "--constraint", "node.labels.none==such", image)
	// A few wait and say why; the others are not made before they could be placed.
	eventually(t, time.Minute, func() string {
		if n := len(c.tasks("manager-1", "huge")); n == 0 || n > 1000 {
			return fmt.Sprintf("%d tasks", n)
		}
		return ""
	})
	start := time.Now()
	c.ok("manager-1", "status")
	c.ok("manager-1", "service", "create", "--name", "small", "--replicas", "2", image)
	t.Logf("another service runs after %v", time.Since(start).Round(100*time.Millisecond))
	c.ok("manager-1", "service", "scale", "--detach", "huge=5")
	eventually(t, time.Minute, func() string {
		if n := len(c.tasks("manager-1", "huge")); n != 5 {
			return fmt.Sprintf("%d tasks", n)
		}
		return ""
	})
	c.ok("manager-1", "service", "rm", "huge")
	c.ok("manager-1", "service", "rm", "small")
}
