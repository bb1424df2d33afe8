package dispatcher

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// world is a leading dispatcher over a real store, under fake time.
type world struct {
	t     *testing.T
	d     *Dispatcher
	store *raftstore.Store
	log   *buffer
	stop  func()
	svc   string
}

type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func inWorld(t *testing.T, body func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: raftstoretest.New(t, append(store.Tables(), pkistore.Tables()...)...), log: &buffer{}}
		var err error
		w.d, err = New(Config{
			Store: w.store, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
			Managers: func() []string { return []string{"m1:2377"} },
		})
		if err != nil {
			t.Fatal(err)
		}
		w.lead()
		defer func() { w.stop() }()
		body(w)
	})
}

// lead begins a term; stop ends it.
func (w *world) lead() {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.d.Run(ctx)
	}()
	synctest.Wait()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

func (w *world) settle(d time.Duration) {
	time.Sleep(d) // fake time
	synctest.Wait()
}

func (w *world) update(fn func(*raftstore.Tx) error) {
	w.t.Helper()
	if err := w.store.Update(w.t.Context(), fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) addNode() string {
	w.t.Helper()
	id := ident.New()
	w.update(func(tx *raftstore.Tx) error { return store.RegisterNode(tx, id, false) })
	return id
}

// addTask makes a task that is assigned to the node.
func (w *world) addTask(node string) string {
	w.t.Helper()
	id := ident.New()
	w.update(func(tx *raftstore.Tx) error {
		if w.svc == "" {
			w.svc = ident.New()
			rev := &schedulerpb.Revision{Id: store.RevisionID(w.svc, 1), ServiceId: w.svc, Spec: &taskpb.TaskSpec{
				Container: &taskpb.ContainerSpec{Image: "web", Env: []string{"A=" + strings.Repeat("x", 4000)}}}}
			if err := store.Revisions.Put(tx, rev); err != nil {
				return err
			}
		}
		return store.Tasks.Put(tx, &schedulerpb.Task{
			Id: id, ServiceId: w.svc, Slot: 1, Revision: 1, NodeId: node,
			Desired: store.Running, Status: &schedulerpb.TaskStatus{State: store.Assigned},
		})
	})
	return id
}

func (w *world) change(task string, fn func(*schedulerpb.Task)) {
	w.t.Helper()
	w.update(func(tx *raftstore.Tx) error {
		t, _ := store.Tasks.Get(tx, task)
		t = proto.CloneOf(t)
		fn(t)
		return store.Tasks.Put(tx, t)
	})
}

func (w *world) task(id string) (t *schedulerpb.Task) {
	w.store.View(func(r *raftstore.ReadTx) error { t, _ = store.Tasks.Get(r, id); return nil })
	return t
}

func (w *world) node(id string) (n *schedulerpb.Node) {
	w.store.View(func(r *raftstore.ReadTx) error { n, _ = store.Nodes.Get(r, id); return nil })
	return n
}

func (w *world) wantNode(id string, state schedulerpb.NodeState) {
	w.t.Helper()
	if got := w.node(id).GetState(); got != state {
		w.t.Fatalf("node is %v, want %v", got, state)
	}
}

const (
	unknown = schedulerpb.NodeState_NODE_STATE_UNKNOWN
	ready   = schedulerpb.NodeState_NODE_STATE_READY
	down    = schedulerpb.NodeState_NODE_STATE_DOWN
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

func (w *world) connect(node string) *client {
	ctx, cancel := context.WithCancel(w.t.Context())
	if node != "" {
		ctx = authz.NewContext(ctx, authz.Identity{NodeID: node})
	}
	c := &client{w: w, ctx: ctx, cancel: cancel, up: make(chan *schedulerpb.AgentMessage), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer cancel() // as gRPC does when a handler returns
		c.err = w.d.Session(c)
	}()
	return c
}

func (w *world) session(node string) *client {
	w.t.Helper()
	c := w.connect(node)
	c.send(hello())
	synctest.Wait()
	return c
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

func (c *client) Context() context.Context     { return c.ctx }
func (c *client) SetHeader(metadata.MD) error  { return nil }
func (c *client) SendHeader(metadata.MD) error { return nil }
func (c *client) SetTrailer(metadata.MD)       {}
func (c *client) SendMsg(any) error            { panic("unused") }
func (c *client) RecvMsg(any) error            { panic("unused") }

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

func TestAssignments(t *testing.T) {
	inWorld(t, func(w *world) {
		mine, other := w.addNode(), w.addNode()
		first := w.addTask(mine)
		w.addTask(other)
		c := w.session(mine)
		got := c.assignments()
		if len(got) != 1 || !got[0].Complete || got[0].Sequence != 1 || len(got[0].Update) != 1 || got[0].Update[0].TaskId != first ||
			got[0].Update[0].Spec.GetContainer().GetImage() != "web" || got[0].Update[0].Observed != store.Assigned {
			t.Fatalf("first assignments %v", got)
		}
		second := w.addTask(mine)
		w.addTask(other)
		w.change(first, func(t *schedulerpb.Task) { t.Desired = store.Shutdown })
		c.send(report(store.Running, second)) // a status makes no assignment
		w.settle(time.Second)
		w.update(func(tx *raftstore.Tx) error { return store.Tasks.Delete(tx, first) })
		w.settle(time.Second)
		told := map[string]schedulerpb.TaskState{}
		removed := 0
		for i, a := range c.assignments() {
			if a.Sequence != uint64(i+1) || a.Complete != (i == 0) {
				t.Errorf("message %d: sequence %d, complete %v", i, a.Sequence, a.Complete)
			}
			for _, u := range a.Update {
				told[u.TaskId] = u.Desired
			}
			for _, id := range a.Remove {
				removed++
				delete(told, id)
			}
		}
		if len(told) != 1 || told[second] != store.Running || removed != 1 {
			t.Errorf("told %v, %d removed", told, removed)
		}
		if n := len(c.assignments()); n != 4 {
			t.Errorf("%d messages, want 4", n)
		}
	})
}

// What ended is not assigned as if it had yet to be begun.
func TestEndedTasksAreNotBegun(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		task, lost := w.addTask(n), w.addTask(n)
		w.change(task, func(t *schedulerpb.Task) { t.Status.State = store.Failed })
		c := w.session(n)
		w.change(lost, func(t *schedulerpb.Task) { t.Status.State = store.Orphaned })
		w.settle(time.Second)
		got := map[string]schedulerpb.TaskState{}
		for _, a := range c.assignments() {
			for _, u := range a.Update {
				got[u.TaskId] = u.Desired
			}
		}
		if got[task] != store.Shutdown || got[lost] != store.Shutdown {
			t.Errorf("assigned %v", got)
		}
	})
}

func TestLargeSetComesInParts(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		for range 600 {
			w.addTask(n)
		}
		c := w.session(n)
		got := c.assignments()
		total := 0
		for i, a := range got {
			total += len(a.Update)
			if a.More != (i < len(got)-1) || proto.Size(a) > 2*maxAssignmentBytes {
				t.Errorf("part %d of %d: more %v, %d bytes", i, len(got), a.More, proto.Size(a))
			}
		}
		if total != 600 || len(got) < 3 {
			t.Errorf("%d tasks in %d parts", total, len(got))
		}
	})
}

func TestReports(t *testing.T) {
	inWorld(t, func(w *world) {
		n, other := w.addNode(), w.addNode()
		mine, foreign := w.addTask(n), w.addTask(other)
		c := w.session(n)
		c.send(report(store.Running, mine, foreign, ident.New()))
		w.settle(time.Second)
		if got := store.State(w.task(mine)); got != store.Running {
			t.Errorf("own task is %v", got)
		}
		if got := store.State(w.task(foreign)); got != store.Assigned {
			t.Errorf("another node's task was changed to %v", got)
		}
		if !strings.Contains(w.log.String(), "refused a node's report") {
			t.Error("the forged report was not logged")
		}
		c.wantOpen()
		// Nothing goes back, and what is known makes no entry.
		before := w.store.AppliedIndex()
		c.send(report(schedulerpb.TaskState_TASK_STATE_STARTING, mine))
		w.settle(time.Second)
		if got := store.State(w.task(mine)); got != store.Running || w.store.AppliedIndex() != before {
			t.Errorf("state %v, %d entries", got, w.store.AppliedIndex()-before)
		}
	})
}

func TestReportsAreCoalesced(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		var ids []string
		for range 200 {
			ids = append(ids, w.addTask(n))
		}
		c := w.session(n)
		w.settle(time.Second)
		before := w.store.AppliedIndex()
		for _, id := range ids {
			c.send(report(store.Running, id))
		}
		w.settle(time.Second)
		for _, id := range ids {
			if store.State(w.task(id)) != store.Running {
				t.Fatal("a report was lost")
			}
		}
		if n := w.store.AppliedIndex() - before; n > 5 {
			t.Errorf("200 reports made %d entries", n)
		}
	})
}

func TestMalformed(t *testing.T) {
	long := hello()
	long.GetHello().Description.Kernel = strings.Repeat("x", 1000)
	many := make([]string, maxBatchReports+1)
	for name, m := range map[string]*schedulerpb.AgentMessage{
		"no state for nodes": report(store.Orphaned, ident.New()),
		"too many":           report(store.Running, many...),
		"description":        long,
		"empty":              {},
		"log":                {Message: &schedulerpb.AgentMessage_Log{Log: &schedulerpb.LogChunk{Data: make([]byte, maxLogChunk+1)}}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				c := w.session(w.addNode())
				c.send(m)
				c.wantEnd(codes.InvalidArgument)
			})
		})
	}
}

func TestOnlyNodes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.connect("").wantEnd(codes.PermissionDenied)
		w.connect(ident.New()).wantEnd(codes.PermissionDenied) // no record of it
		c := w.connect(w.addNode())
		c.send(heartbeat())
		c.wantEnd(codes.InvalidArgument) // hello comes first
		c = w.connect(w.addNode())
		w.settle(helloTimeout + time.Second)
		c.wantEnd(codes.DeadlineExceeded)
	})
}

func TestOneSessionPerNode(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		old := w.session(n)
		now := w.session(n)
		old.wantEnd(codes.Aborted)
		now.beat(30 * time.Second)
		now.wantOpen()
		if s := w.d.Sessions(); len(s) != 1 || s[0].AppliedIndex != 7 {
			t.Errorf("sessions %v", s)
		}
		w.wantNode(n, ready)
	})
}

func TestRemovedNode(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		c := w.session(n)
		w.update(func(tx *raftstore.Tx) error { return store.Nodes.Delete(tx, n) })
		c.wantEnd(codes.PermissionDenied)
		w.connect(n).wantEnd(codes.PermissionDenied)
	})
}

func TestNodeStates(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		w.settle(time.Minute)
		w.wantNode(n, unknown)
		c := w.session(n)
		w.settle(time.Second)
		w.wantNode(n, ready)
		if got := w.node(n).GetDescription().GetHostname(); got != "n1" {
			t.Errorf("hostname %q", got)
		}
		c.beat(time.Minute)
		w.wantNode(n, ready)
		// A reconnect within the time is invisible.
		before := w.store.AppliedIndex()
		c.cancel()
		w.settle(9 * time.Second) // 14 s since the last heartbeat
		c = w.session(n)
		c.beat(time.Minute)
		w.wantNode(n, ready)
		if n := w.store.AppliedIndex() - before; n != 0 {
			t.Errorf("a reconnect made %d entries", n)
		}
		// Silence ends the session and the node, and not early.
		w.settle(9 * time.Second) // 14 s since the last heartbeat
		w.wantNode(n, ready)
		w.settle(2 * time.Second)
		w.wantNode(n, down)
		c.wantEnd(codes.DeadlineExceeded)
		w.session(n)
		w.settle(time.Second)
		w.wantNode(n, ready)
	})
}

func TestLeaderChange(t *testing.T) {
	inWorld(t, func(w *world) {
		back, away := w.addNode(), w.addNode()
		c, c2 := w.session(back), w.session(away)
		mute := w.connect(back) // said nothing yet
		w.settle(time.Second)
		begin := time.Now()
		w.stop()
		if d := time.Since(begin); d > time.Second {
			t.Errorf("the term took %v to end", d)
		}
		mute.wantEnd(codes.Unavailable)
		c.wantEnd(codes.Unavailable)
		c2.wantEnd(codes.Unavailable)
		w.connect(back).wantEnd(codes.Unavailable)
		w.settle(5 * time.Minute)
		w.lead()
		w.settle(14 * time.Second)
		w.wantNode(back, ready)
		w.wantNode(away, ready)
		c = w.session(back)
		c.beat(10 * time.Second)
		w.wantNode(back, ready)
		w.wantNode(away, down)
	})
}

func TestQuotas(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		c := w.session(n)
		begin := time.Now()
		for range messageBurst + 2*messageRate {
			c.send(heartbeat())
		}
		if d := time.Since(begin); d < time.Second || d > 3*time.Second {
			t.Errorf("%d messages were taken in %v", messageBurst+2*messageRate, d)
		}
		c.wantOpen()
		refused := false
		for range sessionBurst + 1 {
			c := w.connect(n)
			synctest.Wait()
			select {
			case <-c.done:
				refused = refused || status.Code(c.err) == codes.ResourceExhausted
			default:
				c.cancel()
			}
		}
		if !refused {
			t.Error("sessions without end were accepted")
		}
	})
}

func TestLogs(t *testing.T) {
	inWorld(t, func(w *world) {
		n, silent := w.addNode(), w.addNode()
		here, there := w.addTask(n), w.addTask(silent)
		c := w.session(n)
		var got []*schedulerpb.LogChunk
		done := make(chan error, 1)
		go func() {
			for chunk, err := range w.d.Logs(w.t.Context(), LogRequest{TaskIDs: []string{here, there, "none"}, Tail: -1}) {
				if err != nil {
					done <- err
					return
				}
				got = append(got, chunk)
			}
			done <- nil
		}()
		synctest.Wait()
		var sub *schedulerpb.LogSubscription
		for _, m := range c.got {
			if l := m.GetLog(); l != nil {
				sub = l
			}
		}
		if sub == nil || len(sub.TaskIds) != 1 || sub.TaskIds[0] != here {
			t.Fatalf("subscription %v", sub)
		}
		chunk := func(task, data string, eof bool) *schedulerpb.AgentMessage {
			return &schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Log{Log: &schedulerpb.LogChunk{
				Subscription: sub.Id, TaskId: task, Data: []byte(data), Eof: eof}}}
		}
		c.send(chunk(here, "hello\n", false))
		c.send(chunk(there, "forged\n", false))
		c.send(chunk(here, "", true))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		text := map[string]string{}
		for _, g := range got {
			text[g.TaskId] += string(g.Data) + g.Error
			if g.Subscription != "" {
				t.Error("internal id shown")
			}
		}
		if text[here] != "hello\n" || !strings.Contains(text[there], "not connected") || !strings.Contains(text["none"], "no such task") {
			t.Errorf("output %q", text)
		}
		if !strings.Contains(w.log.String(), "refused a node's logs") {
			t.Error("the forged chunk was not logged")
		}
	})
}

// A reader that is too slow is told what it missed, and always of the end; a
// session that goes ends what it fed.
func TestLogsSlowReader(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		task := w.addTask(n)
		c := w.session(n)
		sub, err := w.d.subscribe(LogRequest{TaskIDs: []string{task}})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, maxLogChunk)
		for range subscriptionBytes/maxLogChunk + 10 {
			c.send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Log{Log: &schedulerpb.LogChunk{
				Subscription: sub.id, TaskId: task, Data: data}}})
		}
		synctest.Wait()
		chunks, over := sub.take()
		if over || len(chunks) != subscriptionBytes/maxLogChunk+1 || !strings.HasPrefix(chunks[len(chunks)-1].Error, "10 pieces of output were dropped") {
			t.Errorf("%d chunks, over %v, last %q", len(chunks), over, chunks[len(chunks)-1].Error)
		}
		c.cancel()
		<-c.done
		chunks, over = sub.take()
		if !over || len(chunks) != 1 || !chunks[0].Eof || !strings.Contains(chunks[0].Error, "disconnected") {
			t.Errorf("chunks %v, over %v", chunks, over)
		}
		w.d.unsubscribe(sub)
	})
}
