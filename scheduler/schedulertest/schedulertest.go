// Package schedulertest gives tests a store with the scheduler's tables, nodes
// to put into it, and a fleet of agents that do at once what their nodes are
// told. The store, the transactions and the scheduler are the real ones; only
// the containers are not there.
package schedulertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/raftstore/raftstoretest"
	"github.com/redoubt-cluster/redoubt/scheduler"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// awaitTimeout is generous: it only ends tests that would hang.
const awaitTimeout = 60 * time.Second

// NewStore returns a leading store with the scheduler's tables, the mesh's, and
// more.
func NewStore(t testing.TB, more ...raftstore.Registered) *raftstore.Store {
	t.Helper()
	return raftstoretest.New(t, slices.Concat(store.Tables(), meshstore.Tables(), more)...)
}

// NewCluster is NewStore with identities and the record of cluster "c", of which
// ingress networks have their addresses.
func NewCluster(t testing.TB, more ...raftstore.Registered) *raftstore.Store {
	t.Helper()
	s := NewStore(t, slices.Concat(pkistore.Tables(), more)...)
	Update(t, s, func(tx *raftstore.Tx) error {
		return pkistore.Cluster.Put(tx, &pkipb.Cluster{Id: pkistore.ClusterID, ClusterId: "c"})
	})
	return s
}

// Spec is a valid spec of a replicated service.
func Spec(name string, replicas uint64) *schedulerpb.ServiceSpec {
	return &schedulerpb.ServiceSpec{
		Name: name,
		Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: replicas}},
		Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{
			Image: "registry.example/app:1", Digest: "sha256:" + strings.Repeat("0f", 32),
		}},
	}
}

// GlobalSpec is a valid spec of a global service.
func GlobalSpec(name string) *schedulerpb.ServiceSpec {
	sp := Spec(name, 0)
	sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	return sp
}

// JobSpec is a valid spec of a replicated job.
func JobSpec(name string, concurrent, completions uint64) *schedulerpb.ServiceSpec {
	sp := Spec(name, 0)
	sp.Mode = &schedulerpb.ServiceSpec_ReplicatedJob{ReplicatedJob: &schedulerpb.ReplicatedJob{MaxConcurrent: concurrent, TotalCompletions: completions}}
	return sp
}

// GlobalJobSpec is a valid spec of a global job.
func GlobalJobSpec(name string) *schedulerpb.ServiceSpec {
	sp := Spec(name, 0)
	sp.Mode = &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}
	return sp
}

// Update runs a transaction that must succeed.
func Update(t testing.TB, s *raftstore.Store, fn func(tx *raftstore.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// AddNode registers a node that is ready, with 4 cores and 8 GiB.
func AddNode(t testing.TB, s *raftstore.Store, manager bool) string {
	t.Helper()
	id := ident.New()
	Update(t, s, func(tx *raftstore.Tx) error {
		if err := store.RegisterNode(tx, id, manager); err != nil {
			return err
		}
		if err := store.UpdateDescription(tx, id, &schedulerpb.NodeDescription{
			Hostname: "host-" + id[:6], Os: "linux", Arch: "amd64",
			Resources: &taskpb.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
			Features:  []*taskpb.Feature{{Name: "mesh", Present: true}},
		}); err != nil {
			return err
		}
		return store.SetNodeState(tx, id, schedulerpb.NodeState_NODE_STATE_READY, "", "127.0.0.1")
	})
	return id
}

// SetState records a node as up or down.
func SetState(t testing.TB, s *raftstore.Store, id string, state schedulerpb.NodeState) {
	t.Helper()
	Update(t, s, func(tx *raftstore.Tx) error { return store.SetNodeState(tx, id, state, "", "") })
}

// Await waits until cond holds, looking at every change of the scheduler's tables. It
// fails the test with what cond said last.
func Await(t testing.TB, s *raftstore.Store, cond func(r raftstore.Reader) error) {
	t.Helper()
	raftstoretest.Await(t, s, cond, store.Tables()...)
}

// Running wants exactly n running tasks of the service, all on nodes that are
// not down, and no other live ones.
func Running(serviceID string, n int) func(raftstore.Reader) error {
	return func(r raftstore.Reader) error {
		running, live := 0, 0
		for t := range store.OfService(r, serviceID) {
			if store.Live(t) {
				live++
			}
			node, ok := store.Nodes.Get(r, t.GetNodeId())
			if store.State(t) == store.Running && ok && node.GetState() != schedulerpb.NodeState_NODE_STATE_DOWN {
				running++
			}
		}
		if running != n || live != n {
			return fmt.Errorf("%d tasks run and %d are live, %d wanted", running, live, n)
		}
		return nil
	}
}

// AwaitTasks waits until n tasks are as cond says. It follows the changes, so
// it may be used on large numbers, and while it waits costs what changes.
func AwaitTasks(t testing.TB, s *raftstore.Store, n int, cond func(*schedulerpb.Task) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), awaitTimeout)
	defer cancel()
	for {
		good := map[string]bool{}
		w, err := s.Watch(func(r *raftstore.ReadTx) error {
			for task := range store.Tasks.All(r) {
				if cond(task) {
					good[task.GetId()] = true
				}
			}
			return nil
		}, store.Tasks)
		if err != nil {
			t.Fatal(err)
		}
		var events []raftstore.Event
		for err == nil && len(good) != n {
			events, err = w.Next(ctx)
			for _, e := range events {
				if old, now, ok := store.Tasks.Event(e); ok && now != nil && cond(now) {
					good[now.GetId()] = true
				} else if ok {
					delete(good, cmp.Or(now, old).GetId())
				}
			}
		}
		w.Close()
		if err == nil {
			return
		}
		if err != raftstore.ErrLagged {
			t.Fatalf("%v: %d tasks are as wanted, not %d", err, len(good), n)
		}
	}
}

// Run starts the scheduler; the returned function stops it and waits for it. It
// is also stopped when the test ends.
func Run(t testing.TB, s *raftstore.Store) (stop func()) {
	t.Helper()
	return RunWith(t, scheduler.Config{Store: s})
}

// RunWith is Run of a scheduler that is configured so, and logs nothing.
func RunWith(t testing.TB, c scheduler.Config) (stop func()) {
	t.Helper()
	c.Logger = slog.New(slog.DiscardHandler)
	return start(t, func(ctx context.Context) error { return scheduler.Run(ctx, c) })
}

// Agents starts agents for every node there is and will be.
func Agents(t testing.TB, s *raftstore.Store) (stop func()) {
	t.Helper()
	return start(t, func(ctx context.Context) error {
		for ctx.Err() == nil {
			err := act(ctx, s)
			// A conflict: what it would report on changes faster than it can. It
			// looks at everything again, as after having been too slow.
			if err != nil && ctx.Err() == nil && !errors.Is(err, raftstore.ErrLagged) && !errors.Is(err, raftstore.ErrConflict) {
				return err
			}
		}
		return nil
	})
}

func start(t testing.TB, run func(context.Context) error) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("schedulertest: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// act does what agents do, from one watch, until it ends.
func act(ctx context.Context, s *raftstore.Store) error {
	var tasks []string
	w, err := s.Watch(func(r *raftstore.ReadTx) error {
		for t := range store.Tasks.All(r) {
			tasks = append(tasks, t.GetId())
		}
		return nil
	}, store.Tasks, store.Nodes)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		for len(tasks) > 0 {
			n := min(len(tasks), 200)
			if err := s.Update(ctx, func(tx *raftstore.Tx) error { return report(tx, tasks[:n]) }); err != nil {
				return err
			}
			tasks = tasks[n:]
		}
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if _, t, ok := store.Tasks.Event(e); ok && t != nil {
				tasks = append(tasks, t.GetId())
			}
		}
		err = s.View(func(r *raftstore.ReadTx) error {
			for _, e := range events {
				if _, n, ok := store.Nodes.Event(e); ok && n != nil {
					for t := range store.Tasks.By(r, "node", n.GetId()) {
						tasks = append(tasks, t.GetId())
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

func report(tx *raftstore.Tx, tasks []string) error {
	for _, id := range tasks {
		t, ok := store.Tasks.Get(tx, id)
		if !ok || t.GetNodeId() == "" || !store.Live(t) {
			continue
		}
		n, ok := store.Nodes.Get(tx, t.GetNodeId())
		if !ok || n.GetState() != schedulerpb.NodeState_NODE_STATE_READY {
			continue
		}
		state := store.Running
		if t.GetDesired() > store.Running {
			state = store.Shutdown
		}
		if store.State(t) == state {
			if t.GetIteration() == 0 {
				continue
			}
			state = store.Complete // that is what a job's task is there for
		}
		st := &schedulerpb.TaskStatus{State: state, At: tx.Now().UnixNano()}
		if err := store.AdvanceTask(tx, n.GetId(), id, st); err != nil {
			return err
		}
	}
	return nil
}
