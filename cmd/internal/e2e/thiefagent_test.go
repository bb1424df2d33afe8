package e2e

import (
	"fmt"
	"strings"
	"sync"
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
	t.Logf("while it floods, status took %v", time.Since(start).Round(time.Millisecond))
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
