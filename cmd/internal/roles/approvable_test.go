package roles

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/secrecypb"
	"github.com/redoubt-cluster/redoubt/pki/authz/authzpb"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	schedstore "github.com/redoubt-cluster/redoubt/scheduler/store"
)

// TestWhatIsNotExact: what could be another thing when it takes effect cannot wait.
func TestWhatIsNotExact(t *testing.T) {
	w := newWorld(t)
	task, service := ident.New(), ident.New()
	w.must(func(tx *raftstore.Tx) error {
		return schedstore.Tasks.Put(tx, &schedulerpb.Task{Id: task, ServiceId: service, Slot: 1})
	})
	asked := func(m proto.Message) ([]byte, error) {
		var refused error
		w.must(func(tx *raftstore.Tx) error { refused = exact(tx, m); return nil })
		if refused != nil {
			return nil, refused
		}
		return encodeApprovable(m)
	}
	for _, c := range []struct {
		req  proto.Message
		want string
	}{
		{&controlpb.DecidePendingRequest{Node: "k3qf", Approve: true}, "by its whole fingerprint"},
		{&controlpb.DecidePendingRequest{Node: "K3QF-7ZPA-2WLM-XA5D", Approve: true}, ""},
		{&controlpb.BindRequest{Role: "viewer", Principal: "root:m1"}, "by its whole id"},
		{&controlpb.UnbindRequest{Role: "viewer", Principal: "user:ann@m1"}, "by its whole id"},
		{&controlpb.BindRequest{Role: "viewer", Principal: "root:" + ident.New()}, ""},
		{&controlpb.BindRequest{Role: "viewer", Principal: "person:ann"}, ""},
		{&controlpb.PromoteNodeRequest{Node: "worker-1"}, "by its whole id"},
		{&controlpb.PromoteNodeRequest{Node: ident.New()}, ""},
		{&controlpb.ExecRequest{Target: "web"}, "a task by its whole id"},
		{&controlpb.ExecRequest{Target: "web.1"}, "a task by its whole id"},
		{&controlpb.ExecRequest{Target: task[:8]}, "a task by its whole id"},
		{&controlpb.ExecRequest{Target: service}, "a task by its whole id"},
		{&controlpb.ExecRequest{Target: task}, ""},
		{&controlpb.SetAccessPolicyRequest{Text: strings.Repeat("x", MaxApprovable)}, "at most 32768 bytes"},
	} {
		_, err := asked(c.req)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.req, err, c.want)
		}
	}
	// What each call makes anew is no part of it, all else is.
	for _, c := range []struct {
		a, b proto.Message
		same bool
	}{
		{&controlpb.InvitePersonRequest{Name: "ann", Id: "1", PublicKey: []byte("k")}, &controlpb.InvitePersonRequest{Name: "ann", Id: "2"}, true},
		{&controlpb.InvitePersonRequest{Name: "ann"}, &controlpb.InvitePersonRequest{Name: "bob"}, false},
		{&controlpb.InvitePersonRequest{Name: "ann"}, &controlpb.InvitePersonRequest{Name: "ann", LifeSeconds: 1}, false},
		{&controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_MANAGER, Id: "1"}, &controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_MANAGER, PublicKey: []byte("k")}, true},
		{&controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_MANAGER}, &controlpb.CreateTokenRequest{Role: profilepb.Role_ROLE_MANAGER, MaxUses: 2}, false},
	} {
		x, err := encodeApprovable(c.a)
		y, err2 := encodeApprovable(c.b)
		if err != nil || err2 != nil || slices.Equal(x, y) != c.same {
			t.Errorf("%v and %v: the same is %v, want %v (%v, %v)", c.a, c.b, !c.same, c.same, err, err2)
		}
	}
	newer := &controlpb.RemoveRoleRequest{Name: "x"}
	newer.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
	if _, err := encodeApprovable(newer); err == nil {
		t.Error("a request with what nobody is shown can be approved")
	}
}

// TestApprovableRequestsAreShown: a verb is one that can wait wherever it is declared,
// and nothing in its requests is secret.
func TestApprovableRequestsAreShown(t *testing.T) {
	want := []string{"admission.update", "audit.drop", "audit.remove-witness", "audit.set-retention", "audit.set-witness", "autolock.disable", "backup.create", "binding.create", "binding.remove",
		"ca.rotate-root", "imagepolicy.remove", "imagepolicy.set", "node.approve", "node.promote",
		"person.invite", "policy.remove", "policy.set", "role.create", "role.remove", "service.exec", "token.create-manager"}
	v, err := words()
	if err != nil {
		t.Fatal(err)
	}
	if got := v.approvableVerbs(); !slices.Equal(got, want) {
		t.Errorf("%q can wait", got)
	}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				m := f.Services().Get(i).Methods().Get(j)
				if !proto.HasExtension(m.Options(), authzpb.E_Rule) {
					continue
				}
				for _, verb := range proto.GetExtension(m.Options(), authzpb.E_Rule).(*authzpb.Rule).GetVerbs() {
					if listed := slices.Contains(want, verb.GetName()); listed != verb.GetApprovable() {
						t.Errorf("%s: %s is approvable: %v", m.FullName(), verb.GetName(), verb.GetApprovable())
					}
					if verb.GetApprovable() {
						checkFresh(t, m.Input())
						nothingSecret(t, m.Input(), map[protoreflect.FullName]bool{})
					}
				}
			}
		}
		return true
	})
}

func nothingSecret(t *testing.T, m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) {
	if seen[m.FullName()] {
		return
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if proto.GetExtension(f.Options(), secrecypb.E_Secret).(bool) {
			t.Errorf("%s is secret, and nobody can approve what is not shown", f.FullName())
		}
		if f.Message() != nil {
			nothingSecret(t, f.Message(), seen)
		}
	}
}

// checkFresh: what others do not see of a request is an id and a public key, of which
// nothing depends but who can use what is made.
func checkFresh(t *testing.T, m protoreflect.MessageDescriptor) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if proto.GetExtension(f.Options(), authzpb.E_Fresh).(bool) && f.Name() != "id" && f.Name() != "public_key" {
			t.Errorf("%s is not shown to who approves it", f.FullName())
		}
	}
}
