package node

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/cmd/internal/roles"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/meshpb"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/audit/auditpb"
	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/secretspb"
)

// looks are the last parts of verbs by which nothing is changed.
var looks = map[string]bool{"list": true, "inspect": true, "read": true, "status": true, "logs": true, "verify": true}

// changes reports whether a method can change something.
func changes(md protoreflect.MethodDescriptor) bool {
	for _, v := range proto.GetExtension(md.Options(), authzpb.E_Rule).(*authzpb.Rule).GetVerbs() {
		_, what, _ := strings.Cut(v.GetName(), ".")
		if !looks[what] {
			return true
		}
	}
	return false
}

// change is one call that changes something, in a world with worker w.
type change struct {
	method  string
	request proto.Message
}

// withKeyd are the methods that need keyd, or a helper, to change anything.
var withKeyd = map[string]string{
	"Authority.RotateCA": "keyd signs", "Authority.AbortCA": "keyd signs", "Authority.SetExternalCA": "keyd signs", "Authority.RemoveExternalCA": "keyd signs",
	"Control.CreateToken": "keyd signs", "People.InvitePerson": "keyd signs", "Control.RevokeToken": "keyd signs what is revoked", "Control.RotateSlot": "keyd seals", "Control.RotateStoreKeys": "keyd seals",
	"Control.CreateBackup": "changes nothing, keyd seals", "Slots.AddSlot": "keyd seals", "Slots.RemoveSlot": "keyd seals", "Slots.SetAutolock": "keyd seals",
	"Secrets.CreateSecret": "keyd opens it", "Secrets.UpdateSecret": "keyd opens it", "Secrets.RemoveSecret": "keyd opened it",
	"Control.PromoteNode": "the node does it, with a token", "Control.RotateMeshKey": "the node has to be there", "Control.DemoteNode": "keyd makes a keyset", "Admission.DecidePending": "a machine has to wait",
	"Compliance.SignCompliance": "keyd signs, and TestSignedReports looks for the record",
	"Audit.DropRecords":         "there are no segments in files, and TestAuditArchive looks for the record",
	"Waivers.ApproveWaiver":     "a person does it, and TestCompliance looks for the record",
	"Execs.Exec":                "a node has to come for it, and the story TestExec looks for the record",
	"Control.ExplainPolicy":     "only tells what would be", "ImagePolicy.CheckImage": "only tells what would be", "Compliance.RunCompliance": "only tells what is, and has its record as one who reads", "Control.Explain": "only tells what would be",
}

// TestEveryChangeIsRecorded makes every kind of change that there is an RPC for
// and looks for its record. A new RPC has to be here.
func TestEveryChangeIsRecorded(t *testing.T) {
	w := newCallerWorld(t)
	worker, doomed := w.ca.NewNode(t, profilepb.Role_ROLE_WORKER), w.ca.NewNode(t, profilepb.Role_ROLE_WORKER)
	worker.Record.Name, doomed.Record.Name = "worker", "doomed"
	w.person(t, w.ca, "mallory", time.Now(), nil)
	waiting := ident.New()
	w.person(t, w.ca, "boss", time.Now(), nil)
	w.update(t, func(tx *raftstore.Tx) error {
		for _, n := range []string{worker.Record.GetId(), doomed.Record.GetId()} {
			if err := schedstore.RegisterNode(tx, n, false); err != nil {
				return err
			}
		}
		if err := pkistore.Nodes.Put(tx, worker.Record); err != nil {
			return err
		}
		if err := pkistore.Approvals.Put(tx, &pkipb.Approval{Id: waiting, Requester: roles.Principal{Kind: pkipb.Principal_KIND_LOCAL_ROOT, Node: worker.Record.GetId()}.Record(),
			Method: "/redoubt.control.v1.Control/CreateBackup", Verbs: []string{"backup.create"}, Hash: []byte("hash"), ExpiresAt: tx.Now().Add(time.Hour).Unix()}); err != nil {
			return err
		}
		if err := roles.CreateRole(tx, "approver", "", []string{"waiver.approve"}); err != nil {
			return err
		}
		if _, err := roles.Bind(tx, "approver", roles.Principal{Kind: pkipb.Principal_KIND_PERSON, Name: "mallory"}, nil); err != nil {
			return err
		}
		return pkistore.Nodes.Put(tx, doomed.Record)
	})
	service := &schedulerpb.ServiceSpec{Name: "web", Mode: &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 1}},
		Task: &taskpb.TaskSpec{Container: &taskpb.ContainerSpec{Image: "registry.example/app@sha256:" + strings.Repeat("0f", 32), Env: []string{"PASSWORD=hunter2"}}}}
	job := proto.CloneOf(service)
	job.Name, job.Mode = "nightly", &schedulerpb.ServiceSpec_GlobalJob{GlobalJob: &schedulerpb.GlobalJob{}}
	job.Schedule = &schedulerpb.Schedule{Expression: "@yearly"}
	calls := []change{
		{"Control.CreateService", &controlpb.CreateServiceRequest{Spec: service}},
		{"Control.UpdateService", &controlpb.UpdateServiceRequest{Service: "web", Spec: service}},
		{"Control.RollbackService", &controlpb.RollbackServiceRequest{Service: "web", To: 1}},
		{"Placement.RebalanceService", &controlpb.RebalanceServiceRequest{Service: "web"}},
		{"Placement.UpdatePlacement", &controlpb.UpdatePlacementRequest{Strategy: taskpb.Strategy_STRATEGY_BIN_PACK}},
		{"Control.CreateConfig", &controlpb.CreateConfigRequest{Spec: &secretspb.ConfigSpec{Name: "conf", Data: []byte("hunter2")}}},
		{"Secrets.UpdateConfig", &controlpb.UpdateConfigRequest{Config: "conf", Data: []byte("hunter2, again")}},
		{"Secrets.RollbackFile", &controlpb.RollbackFileRequest{Name: "conf", Config: true}},
		{"Control.RemoveConfig", &controlpb.RemoveConfigRequest{Config: "conf"}},
		{"Volumes.CreateVolume", &controlpb.CreateVolumeRequest{Spec: &taskpb.VolumeSpec{Name: "db"}}},
		{"Volumes.RemoveVolume", &controlpb.RemoveVolumeRequest{Volume: "db"}},
		{"Volumes.CreateVolume", &controlpb.CreateVolumeRequest{Spec: &taskpb.VolumeSpec{Name: "logs"}}},
		{"Volumes.PruneVolumes", &controlpb.PruneVolumesRequest{}},
		{"Control.CreateNetwork", &controlpb.CreateNetworkRequest{Spec: &meshpb.NetworkSpec{Name: "net", DefaultDeny: true}}},
		{"Control.CreatePolicy", &controlpb.CreatePolicyRequest{Spec: &meshpb.PolicySpec{Name: "pol", Network: "net", Rules: []*meshpb.PolicyRule{{FromService: "web", ToService: "web"}}}}},
		{"Control.RemovePolicy", &controlpb.RemovePolicyRequest{Policy: "pol"}},
		{"Control.RemoveNetwork", &controlpb.RemoveNetworkRequest{Network: "net"}},
		{"Control.RemoveService", &controlpb.RemoveServiceRequest{Service: "web"}},
		{"Control.CreateService", &controlpb.CreateServiceRequest{Spec: job}},
		{"Control.BeginRun", &controlpb.BeginRunRequest{Service: "nightly"}},
		{"Control.SuspendService", &controlpb.SuspendServiceRequest{Service: "nightly", Suspend: true}},
		{"Access.CreateRole", &controlpb.CreateRoleRequest{Name: "looker", Verbs: []string{"node.list"}}},
		{"Access.Bind", &controlpb.BindRequest{Role: "looker", Principal: "user:ann@" + w.m.creds.Peer().NodeID}},
		{"Access.Unbind", &controlpb.UnbindRequest{Role: "looker", Principal: "user:ann@" + w.m.creds.Peer().NodeID}},
		{"Access.RemoveRole", &controlpb.RemoveRoleRequest{Name: "looker"}},
		{"Access.SetAccessPolicy", &controlpb.SetAccessPolicyRequest{Name: "frozen", Text: `forbid (principal, action == Redoubt::Action::"config.remove", resource) when { false };`}},
		{"Access.RemoveAccessPolicy", &controlpb.RemoveAccessPolicyRequest{Name: "frozen"}},
		{"Approvals.DecideApproval", &controlpb.DecideApprovalRequest{Approval: waiting}},
		{"ImagePolicy.SetImagePolicy", &controlpb.SetImagePolicyRequest{Document: []byte("format: 1\nrules:\n  - {name: all, images: ['**'], unsigned: true}\n")}},
		{"ImagePolicy.RemoveImagePolicy", &controlpb.RemoveImagePolicyRequest{}},
		{"Control.UpdateNode", &controlpb.UpdateNodeRequest{Node: "worker", LabelAdd: map[string]string{"zone": "a"}}},
		{"Revocation.RevokeIdentity", &controlpb.RevokeIdentityRequest{Identity: "spiffe://" + w.ca.ClusterID + "/svc/default/web"}},
		{"Revocation.AllowIdentity", &controlpb.AllowIdentityRequest{Identity: "spiffe://" + w.ca.ClusterID + "/svc/default/web"}},
		{"Audit.SetWitness", &controlpb.SetWitnessRequest{Url: "https://witness.example", Key: "witness.example/w1+e42b2f2c+BDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"}},
		{"Audit.RemoveWitness", &controlpb.RemoveWitnessRequest{Name: "witness.example/w1"}},
		{"Audit.SetRetention", &controlpb.SetRetentionRequest{Keep: proto.Int64(86400)}},
		{"Waivers.CreateWaiver", &controlpb.CreateWaiverRequest{Control: "autolock-on", Node: "worker", Reason: "it moves", ExpiresAt: time.Now().Add(time.Hour).Unix(), Approver: "mallory", Evidence: []string{"seen"}}},
		{"Waivers.RemoveWaiver", &controlpb.RemoveWaiverRequest{}},
		{"Compliance.SetComplianceSchedule", &controlpb.SetComplianceScheduleRequest{Every: 86400}},
		{"People.RevokePerson", &controlpb.RevokePersonRequest{Name: "mallory"}},
		{"People.RemovePerson", &controlpb.RemovePersonRequest{Name: "mallory"}},
		{"Admission.UpdateAdmission", &controlpb.UpdateAdmissionRequest{ApproveManagers: proto.Bool(true)}},
		{"Control.RemoveNode", &controlpb.RemoveNodeRequest{Node: "worker", Force: true}},
		{"Revocation.RevokeNode", &controlpb.RevokeNodeRequest{Node: "doomed"}},
		// From here on a person is security-admin, and root is not.
		{"Access.Bind", &controlpb.BindRequest{Role: "security-admin", Principal: "person:boss"}},
		{"Access.BreakGlass", &controlpb.BreakGlassRequest{Reason: "boss is away", Seconds: 600}},
		{"Access.EndBreakGlass", &controlpb.EndBreakGlassRequest{}},
	}
	covered := map[string]bool{}
	for _, c := range calls {
		covered[c.method] = true
	}
	for _, md := range rpcs() {
		name := strings.TrimPrefix(string(md.FullName()), "redoubt.control.v1.")
		if changes(md) && !covered[name] && withKeyd[name] == "" {
			t.Errorf("%s changes something, and nobody looks for its record: add it above", name)
		}
	}
	cc, err := grpc.NewClient("unix:"+w.local, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for _, c := range calls {
		before := len(recordsIn(t, w.m.store))
		if u, ok := c.request.(*controlpb.UpdateServiceRequest); ok {
			w.nextService(t, u)
		}
		if b, ok := c.request.(*controlpb.RollbackServiceRequest); ok {
			w.formerService(t, b)
		}
		if r, ok := c.request.(*controlpb.PruneVolumesRequest); ok {
			if err := w.m.store.View(func(tx *raftstore.ReadTx) error {
				v, err := schedstore.ResolveVolume(tx, "logs")
				r.Volumes = []string{v.GetId()}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		if r, ok := c.request.(*controlpb.RemoveWaiverRequest); ok {
			if err := w.m.store.View(func(tx *raftstore.ReadTx) error {
				for v := range pkistore.Waivers.All(tx) {
					r.Id = v.GetId()
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := cc.Invoke(t.Context(), "/redoubt.control.v1."+strings.Replace(c.method, ".", "/", 1), c.request, new(controlpb.GetStatusResponse)); err != nil &&
			!strings.Contains(err.Error(), "unmarshal") {
			t.Errorf("%s: %v", c.method, err)
			continue
		}
		var of []*auditpb.Record
		for _, r := range recordsIn(t, w.m.store)[before:] {
			if strings.Contains(r.String(), "hunter2") {
				t.Errorf("%s: the record tells a secret: %v", c.method, r)
			}
			if r.GetMethod() == "redoubt.control.v1."+strings.Replace(c.method, ".", "/", 1) {
				of = append(of, r)
			}
		}
		if len(of) == 0 {
			t.Errorf("%s left no record", c.method)
			continue
		}
		r := of[0]
		who := w.m.creds.Peer().NodeID
		own := strings.Contains(c.method, "BreakGlass") // judged by no verb
		if len(r.GetVerbs()) == 0 && !own || r.GetRequest() == "" || len(r.GetChanges()) == 0 || r.GetOutcome() != auditpb.Outcome_OUTCOME_DONE ||
			!r.GetCaller().GetLocalRoot() || r.GetCaller().GetNode() != who || r.GetCaller().GetManager() != w.m.store.NodeID() {
			t.Errorf("%s: the record is %v", c.method, r)
		}
	}
}

// nextService reads the version that is to be updated, and changes the spec.
func (w *callerWorld) nextService(t *testing.T, u *controlpb.UpdateServiceRequest) {
	t.Helper()
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		for s := range schedstore.Services.All(r) {
			u.Version = s.GetMeta().GetVersion()
			u.Spec = proto.CloneOf(s.GetSpec())
			u.Spec.Mode = &schedulerpb.ServiceSpec_Replicated{Replicated: &schedulerpb.Replicated{Replicas: 2}}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// formerService reads what is to be gone back to.
func (w *callerWorld) formerService(t *testing.T, b *controlpb.RollbackServiceRequest) {
	t.Helper()
	if err := w.m.store.View(func(r *raftstore.ReadTx) error {
		s, err := schedstore.ResolveService(r, b.Service)
		b.Version = s.GetMeta().GetVersion()
		for _, rec := range schedstore.History(r, s.GetId()) {
			if rec.GetNumber() == b.To {
				b.Spec = rec.GetSpec()
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func recordsIn(t *testing.T, s *raftstore.Store) (out []*auditpb.Record) {
	t.Helper()
	r, err := s.Records()
	if err != nil {
		t.Fatal(err)
	}
	for n := range r.Log.Size() {
		e, err := r.Entry(n)
		if err != nil {
			t.Fatal(err)
		}
		rec := &auditpb.Record{}
		if err := proto.Unmarshal(e.Record, rec); err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestNoRecordNoChange: a call whose record cannot be made changes nothing.
func TestNoRecordNoChange(t *testing.T) {
	w := newCallerWorld(t)
	ctx := authz.NewContext(context.Background(), authz.Identity{NodeID: strings.Repeat("n", 1<<20)})
	_, err := w.m.records().Unary(ctx, &controlpb.RemoveServiceRequest{}, &grpc.UnaryServerInfo{FullMethod: "/" + strings.Repeat("x", 1<<16)},
		func(ctx context.Context, _ any) (any, error) {
			return nil, w.m.store.Update(ctx, func(tx *raftstore.Tx) error { return schedstore.RegisterNode(tx, "unseen", false) })
		})
	if err == nil {
		t.Fatal("it was changed")
	}
	_ = w.m.store.View(func(r *raftstore.ReadTx) error {
		if _, there := schedstore.Nodes.Get(r, "unseen"); there {
			t.Error("a change was made without its record")
		}
		return nil
	})
}

// TestRefusalIsRecorded: a worker that calls what is a manager's has a record of it.
func TestRefusalIsRecorded(t *testing.T) {
	w := newCallerWorld(t)
	worker := w.ca.NewNode(t, profilepb.Role_ROLE_WORKER)
	w.put(t, worker)
	watch, err := w.m.store.Records()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pki.DialTLS(t.Context(), w.addr, worker.Credentials.ClientConfig(pki.ALPNGRPC, ""))
	if err != nil {
		t.Fatal(err)
	}
	cc, err := pki.GRPCOver(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	_, err = pkipb.NewMembershipClient(cc).Demoted(t.Context(), &pkipb.DemotedRequest{})
	if err == nil {
		t.Fatal("it was not refused")
	}
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		for _, r := range recordsIn(t, w.m.store)[watch.Log.Size():] {
			if r.GetOutcome() == auditpb.Outcome_OUTCOME_DENIED && r.GetCaller().GetNode() == worker.Record.GetId() && strings.HasSuffix(r.GetMethod(), "Membership/Demoted") && r.GetReason() != "" {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no record of it: %v", recordsIn(t, w.m.store))
		}
	}
}
