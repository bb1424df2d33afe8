package dispatcher

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func (w *world) seal(_ context.Context, req *schedulerpb.DeliverRequest, items []SealItem) ([][]byte, error) {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if w.unsealed != nil {
		return nil, w.unsealed
	}
	w.sealed = append(w.sealed, items...)
	return make([][]byte, len(items)), nil
}

// filed is a task with one secret and one config.
type filed struct{ service, secret, config, first, second string }

func (w *world) addFiled() (f filed) {
	f = filed{ident.New(), ident.New(), ident.New(), ident.New(), ident.New()}
	w.update(func(tx *raftstore.Tx) error {
		rev := &schedulerpb.Revision{Id: store.RevisionID(f.service, 1), ServiceId: f.service, Spec: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{
			Image: "web", Secrets: []*taskpb.FileUse{{Source: f.secret}}, Configs: []*taskpb.FileUse{{Source: f.config}}}}}
		return errors.Join(
			store.Revisions.Put(tx, rev),
			store.Services.Put(tx, &schedulerpb.Service{Id: f.service, Spec: &schedulerpb.ServiceSpec{Name: "web", Task: rev.Spec}}),
			secretstore.Secrets.Put(tx, &secretspb.Secret{Id: f.secret, Current: 1, Spec: &secretspb.SecretSpec{Name: "token", Kind: secretspb.SecretKind_SECRET_KIND_FILE},
				Versions: []*secretspb.VersionFacts{{Number: 1, Id: f.first}, {Number: 2, Id: f.second}}}),
			secretstore.SecretVersions.Put(tx, &secretspb.SecretVersion{Id: f.first, SecretId: f.secret, Number: 1, Sealed: &secretspb.SealedData{Data: []byte("d1"), Key: []byte("k1"), Epoch: 1}}),
			secretstore.SecretVersions.Put(tx, &secretspb.SecretVersion{Id: f.second, SecretId: f.secret, Number: 2, Sealed: &secretspb.SealedData{Data: []byte("d2"), Key: []byte("k2"), Epoch: 1}}),
			secretstore.Configs.Put(tx, &secretspb.Config{Id: f.config, Spec: &secretspb.ConfigSpec{Name: "site", Data: []byte("c")}}),
		)
	})
	return f
}

func (w *world) addFiledTask(f filed, node string) string {
	id := ident.New()
	w.update(func(tx *raftstore.Tx) error {
		return store.Tasks.Put(tx, &schedulerpb.Task{Id: id, ServiceId: f.service, Slot: 1, Revision: 1, NodeId: node,
			Desired: store.Running, Status: &schedulerpb.TaskStatus{State: store.Assigned}})
	})
	return id
}

func (w *world) makeCurrent(f filed, number uint64) {
	w.update(func(tx *raftstore.Tx) error {
		s, _ := secretstore.Secrets.Get(tx, f.secret)
		s = proto.CloneOf(s)
		s.Current = number
		return secretstore.Secrets.Put(tx, s)
	})
}

// TestSealerIsRequired: nobody has a dispatcher that could not seal what it delivers.
func TestSealerIsRequired(t *testing.T) {
	inWorld(t, func(w *world) {
		for name, c := range map[string]Config{
			"no store":   {Seal: w.seal, ClusterID: ident.New()},
			"no sealer":  {Store: w.store, ClusterID: ident.New()},
			"no cluster": {Store: w.store, Seal: w.seal},
		} {
			if _, err := New(c); err == nil {
				t.Error("accepted: " + name)
			}
		}
	})
}

// TestFilesReachTasks: a task begins once it has its secrets and configs, gets another
// version while it runs, and its record says which it has. Without keyd it does not
// begin, and says why.
func TestFilesReachTasks(t *testing.T) {
	inWorld(t, func(w *world) {
		f, h := w.addFiled(), w.addHost()
		other := w.addHost()
		w.unsealed = errors.New("keyd is away")
		task := w.addFiledTask(f, h.id)
		w.settle(3 * time.Second)
		if st := w.task(task).GetStatus(); st.GetState() >= store.Running || !strings.Contains(st.GetMessage(), "keyd is away") {
			t.Fatalf("without keyd the task is %v", st)
		}
		w.log.mu.Lock()
		w.unsealed = nil
		w.log.mu.Unlock()
		w.settle(20 * time.Second)
		has := func(version string) {
			t.Helper()
			st := w.task(task).GetStatus()
			want := []*taskpb.FileVersion{{ObjectId: f.secret, VersionId: version}, {ObjectId: f.config, VersionId: f.config}}
			if st.GetState() != store.Running || !slices.EqualFunc(st.GetFiles(), want, func(a, b *taskpb.FileVersion) bool { return proto.Equal(a, b) }) {
				t.Fatalf("the task is %v, want %v", st, want)
			}
		}
		has(f.first)
		w.makeCurrent(f, 2)
		w.settle(time.Second)
		has(f.second)
		w.makeCurrent(f, 1)
		w.settle(time.Second)
		has(f.first)
		if n := h.rund.Starts(task); n != 1 {
			t.Errorf("it was started %d times", n)
		}
		h.stop() // another version comes while the agent is away
		w.makeCurrent(f, 2)
		h.start()
		w.settle(10 * time.Second)
		has(f.second)
		for _, i := range w.sealed {
			if i.TaskID != task || i.ServiceID != f.service || i.SecretID != f.secret || i.Registry {
				t.Errorf("sealed for %+v", i)
			}
		}
		h.end()
		other.end()
	})
}

// deliveries collects what a call of Deliver sends.
type deliveries struct {
	grpc.ServerStream
	ctx  context.Context
	sent []*schedulerpb.DeliverResponse
}

func (d *deliveries) Context() context.Context { return d.ctx }
func (d *deliveries) Send(m *schedulerpb.DeliverResponse) error {
	d.sent = append(d.sent, m)
	return nil
}

func (w *world) deliver(node string, tasks ...string) ([]*schedulerpb.DeliverResponse, error) {
	d := &deliveries{ctx: authz.NewContext(w.t.Context(), authz.Identity{NodeID: node})}
	err := w.d.Deliver(&schedulerpb.DeliverRequest{TaskIds: tasks}, d)
	return d.sent, err
}

// TestDeliverRefuses: only the node that a task is assigned to gets what it has, and
// only while that is to run.
func TestDeliverRefuses(t *testing.T) {
	inWorld(t, func(w *world) {
		f, node, other := w.addFiled(), w.addNode(), w.addNode()
		task := w.addFiledTask(f, node)
		if _, err := w.deliver(node, task); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("without a session: %v", err)
		}
		for _, n := range []string{node, other} {
			w.session(n)
		}
		got, err := w.deliver(node, task)
		if err != nil || len(got) != 2 || got[0].GetError() != "" || string(got[0].GetFile().GetData()) != "d1" || got[0].Facts != nil ||
			!got[1].GetFile().GetConfig() || got[1].GetFacts().GetServiceName() != "web" || got[1].GetFacts().GetNodeId() != node {
			t.Fatalf("%v, %v", got, err)
		}
		refused := func(when, node, task, want string) {
			t.Helper()
			before := len(w.sealed)
			got, err := w.deliver(node, task)
			if err != nil || len(got) != 1 || !strings.Contains(got[0].GetError(), want) || got[0].File != nil || len(w.sealed) != before {
				t.Errorf("%s: %v, %v; want %q", when, got, err, want)
			}
		}
		refused("another node", other, task, "not assigned to this node")
		refused("no task", node, ident.New(), "not assigned to this node")
		refused("a task without", node, w.addTask(node), "not assigned") // its service has no record here
		for _, bad := range [][]string{nil, {"x"}, {task, task}, make([]string, maxDelivered+1)} {
			if _, err := w.deliver(node, bad...); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%d tasks: %v", len(bad), err)
			}
		}
		if err := w.d.Deliver(&schedulerpb.DeliverRequest{TaskIds: []string{task}}, &deliveries{ctx: t.Context()}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("nobody: %v", err)
		}
		w.update(func(tx *raftstore.Tx) error { return secretstore.SecretVersions.Delete(tx, f.first) })
		refused("a version that is gone", node, task, "version 1 of the secret token is not there")
		w.makeCurrent(f, 2)
		if got, err := w.deliver(node, task); err != nil || len(got) != 2 || string(got[0].GetFile().GetData()) != "d2" {
			t.Errorf("the second version: %v, %v", got, err)
		}
		w.update(func(tx *raftstore.Tx) error { return secretstore.Secrets.Delete(tx, f.secret) })
		refused("a secret that is gone", node, task, "is not there any more")
		w.change(task, func(t *schedulerpb.Task) { t.Desired = store.Shutdown })
		refused("a task that is to stop", node, task, "not assigned to this node")
	})
}

// TestDeliverSparesKeyd: a node has so many keys opened and then so many a second,
// however many stand in one task, and another node still gets its own.
func TestDeliverSparesKeyd(t *testing.T) {
	inWorld(t, func(w *world) {
		f, node, other := w.addFiled(), w.addNode(), w.addNode()
		const each = 50
		uses := make([]*taskpb.FileUse, each)
		for i := range uses {
			uses[i] = &taskpb.FileUse{Source: f.secret}
		}
		w.update(func(tx *raftstore.Tx) error {
			return store.Revisions.Put(tx, &schedulerpb.Revision{Id: store.RevisionID(f.service, 2), ServiceId: f.service,
				Spec: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "web", Secrets: uses}}})
		})
		task, others := w.addFiledTask(f, node), w.addFiledTask(f, other)
		for _, n := range []string{node, other} {
			w.session(n)
		}
		for _, id := range []string{task, others} {
			w.change(id, func(t *schedulerpb.Task) { t.Revision = 2 })
		}
		ask := func(node, task string) string {
			t.Helper()
			got, err := w.deliver(node, task)
			if err != nil || len(got) == 0 {
				t.Fatalf("%v, %v", got, err)
			}
			return got[0].GetError()
		}
		for range 2 * keyBurst / each {
			if e := ask(node, task); e != "" && !strings.Contains(e, "too many secrets") {
				t.Fatal(e)
			}
		}
		if n := len(w.sealed); n != keyBurst {
			t.Errorf("keyd opened %d keys for one node at once, of %d", n, keyBurst)
		}
		if e := ask(other, others); e != "" {
			t.Errorf("another node: %s", e)
		}
		time.Sleep(time.Second * each / keyRate) // of the bubble's clock
		if e := ask(node, task); e != "" {
			t.Errorf("after a while: %s", e)
		}
	})
}
