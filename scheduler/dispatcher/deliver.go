package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
	secretstore "github.com/redoubt-cluster/redoubt/secrets/store"
)

// SealItem is the key of a version, as it is stored, and the task it is for.
type SealItem struct {
	ServiceID, TaskID   string
	SecretID, VersionID string
	Registry            bool // kind
	Epoch               uint64
	Sealed              []byte
}

// Sealer has keys sealed to the rund that a request speaks for; the answer has one
// for each, in their order.
type Sealer func(context.Context, *schedulerpb.DeliverRequest, []SealItem) ([][]byte, error)

// parcel is what one task gets, or why it gets nothing.
type parcel struct {
	task  string
	files []*taskpb.DeliveredFile
	facts *taskpb.FileFacts
	err   error
	// seals are for the files that are secrets, in their order.
	seals []SealItem
}

// Deliver implements schedulerpb.DeliveryServer.
func (d *Dispatcher) Deliver(req *schedulerpb.DeliverRequest, stream grpc.ServerStreamingServer[schedulerpb.DeliverResponse]) error {
	id, ok := authz.FromContext(stream.Context())
	switch {
	case !ok || id.NodeID == "" || id.LocalRoot:
		return status.Error(codes.PermissionDenied, "secrets are for nodes: call with a node's certificate")
	case !d.config.Store.IsLeader():
		return errNotLeading
	case len(req.GetTaskIds()) == 0 || len(req.GetTaskIds()) > maxDelivered:
		return status.Errorf(codes.InvalidArgument, "a delivery for %d tasks: 1 to %d are accepted", len(req.GetTaskIds()), maxDelivered)
	}
	if !d.mayDeliver(id.NodeID, len(req.GetTaskIds())) {
		return status.Error(codes.ResourceExhausted, "this node asks for secrets too often: wait a few seconds")
	}
	seen := map[string]bool{}
	for _, task := range req.GetTaskIds() {
		if !ident.Valid(task) || seen[task] {
			return status.Error(codes.InvalidArgument, "the tasks of a delivery are malformed")
		}
		seen[task] = true
		// One at a time: what is held of it is bounded, and the next is looked at later.
		p := d.pack(id.NodeID, task)
		if p.err == nil && len(p.seals) > 0 {
			if p.err = errTooManyKeys; d.mayOpen(id.NodeID, len(p.seals)) {
				p.err = d.seal(stream.Context(), req, p)
			}
		}
		if err := send(stream, p); err != nil {
			return err
		}
		if p.err != nil {
			d.config.Logger.Warn("a task gets no secrets and configs", "node", id.NodeID, "task", task, "error", p.err)
		}
	}
	return nil
}

var errTooManyKeys = errors.New("this node asks for too many secrets: wait a few seconds")

// mayDeliver spends what a node may ask for, in tasks.
func (d *Dispatcher) mayDeliver(node string, tasks int) bool {
	return d.spend(node, tasks, deliverRate, deliverBurst, func(m *member) *bucket { return &m.delivered })
}

// mayOpen spends what keyd may open for a node, in keys, so that one node leaves
// the others some of what keyd opens for all.
func (d *Dispatcher) mayOpen(node string, keys int) bool {
	return d.spend(node, keys, keyRate, keyBurst, func(m *member) *bucket { return &m.keys })
}

func (d *Dispatcher) spend(node string, n int, rate, burst float64, of func(*member) *bucket) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.members[node]
	if m == nil {
		return false // it has no session
	}
	b, now := of(m), time.Now()
	if b.rate == 0 {
		*b = newBucket(rate, burst, now)
	}
	return b.take(float64(n), now)
}

// One text for a task that is not there and one that is another node's: nobody
// learns which tasks there are.
var errNotAssigned = errors.New("the task is not assigned to this node, or is not to run")

// pack looks at what a task is to have now, in one snapshot.
func (d *Dispatcher) pack(node, task string) *parcel {
	p := &parcel{task: task}
	err := d.config.Store.View(func(r *raftstore.ReadTx) error {
		t, ok := store.Tasks.Get(r, task)
		if !ok || t.GetNodeId() != node || t.GetDesired() > store.Running || !store.Live(t) {
			return errNotAssigned
		}
		svc, ok := store.Services.Get(r, t.GetServiceId())
		if !ok {
			return errNotAssigned
		}
		rev, ok := store.Revisions.Get(r, store.RevisionID(t.GetServiceId(), t.GetRevision()))
		if !ok {
			return errNotAssigned
		}
		p.facts = facts(r, d.config.ClusterID, node, svc, t)
		return p.fill(r, rev.GetSpec().GetContainer())
	})
	if err != nil {
		p.err = err
	}
	return p
}

// facts are what templates of a task may say.
func facts(r raftstore.Reader, cluster, node string, svc *schedulerpb.Service, t *schedulerpb.Task) *taskpb.FileFacts {
	n, _ := pkistore.Nodes.Get(r, node)
	return &taskpb.FileFacts{ClusterId: cluster, NodeId: node, NodeName: n.GetName(), ServiceId: svc.GetId(),
		ServiceName: svc.GetSpec().GetName(), Slot: t.GetSlot(), ServiceLabels: svc.GetSpec().GetLabels()}
}

func (p *parcel) fill(r *raftstore.ReadTx, c *taskpb.ContainerSpec) error {
	for _, u := range c.GetSecrets() {
		if err := p.secret(r, u.GetSource(), u.GetVersion(), secretspb.SecretKind_SECRET_KIND_FILE); err != nil {
			return err
		}
	}
	for _, u := range c.GetConfigs() {
		if err := p.config(r, u.GetSource(), u.GetVersion()); err != nil {
			return err
		}
	}
	if id := c.GetRegistryAuth(); id != "" {
		if err := p.secret(r, id, 0, secretspb.SecretKind_SECRET_KIND_REGISTRY); err != nil {
			return err
		}
	}
	size := 0
	for _, f := range p.files {
		size += len(f.GetData())
	}
	switch {
	case len(p.files) == 0:
		return errors.New("it has no secrets and no configs")
	case size > maxParcel:
		return fmt.Errorf("its secrets and configs have more than %d MiB in all", maxParcel>>20)
	}
	return nil
}

func (p *parcel) secret(r *raftstore.ReadTx, id string, number uint64, kind secretspb.SecretKind) error {
	o, ok := secretstore.Secrets.Get(r, id)
	if !ok {
		return fmt.Errorf("the secret %s is not there any more", id)
	}
	name := o.GetSpec().GetName()
	if o.GetSpec().GetKind() != kind {
		return fmt.Errorf("the secret %s is of another kind than the service needs", name)
	}
	v, ok := secretstore.SecretVersionOf(r, o, number)
	if !ok {
		return fmt.Errorf("version %d of the secret %s is not there any more", cmp.Or(number, o.GetCurrent()), name)
	}
	p.files = append(p.files, &taskpb.DeliveredFile{Version: &taskpb.FileVersion{ObjectId: id, VersionId: v.GetId()}, Name: name, Data: v.GetSealed().GetData()})
	p.seals = append(p.seals, SealItem{ServiceID: p.facts.GetServiceId(), TaskID: p.task, SecretID: id, VersionID: v.GetId(),
		Registry: kind == secretspb.SecretKind_SECRET_KIND_REGISTRY, Epoch: v.GetSealed().GetEpoch(), Sealed: v.GetSealed().GetKey()})
	return nil
}

func (p *parcel) config(r *raftstore.ReadTx, id string, number uint64) error {
	o, ok := secretstore.Configs.Get(r, id)
	if !ok {
		return fmt.Errorf("the config %s is not there any more", id)
	}
	name := o.GetSpec().GetName()
	facts, data, ok := secretstore.ConfigVersionOf(r, o, number)
	if !ok {
		return fmt.Errorf("the version of the config %s that the service needs is not there any more", name)
	}
	p.files = append(p.files, &taskpb.DeliveredFile{Version: &taskpb.FileVersion{ObjectId: id, VersionId: facts.GetId()}, Name: name,
		Config: true, Template: o.GetSpec().GetTemplate(), Data: data})
	return nil
}

// seal has the keys of a parcel sealed to the node's rund.
func (d *Dispatcher) seal(ctx context.Context, req *schedulerpb.DeliverRequest, p *parcel) error {
	keys, err := d.config.Seal(ctx, req, p.seals)
	if err == nil && len(keys) != len(p.seals) {
		err = errors.New("keyd sealed another number of keys")
	}
	if err != nil {
		return fmt.Errorf("its secrets cannot be sealed to this node: %w", err)
	}
	for _, f := range p.files {
		if !f.GetConfig() {
			f.Key, keys = keys[0], keys[1:]
		}
	}
	return nil
}

func send(stream grpc.ServerStreamingServer[schedulerpb.DeliverResponse], p *parcel) error {
	if p.err != nil {
		return stream.Send(&schedulerpb.DeliverResponse{TaskId: p.task, Error: oneline.Text(p.err.Error(), maxMessageText)})
	}
	last := len(p.files) - 1
	for i, f := range p.files {
		m := &schedulerpb.DeliverResponse{TaskId: p.task, File: f}
		if i == last {
			m.Facts = p.facts
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}
