package dispatcher

import (
	"context"
	"io"
	"sync"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// client is a node's end of a session: the stream itself, without gRPC.
type client struct {
	w      *world
	ctx    context.Context
	cancel context.CancelFunc
	up     chan *schedulerpb.AgentMessage
	done   chan struct{}
	err    error // after done

	mu  sync.Mutex
	got []*schedulerpb.ManagerMessage
}

func hello() *schedulerpb.AgentMessage {
	return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Hello{Hello: &schedulerpb.Hello{
		Description: &schedulerpb.NodeDescription{Hostname: "n1", Os: "linux", Arch: "amd64"}}}}
}

func heartbeat() *schedulerpb.AgentMessage {
	return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Heartbeat{Heartbeat: &schedulerpb.Heartbeat{AppliedIndex: 7}}}
}

func report(state schedulerpb.TaskState, tasks ...string) *schedulerpb.AgentMessage {
	b := &schedulerpb.StatusBatch{}
	for _, id := range tasks {
		b.Reports = append(b.Reports, &schedulerpb.TaskReport{TaskId: id, Status: &schedulerpb.TaskStatus{State: state}})
	}
	return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Status{Status: b}}
}

func (c *client) send(m *schedulerpb.AgentMessage) {
	select {
	case c.up <- m:
	case <-c.done:
	}
}

// beat sends heartbeats for d.
func (c *client) beat(d time.Duration) {
	for ; d > 0; d -= 5 * time.Second {
		c.send(heartbeat())
		c.w.settle(min(d, 5*time.Second))
	}
}

func (c *client) assignments() (out []*schedulerpb.Assignments) {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		if a := m.GetAssignments(); a != nil {
			out = append(out, a)
		}
	}
	return out
}

func (c *client) wantEnd(code codes.Code) {
	c.w.t.Helper()
	synctest.Wait()
	select {
	case <-c.done:
	default:
		c.w.t.Fatal("the session goes on")
	}
	if status.Code(c.err) != code {
		c.w.t.Fatalf("the session ended with %v, want %v", c.err, code)
	}
}

func (c *client) wantOpen() {
	c.w.t.Helper()
	synctest.Wait()
	select {
	case <-c.done:
		c.w.t.Fatalf("the session ended: %v", c.err)
	default:
	}
}

func (c *client) Context() context.Context { return c.ctx }

func (c *client) SetHeader(metadata.MD) error { return nil }

func (c *client) SendHeader(metadata.MD) error { return nil }

func (c *client) SetTrailer(metadata.MD) {}

func (c *client) SendMsg(any) error { panic("unused") }

func (c *client) RecvMsg(any) error { panic("unused") }

func (c *client) Send(m *schedulerpb.ManagerMessage) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, proto.CloneOf(m))
	return nil
}

func (c *client) Recv() (*schedulerpb.AgentMessage, error) {
	select {
	case m, ok := <-c.up:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}
