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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
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

// thiefAgent is our own agent in a session.
type thiefAgent struct {
	t *testing.T
	s grpc.BidiStreamingClient[schedulerpb.AgentMessage, schedulerpb.ManagerMessage]

	sending sync.Mutex // one at a time
	mu      sync.Mutex // guards all and end
	all     []*schedulerpb.ManagerMessage
	end     error
	done    chan struct{}
}

// takeOver opens a session as the node of creds. react is called for each task
// that it is to run.
func takeOver(t *testing.T, a *attack, creds *pki.Credentials, d *schedulerpb.NodeDescription, react func(*thiefAgent, *schedulerpb.Assignment)) *thiefAgent {
	t.Helper()
	_, s := a.session(t, a.leader, creds, d)
	w := &thiefAgent{t: t, s: s, done: make(chan struct{})}
	go func() {
		beat := time.NewTicker(3 * time.Second)
		defer beat.Stop()
		for {
			select {
			case <-beat.C:
				w.send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Heartbeat{Heartbeat: &schedulerpb.Heartbeat{}}})
			case <-w.done:
				return
			}
		}
	}()
	go func() {
		defer close(w.done)
		for {
			m, err := s.Recv()
			if err != nil {
				w.mu.Lock()
				w.end = err
				w.mu.Unlock()
				return
			}
			w.mu.Lock()
			w.all = append(w.all, m)
			w.mu.Unlock()
			for _, as := range m.GetAssignments().GetUpdate() {
				if react != nil && as.Desired <= schedulerpb.TaskState_TASK_STATE_RUNNING {
					react(w, as)
				}
			}
		}
	}()
	return w
}

func (w *thiefAgent) report(state schedulerpb.TaskState, ids ...string) {
	b := &schedulerpb.StatusBatch{}
	for _, id := range ids {
		b.Reports = append(b.Reports, &schedulerpb.TaskReport{TaskId: id, Status: &schedulerpb.TaskStatus{State: state, At: time.Now().UnixNano(), Error: "so says the thief"}})
	}
	w.send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Status{Status: b}})
}

// send says something; that the session ended is seen by Recv.
func (w *thiefAgent) send(m *schedulerpb.AgentMessage) {
	w.sending.Lock()
	defer w.sending.Unlock()
	w.s.Send(m)
}

func (w *thiefAgent) wantEnd(code codes.Code) {
	w.t.Helper()
	select {
	case <-w.done:
	case <-time.After(30 * time.Second):
		w.t.Errorf("the session goes on, want %v", code)
		return
	}
	if status.Code(w.end) != code {
		w.t.Errorf("the session ended with %v, want %v", w.end, code)
	}
}

func description() *schedulerpb.NodeDescription {
	return &schedulerpb.NodeDescription{Hostname: "worker-2", Os: "linux", Arch: "amd64", Resources: &taskpb.Resources{NanoCpus: 2e9, MemoryBytes: 4 << 30}}
}

func hello(d *schedulerpb.NodeDescription) *schedulerpb.AgentMessage {
	return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Hello{Hello: &schedulerpb.Hello{Description: d}}}
}

func stolenWorker(t *testing.T, c *cluster) {
	a := &attack{cluster: c, leader: c.addr2377("manager-1"), follower: c.addr2377("manager-1"), from: "manager-1"}
	creds := a.stolen(t, "worker-2", "leaf")
	c.lab("stop", "worker-2")
	const canary = "canary-of-another-node-5d1c"
	c.ok("manager-1", "service", "create", "--name", "bait", "--replicas", "2", "--env", "CANARY="+canary, "--constraint", "node.hostname==worker-1", image)
	var bait []string
	for _, task := range c.tasks("manager-1", "bait") {
		bait = append(bait, task.ID)
	}

	// It calls itself by another's name, says what no version knows, and what
	// everybody's images are.
	const evil = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	d := description()
	d.Hostname = "worker-1"
	d.LoadedImages = map[string]string{image: evil, "redoubt.lab/unheard:1": evil}
	d.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 4000, protowire.VarintType), 1))
	var mu sync.Mutex
	failing := map[string][]time.Time{}
	first := takeOver(t, a, creds, d, func(w *thiefAgent, as *schedulerpb.Assignment) {
		mu.Lock()
		failing[as.ServiceName] = append(failing[as.ServiceName], time.Now())
		mu.Unlock()
		w.report(schedulerpb.TaskState_TASK_STATE_FAILED, as.TaskId) // at once
	})
	c.wantState("worker-2", "ready")
	if n := len(c.nodes("manager-1")); n != 3 {
		t.Errorf("%d nodes", n)
	}

	// It ends and rejects what is not its own.
	for range 20 {
		ids := append([]string(nil), bait...)
		for range 1000 {
			ids = append(ids, ident.New())
		}
		first.report(schedulerpb.TaskState_TASK_STATE_FAILED, ids...)
	}
	start := time.Now()
	c.ok("manager-1", "status")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("status took %v", took)
	}
	if n := c.running("manager-1", "bait"); n["worker-1"] != 2 {
		t.Errorf("after the forged reports bait runs as %v", n)
	}

	// Its word on images that a manager knows is not taken.
	r := c.on("manager-1", "service", "create", "--name", "honest", "--constraint", "node.hostname==worker-1", image)
	if r.code != 0 || !strings.Contains(r.stderr, evil) || !strings.Contains(r.stderr, "not used") {
		t.Errorf("an image that a thief lies about: %v", r)
	}
	r = c.on("manager-1", "service", "create", "--detach", "--name", "unheard", "--replicas", "0", "redoubt.lab/unheard:1")
	if r.code != 0 || !strings.Contains(r.stderr, "on the word of workers only") {
		t.Errorf("an image that only a thief knows: %v", r)
	}

	// One that fails everything at once does not set the pace.
	c.ok("manager-1", "service", "create", "--detach", "--name", "drum", "--constraint", "node.hostname==worker-2", image)
	eventually(t, time.Minute, func() string {
		mu.Lock()
		defer mu.Unlock()
		if n := len(failing["drum"]); n < 3 {
			return fmt.Sprintf("%d tasks of drum", n)
		}
		return ""
	})
	mu.Lock()
	took := failing["drum"][2].Sub(failing["drum"][0])
	if took < 9*time.Second || len(failing["bait"]) > 0 || len(failing["honest"]) > 0 {
		t.Errorf("the third failing task came %v after the first; assignments: %v", took, failing)
	}
	mu.Unlock()
	t.Logf("three tasks failed in %v", took.Round(100*time.Millisecond))
	c.ok("manager-1", "service", "rm", "drum")

	// Nothing of others was said to it.
	first.mu.Lock()
	for _, m := range first.all {
		if text := m.String(); strings.Contains(text, canary) || strings.Contains(text, bait[0]) || strings.Contains(text, "worker-1") {
			t.Errorf("it heard of another node's task: %.300s", text)
		}
	}
	first.mu.Unlock()

	// One session at a time; what is malformed or too large ends it.
	second := takeOver(t, a, creds, description(), nil)
	first.wantEnd(codes.Aborted)
	big := description()
	big.Runtime = strings.Repeat("x", 300<<10)
	second.send(hello(big))
	second.wantEnd(codes.InvalidArgument)
	third := takeOver(t, a, creds, description(), nil)
	big.Runtime = strings.Repeat("x", 5<<20)
	third.send(hello(big))
	third.wantEnd(codes.ResourceExhausted)

	// The node's own agent takes over again, and what it was told is right.
	c.lab("start", "worker-2")
	c.wantState("worker-2", "ready")
	c.ok("manager-1", "service", "create", "--name", "after", "--replicas", "2", "--constraint", "node.hostname==worker-2", image)
	if n := c.running("manager-1", "after"); n["worker-2"] != 2 {
		t.Errorf("after the theft tasks run as %v", n)
	}
}
