package dispatcher

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
	"google.golang.org/protobuf/proto"
)

// world is a leading dispatcher over a real store, under fake time.
type world struct {
	t        *testing.T
	d        *Dispatcher
	store    *raftstore.Store
	log      *buffer
	stop     func()
	svc      string
	sealed   []SealItem
	unsealed error // what seal answers
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
		w := &world{t: t, store: raftstoretest.New(t, slices.Concat(store.Tables(), meshstore.Tables(), pkistore.Tables(), secretstore.Tables())...), log: &buffer{}}
		var err error
		w.d, err = New(Config{
			Store: w.store, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
			Managers: func() []string { return []string{"m1:2377"} },
			Seal:     w.seal, ClusterID: ident.New(),
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
