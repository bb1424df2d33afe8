package dispatcher

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// caller is who asked for a command: a client of the operator API.
type caller struct {
	ctx    context.Context
	cancel func()
	in     chan *taskpb.ExecInput
	out    chan *taskpb.ExecOutput
	deaf   atomic.Bool // it reads nothing
	done   chan struct{}
	err    error // when done
}

func (c *caller) Recv() (*taskpb.ExecInput, error) {
	select {
	case m := <-c.in:
		return m, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

func (c *caller) Send(o *taskpb.ExecOutput) error {
	out := c.out
	if c.deaf.Load() {
		out = nil
	}
	select {
	case out <- o:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// ask begins a command, of which nobody reads before the test does.
func (w *world) ask(task, who string, args ...string) *caller {
	ctx, cancel := context.WithCancel(w.t.Context())
	c := &caller{ctx: ctx, cancel: cancel, in: make(chan *taskpb.ExecInput), out: make(chan *taskpb.ExecOutput), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer cancel() // as gRPC does when a handler returns
		c.err = w.d.RunExec(ctx, ExecRequest{TaskID: task, Command: &taskpb.ExecCommand{Args: args, Stdin: true}, Who: who}, c)
	}()
	return c
}

// end waits for the end, reading what comes.
func (c *caller) end() (out []byte, exit *taskpb.ExecExit, err error) {
	for {
		select {
		case m := <-c.out:
			out = append(out, m.GetStdout()...)
			if m.GetExit() != nil {
				exit = m.GetExit()
			}
		case <-c.done:
			return out, exit, c.err
		}
	}
}

func (w *world) execHost() (*host, string) {
	h := w.addHost()
	h.rund.SetFeatures(&taskpb.Feature{Name: ExecFeature, Present: true})
	task := w.addTask(h.id)
	return h, task
}

// TestExec: a command goes to where its task is and back; input comes to its end and
// the code arrives; what cannot be is refused with the reason, and whoever goes leaves
// nothing behind.
func TestExec(t *testing.T) {
	inWorld(t, func(w *world) {
		h, task := w.execHost()
		defer h.end()
		w.settle(2 * time.Minute) // probed
		c := w.ask(task, "ann", "cat")
		c.in <- &taskpb.ExecInput{Input: &taskpb.ExecInput_Stdin{Stdin: []byte("hello")}}
		if m := <-c.out; string(m.GetStdout()) != "hello" {
			t.Errorf("it gave back %v", m)
		}
		c.in <- &taskpb.ExecInput{Input: &taskpb.ExecInput_StdinEnd{StdinEnd: true}}
		if _, exit, err := c.end(); err != nil || exit == nil || exit.GetCode() != 0 {
			t.Errorf("it ended with %v, %v", exit, err)
		}
		if _, exit, err := w.ask(task, "ann", "exit").end(); err != nil || exit.GetCode() != 3 {
			t.Errorf("it ended with %v, %v", exit, err)
		}
		if _, _, err := w.ask(task, "ann", "nope").end(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no program nope") {
			t.Errorf("a program that is not there: %v", err)
		}
		if _, _, err := w.ask("none", "ann", "cat").end(); status.Code(err) != codes.NotFound {
			t.Errorf("a task that is not there: %v", err)
		}

		// It writes for ever, and nobody reads: that costs no more than itself.
		flood := w.ask(task, "ann", "yes")
		flood.deaf.Store(true)
		w.settle(10 * time.Minute)
		w.wantNode(h.id, ready)
		if n := h.rund.Execs(); n != 1 {
			t.Errorf("%d commands run", n)
		}
		if _, exit, err := w.ask(task, "ann", "exit").end(); err != nil || exit.GetCode() != 3 {
			t.Errorf("another beside it ended with %v, %v", exit, err)
		}
		flood.cancel()
		w.settle(time.Second)
		if n := h.rund.Execs(); n != 0 {
			t.Errorf("%d commands run though who asked has gone", n)
		}
		select {
		case <-flood.done:
		default:
			t.Error("it goes on though who asked has gone")
		}

		for range maxCallerExecs {
			w.ask(task, "greedy", "cat")
		}
		w.settle(time.Second)
		if _, _, err := w.ask(task, "greedy", "cat").end(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one more than a caller may have: %v", err)
		}
		if _, exit, err := w.ask(task, "ann", "exit").end(); err != nil || exit.GetCode() != 3 {
			t.Errorf("somebody else is held up: %v, %v", exit, err)
		}

		w.stop() // the term is over, and with it all of them
		w.settle(time.Second)
		if n := h.rund.Execs(); n != 0 {
			t.Errorf("%d commands run though nobody leads", n)
		}
		if len(w.d.execs) != 0 {
			t.Errorf("%d commands are remembered", len(w.d.execs))
		}
	})
}

// evil is a node that speaks for itself.
func (w *world) evil(node string) (schedulerpb.DispatcherClient, func()) {
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, identified{ss, authz.NewContext(ss.Context(), authz.Identity{NodeID: node})})
	}))
	schedulerpb.RegisterDispatcherServer(server, w.d)
	go server.Serve(l)
	conn, err := grpc.NewClient("passthrough:///manager", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		w.t.Fatal(err)
	}
	return schedulerpb.NewDispatcherClient(conn), func() { conn.Close(); server.Stop() }
}

// TestExecHostileNode: a node gets its own commands, each once, and what it sends is
// bounded; one that does not come, or says nothing, holds up nobody.
func TestExecHostileNode(t *testing.T) {
	inWorld(t, func(w *world) {
		n, other := w.addNode(), w.addNode()
		task := w.addTask(n)
		s := w.session(n)
		w.settle(time.Second)
		w.update(func(tx *raftstore.Tx) error {
			rec, _ := store.Nodes.Get(tx, n)
			rec = proto.CloneOf(rec)
			rec.Description = &schedulerpb.NodeDescription{Features: []*taskpb.Feature{{Name: ExecFeature, Present: true}}}
			return store.Nodes.Put(tx, rec)
		})
		w.change(task, func(t *schedulerpb.Task) { t.Status.State = store.Running })
		mine, endMine := w.evil(n)
		defer endMine()
		its, endIts := w.evil(other)
		defer endIts()

		call := func() (*caller, string) {
			c := w.ask(task, "ann", "cat")
			w.settle(time.Second)
			id := ""
			for _, m := range s.got {
				if x := m.GetExec(); x != nil {
					id = x.GetId()
				}
			}
			return c, id
		}
		come := func(client schedulerpb.DispatcherClient, id string) (grpc.BidiStreamingClient[schedulerpb.ExecReport, schedulerpb.ExecOrder], error) {
			stream, err := client.Exec(w.t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&schedulerpb.ExecReport{Id: id}); err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			return stream, err
		}

		c, id := call()
		if _, err := come(its, id); status.Code(err) != codes.NotFound {
			t.Errorf("another node came for it: %v", err)
		}
		if _, err := come(mine, "guess"); status.Code(err) != codes.NotFound {
			t.Errorf("a command that is not there: %v", err)
		}
		first, err := come(mine, id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := come(mine, id); status.Code(err) != codes.AlreadyExists {
			t.Errorf("it came twice: %v", err)
		}
		if err := first.Send(&schedulerpb.ExecReport{Output: &taskpb.ExecOutput{Output: &taskpb.ExecOutput_Stdout{Stdout: bytes.Repeat([]byte{0}, maxExecChunk+1)}}}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.end(); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "at most") {
			t.Errorf("too large a piece: %v", err)
		}

		for name, last := range map[string]*schedulerpb.ExecReport{
			"a code that is not its to give": {Code: uint32(codes.Unauthenticated), Error: "log in\nagain"},
			"nothing":                        {},
		} {
			c, id = call()
			stream, err := come(mine, id)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(last); err != nil {
				t.Fatal(err)
			}
			_, _, err = c.end()
			if code := status.Code(err); code != codes.Unavailable && code != codes.Internal || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", name, err)
			}
		}

		s.send(heartbeat())
		c, _ = call() // and it does not come
		w.settle(execPatience)
		if _, _, err := c.end(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "did not come") {
			t.Errorf("it did not come: %v", err)
		}

		s.send(heartbeat())
		c, id = call() // it comes, and says nothing
		if _, err := come(mine, id); err != nil {
			t.Fatal(err)
		}
		s.send(heartbeat())
		w.settle(10 * time.Second)
		c.cancel()
		if _, _, err := c.end(); err == nil {
			t.Error("it ended well though nothing was said")
		}

		s.send(heartbeat())
		c, id = call() // it comes, and its session is no more
		if _, err := come(mine, id); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Hour)
		if _, _, err := c.end(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "went away") {
			t.Errorf("a node that is down: %v", err)
		}
		if len(w.d.execs) != 0 {
			t.Errorf("%d commands are remembered", len(w.d.execs))
		}
	})
}
