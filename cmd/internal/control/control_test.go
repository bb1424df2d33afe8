package control_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/autolockpb"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	autolockstore "github.com/redoubt-cluster/redoubt/autolock/store"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/events"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/dispatcher"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulertest"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
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
	logs     map[string][]*schedulerpb.LogChunk // by task
	asked    []dispatcher.LogRequest
	sessions []dispatcher.SessionInfo
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ca: pkitest.New(t), registry: map[string]string{ref: digestA}, logs: map[string][]*schedulerpb.LogChunk{}}
	w.store = schedulertest.NewStore(t, slices.Concat(pkistore.Tables(), autolockstore.Tables(), secretstore.Tables())...)
	w.api = control.New(control.Config{Store: w.store, ClusterID: w.ca.ClusterID, Minter: w.ca, Images: w, Logs: w,
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

// Logs gives what was set of each task, then its end.
func (w *world) Logs(_ context.Context, r dispatcher.LogRequest) iter.Seq2[*schedulerpb.LogChunk, error] {
	w.mu.Lock()
	w.asked = append(w.asked, r)
	var out []*schedulerpb.LogChunk
	for _, id := range r.TaskIDs {
		out = append(out, w.logs[id]...)
	}
	w.mu.Unlock()
	return func(yield func(*schedulerpb.LogChunk, error) bool) {
		for _, c := range out {
			if !yield(c, nil) {
				return
			}
		}
	}
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

func TestServices(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	if v := w.service("web"); v.GetService().GetSpec().GetTask().GetContainer().GetDigest() != digestA || v.GetWanted() != 2 {
		t.Errorf("stored %v", v)
	}
	_, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.spec("web")})
	wantReason(t, err, apierr.ReasonExists, `"web" exists already`)
	_, err = w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{})
	wantReason(t, err, apierr.ReasonInvalid, "no service in it")

	// An image that did not change keeps its digest, whatever the registry says.
	w.registry[ref] = digestB
	update := func(version uint64, change func(*schedulerpb.ServiceSpec)) error {
		sp := w.spec("web")
		change(sp)
		_, err := w.api.UpdateService(t.Context(), &controlpb.UpdateServiceRequest{Service: id, Version: version, Spec: sp})
		return err
	}
	version := w.service(id).GetService().GetMeta().GetVersion()
	if err := update(version, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 3 }); err != nil {
		t.Fatal(err)
	}
	if v := w.service(id); v.GetService().GetSpec().GetTask().GetContainer().GetDigest() != digestA || v.GetWanted() != 3 {
		t.Errorf("after scaling: %v", v)
	}
	wantReason(t, update(version, func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 4 }), apierr.ReasonConflict, "changed by somebody else")
	version = w.service(id).GetService().GetMeta().GetVersion()
	wantReason(t, update(version, func(sp *schedulerpb.ServiceSpec) { sp.Name = "other" }), apierr.ReasonInvalid, "cannot be renamed")
	wantReason(t, update(version, func(sp *schedulerpb.ServiceSpec) {
		sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	}), apierr.ReasonInvalid, "mode of a service")
	if err := update(version, func(sp *schedulerpb.ServiceSpec) { sp.Task.Force++ }); err != nil {
		t.Fatal(err)
	}
	if got := w.service(id).GetService().GetSpec().GetTask().GetContainer().GetDigest(); got != digestB {
		t.Errorf("forced, the digest is %s", got)
	}

	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: "web"})
	wantReason(t, err, apierr.ReasonNotFound, `no service "web"`)
	wantReason(t, update(version, func(*schedulerpb.ServiceSpec) {}), apierr.ReasonNotFound, "no service")
}

// What the command line would never send is refused as well.
func TestSpecsPastTheCommandLine(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*schedulerpb.ServiceSpec){
		"name":     func(sp *schedulerpb.ServiceSpec) { sp.Name = "../../etc" },
		"long":     func(sp *schedulerpb.ServiceSpec) { sp.Name = strings.Repeat("a", 1000) },
		"replicas": func(sp *schedulerpb.ServiceSpec) { sp.GetReplicated().Replicas = 1 << 63 },
		"env":      func(sp *schedulerpb.ServiceSpec) { sp.Task.Container.Env = []string{"no equals"} },
		"much env": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Container.Env = []string{"A=" + strings.Repeat("x", 1<<20)}
		},
		"label": func(sp *schedulerpb.ServiceSpec) { sp.Labels = map[string]string{"a": strings.Repeat("x", 1<<16)} },
		"mount": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Container.Mounts = []*taskpb.Mount{{Type: taskpb.Mount_TYPE_BIND, Source: "/a/../etc", Target: "/x"}}
		},
		"port": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Ports = []*taskpb.Port{{Published: 70000, Target: 80, Mode: taskpb.Port_MODE_HOST}}
		},
		"ingress": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.Ports = []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}
		},
		"constraint": func(sp *schedulerpb.ServiceSpec) { sp.Task.Constraints = []string{"node.secret==1"} },
		"memory":     func(sp *schedulerpb.ServiceSpec) { sp.Task.Limits = &taskpb.Resources{MemoryBytes: -1} },
		"unknown": func(sp *schedulerpb.ServiceSpec) {
			sp.Task.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
		},
		"nothing": func(sp *schedulerpb.ServiceSpec) { sp.Task = nil },
	} {
		sp := w.spec("web")
		change(sp)
		_, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: sp})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantReason(t, err, apierr.ReasonInvalid, "")
	}
}

// TestImages: who is believed about what an image is.
func TestImages(t *testing.T) {
	for name, tc := range map[string]struct {
		manager, worker, registry string
		want, warn, refusal       string
	}{
		"registry":                  {registry: digestA, want: digestA},
		"manager before registry":   {manager: digestB, registry: digestA, want: digestB},
		"registry before worker":    {worker: digestB, registry: digestA, want: digestA, warn: "not used"},
		"manager before worker":     {manager: digestA, worker: digestB, want: digestA, warn: "not used"},
		"only a worker":             {worker: digestB, want: digestB, warn: "on the word of workers only (worker-1)"},
		"nobody":                    {refusal: "is not in its registry: push it, or correct the name"},
		"manager, worker and agree": {manager: digestA, worker: digestA, want: digestA},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.registry[ref] = tc.registry
			if tc.manager != "" {
				w.load(w.manager, tc.manager)
			}
			if tc.worker != "" {
				w.load(w.worker, tc.worker)
			}
			r, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.spec("web")})
			if tc.refusal != "" {
				wantReason(t, err, apierr.ReasonState, tc.refusal)
				if strings.Count(err.Error(), ref) != 1 || strings.Contains(err.Error(), "check the name") {
					t.Errorf("the refusal repeats itself: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := w.service("web").GetService().GetSpec().GetTask().GetContainer().GetDigest(); got != tc.want {
				t.Errorf("pinned %s, want %s", got, tc.want)
			}
			if warned := strings.Join(r.GetWarnings(), "; "); (tc.warn == "") != (warned == "") || !strings.Contains(warned, tc.warn) {
				t.Errorf("warnings %q, want %q", warned, tc.warn)
			}
		})
	}
	w := newWorld(t)
	other := w.addNode("manager-2", true)
	w.load(w.manager, digestA)
	w.load(other, digestB)
	_, err := w.api.CreateService(t.Context(), &controlpb.CreateServiceRequest{Spec: w.spec("web")})
	wantReason(t, err, apierr.ReasonState, "not the same on manager-1 and on manager-2")
	sp := w.spec("pinned")
	sp.Task.Container.Image = ref + "@" + digestB
	if id := w.create(sp); w.service(id).GetService().GetSpec().GetTask().GetContainer().GetDigest() != digestB {
		t.Error("the digest in the reference does not count")
	}
}

// A global service wants a task on every node that may have one, before the
// first is made, and keeps that of a paused node.
func TestWantedOfGlobalServices(t *testing.T) {
	w := newWorld(t)
	sp := w.spec("edge")
	sp.Mode = &schedulerpb.ServiceSpec_Global{Global: &schedulerpb.Global{}}
	id := w.create(sp)
	want := func(n uint64, when string) {
		t.Helper()
		if got := w.service(id).GetWanted(); got != n {
			t.Errorf("%s: %d wanted, want %d", when, got, n)
		}
	}
	want(1, "at first") // the manager is drained: there is a worker
	second := w.addNode("worker-2", false)
	want(2, "with a second worker")
	schedulertest.Run(t, w.store)
	schedulertest.Agents(t, w.store)
	schedulertest.Await(t, w.store, schedulertest.Running(id, 2))
	pause := func(a schedulerpb.Availability) {
		t.Helper()
		if _, err := w.api.UpdateNode(t.Context(), &controlpb.UpdateNodeRequest{Node: second, Availability: a}); err != nil {
			t.Fatal(err)
		}
	}
	pause(schedstore.Pause)
	want(2, "with one paused")
	pause(schedstore.Drain)
	schedulertest.Await(t, w.store, schedulertest.Running(id, 1))
	want(1, "with one drained")
	r, err := w.api.ListTasks(t.Context(), &controlpb.ListTasksRequest{Services: []string{"edge"}, Node: "worker-1"})
	if err != nil || len(r.GetTasks()) != 1 || r.GetTasks()[0].GetNodeName() != "worker-1" || r.GetTasks()[0].GetImage() != ref {
		t.Errorf("%v %v", r, err)
	}
}

func TestNodes(t *testing.T) {
	w := newWorld(t)
	ctx := authz.NewContext(t.Context(), authz.Identity{LocalRoot: true, LocalRootOf: w.manager})
	r, err := w.api.ListNodes(ctx, &controlpb.ListNodesRequest{})
	if err != nil || len(r.GetNodes()) != 2 || r.GetSelf() != w.manager {
		t.Fatalf("%v %v", r, err)
	}
	m := r.GetNodes()[0]
	if m.GetName() != "manager-1" || !m.GetManager().GetReachable() || m.GetEffective() != schedstore.Drain {
		t.Errorf("%v", m)
	}
	if created := m.GetNode().GetMeta().GetCreatedAt() / 1e9; m.GetJoinedAt() < created-5 || m.GetJoinedAt() > created+5 {
		t.Errorf("joined at %d, which is not %d in seconds", m.GetJoinedAt(), created)
	}

	// A manager without its helpers is there, and not ready.
	w.state(w.manager, schedulerpb.NodeState_NODE_STATE_NOT_READY, "it cannot run tasks: netd does not answer")
	st, err := w.api.GetStatus(t.Context(), &controlpb.GetStatusRequest{})
	if err != nil || st.GetNodesReady() != 1 || !st.GetManagers()[0].GetReachable() ||
		!slices.ContainsFunc(st.GetWarnings(), func(s string) bool { return strings.Contains(s, "manager-1 is not ready, it cannot run tasks: netd") }) {
		t.Errorf("%v %v", st, err)
	}

	update := func(req *controlpb.UpdateNodeRequest) error {
		_, err := w.api.UpdateNode(t.Context(), req)
		return err
	}
	if err := update(&controlpb.UpdateNodeRequest{Node: "worker-1", LabelAdd: map[string]string{"disk": "ssd"}}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", Availability: schedstore.Auto}), apierr.ReasonInvalid, "auto is for managers")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", Availability: 77}), apierr.ReasonInvalid, "unknown")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", LabelRm: []string{"none"}}), apierr.ReasonInvalid, "no label")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1", LabelAdd: map[string]string{"": "x"}}), apierr.ReasonInvalid, "label")
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "nobody"}), apierr.ReasonNotFound, "no node")
	w.addNode("worker-1", false)
	wantReason(t, update(&controlpb.UpdateNodeRequest{Node: "worker-1"}), apierr.ReasonAmbiguous, "more than one node")

	remove := func(node string, force bool) error {
		_, err := w.api.RemoveNode(t.Context(), &controlpb.RemoveNodeRequest{Node: node, Force: force})
		return err
	}
	wantReason(t, remove("manager-1", true), apierr.ReasonState, "last manager")
	wantReason(t, remove(w.worker, false), apierr.ReasonState, "is up")
	w.state(w.worker, schedulerpb.NodeState_NODE_STATE_NOT_READY, "")
	wantReason(t, remove(w.worker, false), apierr.ReasonState, "is up")
	if err := remove(w.worker, true); err != nil {
		t.Fatal(err)
	}
	wantReason(t, remove(w.worker, true), apierr.ReasonNotFound, "no node")
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	tok := pki.NewToken()
	create := func(change func(*controlpb.CreateTokenRequest)) (*controlpb.CreateTokenResponse, error) {
		req := &controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_WORKER, Id: tok.ID(), PublicKey: tok.PublicKey()}
		change(req)
		return w.api.CreateToken(t.Context(), req)
	}
	for name, change := range map[string]func(*controlpb.CreateTokenRequest){
		"negative": func(r *controlpb.CreateTokenRequest) { r.TtlSeconds = -1 },
		"endless":  func(r *controlpb.CreateTokenRequest) { r.TtlSeconds = 1 << 60 },
		"role":     func(r *controlpb.CreateTokenRequest) { r.Role = profilepb.Role_ROLE_BOOT },
		"id":       func(r *controlpb.CreateTokenRequest) { r.Id = "../x" },
		"key":      func(r *controlpb.CreateTokenRequest) { r.PublicKey = []byte("short") },
		"cidr":     func(r *controlpb.CreateTokenRequest) { r.Cidr = "everywhere" },
		"manager for ever": func(r *controlpb.CreateTokenRequest) {
			r.Role, r.LongLived = profilepb.Role_ROLE_MANAGER, true
		},
	} {
		if _, err := create(change); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantReason(t, err, apierr.ReasonInvalid, "")
		}
	}
	r, err := create(func(*controlpb.CreateTokenRequest) {})
	if err != nil || r.GetClusterId() != w.ca.ClusterID || string(r.GetRootSpkiSha256()) != string(w.ca.Pin()) ||
		!slices.Equal(r.GetManagers(), []string{"manager-1:2377"}) {
		t.Fatalf("%v %v", r, err)
	}
	if _, err := w.api.RevokeToken(t.Context(), &controlpb.RevokeTokenRequest{Id: tok.ID()}); err != nil {
		t.Fatal(err)
	}
	l, err := w.api.ListTokens(t.Context(), &controlpb.ListTokensRequest{})
	if err != nil || len(l.GetTokens()) != 1 || !l.GetTokens()[0].GetRevoked() {
		t.Errorf("%v %v", l, err)
	}
	_, err = w.api.RevokeToken(t.Context(), &controlpb.RevokeTokenRequest{Id: ident.New()})
	wantReason(t, err, apierr.ReasonNotFound, "")
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

// putTask stores a task of the service and what its node will say of its output.
func (w *world) putTask(service string, slot uint32, state schedulerpb.TaskState, lines ...string) string {
	w.t.Helper()
	id := ident.New()
	w.mu.Lock()
	for i, l := range lines {
		w.logs[id] = append(w.logs[id], &schedulerpb.LogChunk{TaskId: id, At: int64(i + 1), Data: []byte(l)})
	}
	w.logs[id] = append(w.logs[id], &schedulerpb.LogChunk{TaskId: id, Eof: true})
	w.mu.Unlock()
	schedulertest.Update(w.t, w.store, func(tx *raftstore.Tx) error {
		return schedstore.PutTask(tx, &schedulerpb.Task{Id: id, ServiceId: service, Slot: slot, Revision: 1, NodeId: w.worker, Desired: schedstore.Running,
			Status: &schedulerpb.TaskStatus{State: state, ContainerId: "c"}})
	})
	return id
}

func TestServiceLogs(t *testing.T) {
	w := newWorld(t)
	id := w.create(w.spec("web"))
	read := func(req *controlpb.ServiceLogsRequest) (func() *controlpb.ServiceLogsResponse, func() error) {
		return stream(t, func(s *serverStream[*controlpb.ServiceLogsResponse]) error { return w.api.ServiceLogs(req, s) })
	}
	_, wait := read(&controlpb.ServiceLogsRequest{Target: "web"})
	wantReason(t, wait(), apierr.ReasonNotFound, "no task whose output")
	_, wait = read(&controlpb.ServiceLogsRequest{Target: "web.7"})
	wantReason(t, wait(), apierr.ReasonNotFound, "no task")
	_, wait = read(&controlpb.ServiceLogsRequest{Target: "none"})
	wantReason(t, wait(), apierr.ReasonNotFound, "no service")

	w.putTask(id, 1, schedstore.Running, "one")
	w.putTask(id, 2, schedstore.Failed, "last words")
	next, wait := read(&controlpb.ServiceLogsRequest{Target: "web", Tail: 10})
	said := map[string]string{}
	for range 2 {
		m := next()
		said[m.GetTaskName()] += string(m.GetData())
		if m.GetNodeName() != "worker-1" {
			t.Errorf("%v", m)
		}
	}
	if want := map[string]string{"web.1": "one", "web.2": "last words"}; !maps.Equal(said, want) {
		t.Errorf("said %v, want %v", said, want)
	}
	if err := wait(); err != nil {
		t.Error(err)
	}

	// Followed, a task that is begun later is read too, once and whole.
	next, wait = read(&controlpb.ServiceLogsRequest{Target: "web", Follow: true, Tail: 10, Since: 5})
	next()
	next()
	late := w.putTask(id, 3, schedstore.Running, "late")
	if m := next(); m.GetTaskId() != late || string(m.GetData()) != "late" {
		t.Errorf("%v", m)
	}
	w.mu.Lock()
	if a := w.asked[len(w.asked)-1]; a.Tail != -1 || a.Since != 0 || !a.Follow || !slices.Equal(a.TaskIDs, []string{late}) {
		t.Errorf("asked %+v", a)
	}
	w.mu.Unlock()
	if _, err := w.api.RemoveService(t.Context(), &controlpb.RemoveServiceRequest{Service: id}); err != nil {
		t.Fatal(err)
	}
	if err := wait(); err != nil {
		t.Errorf("after the removal: %v", err)
	}
}

func newSlot() *keydpb.Slot {
	key := autolock.NewOperatorKey()
	return key.Slot()
}

func TestRotateSlot(t *testing.T) {
	w := newWorld(t)
	schedulertest.Update(t, w.store, func(tx *raftstore.Tx) error {
		return autolockstore.Slots.Put(tx, &autolockpb.SlotRecord{Id: autolockstore.RecordID,
			Set: &keydpb.SlotSet{Epoch: 1, Slots: []*keydpb.Slot{newSlot()}}})
	})
	rotate := func(slot *keydpb.Slot) (func() *controlpb.RotateSlotResponse, func() error) {
		return stream(t, func(s *serverStream[*controlpb.RotateSlotResponse]) error {
			return w.api.RotateSlot(&controlpb.RotateSlotRequest{Slot: slot}, s)
		})
	}
	_, wait := rotate(&keydpb.Slot{Id: "x"})
	wantReason(t, wait(), apierr.ReasonInvalid, "slot")
	_, wait = rotate(newSlot())
	wantReason(t, wait(), apierr.ReasonState, "has not finished the rotation before")
	w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.SlotEpoch = 1 })
	w.sessions = nil
	_, wait = rotate(newSlot())
	wantReason(t, wait(), apierr.ReasonState, "manager-1 is away")
	w.sessions = []dispatcher.SessionInfo{{NodeID: w.manager}}
	next, wait := rotate(newSlot())
	if m := next(); m.GetEpoch() != 2 || m.GetDone() {
		t.Errorf("%v", m)
	}
	w.describe(w.manager, func(d *schedulerpb.NodeDescription) { d.SlotEpoch = 2 })
	for m := next(); !m.GetDone(); m = next() {
	}
	if err := wait(); err != nil {
		t.Error(err)
	}
	l, err := w.api.ListSlots(t.Context(), &controlpb.ListSlotsRequest{})
	if err != nil || l.GetSlots().GetEpoch() != 2 || len(l.GetSlots().GetSlots()) != 1 || l.GetManagers()[0].GetEpoch() != 2 {
		t.Errorf("%v %v", l, err)
	}
}

// What went wrong inside is not for callers.
func TestInternalErrorsAreNotShown(t *testing.T) {
	wantReason(t, errors.New("bolt: page 7 of /secret/path"), apierr.ReasonInternal, "internal error (request ")
	wantReason(t, raftstore.ErrNotLeader, apierr.ReasonNoLeader, "no leader")
	wantReason(t, raftstore.ErrUncertain, apierr.ReasonTimeout, "may still take effect")
	wantReason(t, raftstore.ErrTooLarge, apierr.ReasonInvalid, "too large")
}
