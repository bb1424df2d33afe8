package control_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/events"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	ref     = "registry.example/app:1"
)

// world is a server over a real store, with a registry and log sources of the
// test.
type world struct {
	t     *testing.T
	api   *control.Server
	store *raftstore.Store
	ca    *pkitest.CA

	manager, worker string

	mu       sync.Mutex
	registry map[string]string                  // reference → digest
	evidence map[string][][]byte                // beside images, by digest
	logs     map[string][]*schedulerpb.LogChunk // by task
	asked    []dispatcher.LogRequest
	sessions []dispatcher.SessionInfo
	ends     meshEnds
	issued   map[string][]*pkipb.IssuedCertificate // by identity or node
	going    func()                                // when set, is called before it
	noIssued func() error                          // when set, answers in place of issued of nodes
}

// IssuedFor and IssuedTo are the leader's memory of certificates of workloads.
func (w *world) IssuedFor(identity string) ([]*pkipb.IssuedCertificate, error) {
	return w.issued[identity], nil
}
func (w *world) IssuedTo(node string) ([]*pkipb.IssuedCertificate, error) {
	if w.going != nil {
		w.going()
	}
	if w.noIssued != nil {
		return nil, w.noIssued()
	}
	return w.issued[node], nil
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ca: pkitest.New(t), registry: map[string]string{ref: digestA}, logs: map[string][]*schedulerpb.LogChunk{}}
	w.store = schedulertest.NewStore(t, slices.Concat(pkistore.Tables(), autolockstore.Tables(), secretstore.Tables())...)
	w.api = control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Minter: w.ca, Inviter: w.ca, Images: w, Logs: w, Execs: w, Mesh: &w.ends, Workloads: w,
		Sessions: func() []dispatcher.SessionInfo { return w.sessions }, Events: events.New(w.store, slog.New(slog.DiscardHandler)), Logger: slog.New(slog.DiscardHandler)})
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error { return pkistore.Cluster.Put(tx, w.ca.Cluster()) })
	w.manager, w.worker = w.addNode("manager-1", true), w.addNode("worker-1", false)
	w.sessions = []dispatcher.SessionInfo{{NodeID: w.manager}, {NodeID: w.worker}}
	return w
}

func (w *world) addNode(name string, manager bool) string {
	w.t.Helper()
	role := profilepb.Role_ROLE_WORKER
	if manager {
		role = profilepb.Role_ROLE_MANAGER
	}
	n := w.ca.NewNode(w.t, role)
	n.Record.Name, n.Record.Address = name, name+":2377"
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		if err := pkistore.Nodes.Put(tx, n.Record); err != nil {
			return err
		}
		return schedstore.RegisterNode(tx, n.Record.Id, manager)
	})
	w.describe(n.Record.Id, func(d *schedulerpb.NodeDescription) { d.Hostname = name })
	w.state(n.Record.Id, schedulerpb.NodeState_NODE_STATE_READY, "")
	return n.Record.Id
}

func (w *world) describe(id string, change func(*schedulerpb.NodeDescription)) {
	w.t.Helper()
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		n, _ := schedstore.Nodes.Get(tx, id)
		d := proto.CloneOf(n.GetDescription())
		if d == nil {
			d = &schedulerpb.NodeDescription{Os: "linux", Arch: "amd64"}
		}
		change(d)
		return schedstore.UpdateDescription(tx, id, d)
	})
}

func (w *world) load(id, digest string) {
	w.t.Helper()
	w.describe(id, func(d *schedulerpb.NodeDescription) { d.LoadedImages = map[string]string{ref: digest} })
}

func (w *world) state(id string, s schedulerpb.NodeState, message string) {
	w.t.Helper()
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error { return schedstore.SetNodeState(tx, id, s, message, "") })
}

// Resolve is the registry.
func (w *world) Resolve(_ context.Context, reference string) (string, []string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.registry[reference]; d != "" {
		return d, []string{"linux/amd64", "linux/arm64"}, nil
	}
	return "", nil, errors.New("image " + reference + " is not in its registry: push it, or correct the name")
}

func (w *world) spec(name string) *schedulerpb.ServiceSpec {
	sp := schedulertest.Spec(name, 2)
	sp.Task.Container.Digest = ""
	return sp
}

func (w *world) create(sp *schedulerpb.ServiceSpec) string {
	w.t.Helper()
	r, err := w.api.CreateService(w.t.Context(), &controlpb.CreateServiceRequest{Spec: sp})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetId()
}

func (w *world) service(id string) *controlpb.ServiceView {
	w.t.Helper()
	r, err := w.api.ListServices(w.t.Context(), &controlpb.ListServicesRequest{Services: []string{id}})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Services[0]
}

// wantReason checks a refusal as callers get it: one line of that reason.
func wantReason(t *testing.T, err error, reason apierr.Reason, text string) {
	t.Helper()
	unary, _ := control.Interceptors(slog.New(slog.DiscardHandler))
	_, shown := unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/m"}, func(context.Context, any) (any, error) { return nil, err })
	if apierr.ReasonOf(shown) != reason || !strings.Contains(shown.Error(), text) || strings.Contains(shown.Error(), "\n") {
		t.Errorf("got %v (%s), want %s with %q", shown, apierr.ReasonOf(shown), reason, text)
	}
}

// TestEveryCallHasItsCallers: an RPC without a rule is refused, so there must
// be none.
func TestEveryCallHasItsCallers(t *testing.T) {
	if err := authz.CheckAll("redoubt.control.v1.Control", "redoubt.control.v1.Bootstrap", "redoubt.scheduler.v1.Dispatcher",
		"redoubt.pki.v1.Join", "redoubt.pki.v1.Renew", "redoubt.pki.v1.Lock"); err != nil {
		t.Error(err)
	}
}

// serverStream collects what a handler sends.
type serverStream[T any] struct {
	grpc.ServerStream
	ctx context.Context
	out chan T
}

func (s *serverStream[T]) Context() context.Context { return s.ctx }

func (s *serverStream[T]) Send(m T) error {
	select {
	case s.out <- m:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// stream runs a handler; next gives what it sends, and wait its end.
func stream[T any](t *testing.T, run func(*serverStream[T]) error) (next func() T, wait func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &serverStream[T]{ctx: ctx, out: make(chan T)}
	done := make(chan error, 1)
	go func() { done <- run(s) }()
	var end error
	wait = sync.OnceValue(func() error {
		for {
			select {
			case <-s.out:
			case end = <-done:
				return end
			}
		}
	})
	t.Cleanup(func() { cancel(); wait() })
	return func() T {
		t.Helper()
		select {
		case m := <-s.out:
			return m
		case err := <-done:
			done <- err
			t.Fatalf("the stream ended: %v", err)
			panic("unreachable")
		}
	}, wait
}

// What went wrong inside is not for callers.
func TestInternalErrorsAreNotShown(t *testing.T) {
	wantReason(t, errors.New("bolt: page 7 of /secret/path"), apierr.ReasonInternal, "internal error (request ")
	wantReason(t, raftstore.ErrNotLeader, apierr.ReasonNoLeader, "no leader")
	wantReason(t, raftstore.ErrUncertain, apierr.ReasonTimeout, "may still take effect")
	wantReason(t, raftstore.ErrTooLarge, apierr.ReasonInvalid, "too large")
}
