package rund

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/lock"
	"github.com/redoubt-cluster/redoubt/scheduler/lock/lockpb"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// deployer signs for a node under the deployment lock.
type deployer struct {
	*sender
	chain *lock.Chain
	key   ed25519.PrivateKey
}

// deployer puts the node under the lock.
func (n *node) deployer() *deployer {
	n.t.Helper()
	d := &deployer{n.sender(), nil, lock.NewSigner()}
	var err error
	if d.chain, err = lock.New(d.facts.ClusterId, 1, []*lockpb.Key{lock.PublicKey(d.key.Public().(ed25519.PublicKey))}); err == nil {
		d.chain, err = d.chain.Sign(d.key)
	}
	if err == nil {
		err = n.server.trust.Take(d.chain.Proto())
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { // other tests have the same directory
		if err := n.server.trust.Forget(); err != nil {
			n.t.Error(err)
		}
	})
	return d
}

// signs has d be signed, with files of these names.
func (s *deployer) signs(d *rundpb.TaskDesired, serial int64, files ...*taskpb.DeliveredFile) {
	s.t.Helper()
	st := &lockpb.Statement{Service: d.GetServiceName(), MaxReplicas: 1, Serial: serial, Task: d.GetSpec()}
	for _, f := range files {
		if f.GetConfig() {
			st.Configs = append(st.Configs, lock.NewConfig(f.GetName(), f.GetTemplate(), f.GetData()))
		} else {
			st.Secrets = append(st.Secrets, f.GetName())
		}
	}
	signed, err := lock.Sign(s.chain, st, s.key)
	if err == nil {
		d.Signed, err = proto.Marshal(signed)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *deployer) refuses(what, want string, err error) {
	s.t.Helper()
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) {
		s.t.Errorf("%s: %v, want %q", what, err, want)
	}
}

func (s *deployer) fails(what, want string, d *rundpb.TaskDesired) {
	s.t.Helper()
	if a := s.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED); !a.GetRejected() || !strings.Contains(a.GetError(), want) {
		s.t.Errorf("%s: %v, want %q", what, a, want)
	}
}

func configFile(name, text string) *taskpb.DeliveredFile {
	id := ident.New()
	return &taskpb.DeliveredFile{Version: &taskpb.FileVersion{ObjectId: id, VersionId: id}, Name: name, Config: true, Data: []byte(text)}
}

// holds gives a task of the probe one config.
func (s *deployer) holds(f *taskpb.DeliveredFile) *rundpb.TaskDesired {
	d := s.desired()
	d.Spec.Container.Configs = []*taskpb.FileUse{{Source: f.GetVersion().GetObjectId(), Target: "/etc/app.conf"}}
	return d
}

// TestTaskStaysWhatItWas: a task that is told to be another signed service, whose
// secrets its container would then have, gets none, whether it runs or waits.
func TestTaskStaysWhatItWas(t *testing.T) {
	n := newNode(t)
	s := n.deployer()
	id := ident.New()
	ours, theirs := n.desired(), n.desired()
	ours.Spec.Container.Secrets = []*taskpb.FileUse{{Source: id, Target: "a"}}
	theirs.ServiceName, theirs.Spec.Container.Secrets = "bank", []*taskpb.FileUse{{Source: id, Target: "a"}}
	theirs.Spec.Container.Env = []string{"A=b"}
	theirs.TaskId = ours.TaskId
	mine := s.secret(ours, id, "a", seal.KindFile, "mine")
	s.signs(ours, 1, mine)
	stolen := s.secret(theirs, id, "a", seal.KindFile, canary)
	s.signs(theirs, 1, stolen)

	waiting := proto.CloneOf(ours)
	waiting.TaskId = ident.New()
	n.apply(ours, waiting)
	s.wants(ours)
	s.wants(waiting)
	if err := s.deliver(ours, mine); err != nil {
		t.Fatal(err)
	}
	n.awaitPhase(ours.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	turned := proto.CloneOf(theirs)
	turned.TaskId = waiting.TaskId
	n.apply(theirs, turned)
	s.facts.ServiceName = "bank"
	s.refuses("a task that runs", "another task", s.deliver(theirs, stolen))
	s.fails("a task that waits", "another task", turned)
	if err := s.deliver(turned, s.secret(turned, id, "a", seal.KindFile, canary)); err == nil {
		t.Error("a task that turned into another gets its secret")
	}
	if got := s.inside(ours, "/run/secrets/a"); got != "mine" {
		t.Errorf("the container has %q", got)
	}
	s.facts.ServiceName = "web"
	n.restart() // known again by what the container was made from
	n.awaitPhase(ours.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.apply(theirs)
	s.ask()
	s.facts.ServiceName = "bank"
	s.refuses("after a restart", "another task", s.deliver(theirs, s.secret(theirs, id, "a", seal.KindFile, canary)))
	if got := s.inside(ours, "/run/secrets/a"); got != "mine" {
		t.Errorf("the container has %q", got)
	}
	s.facts.ServiceName = "web"
	n.apply(ours)
	if err := s.deliver(ours, s.secret(ours, id, "a", seal.KindFile, "new")); err != nil {
		t.Errorf("the task itself: %v", err)
	}
}

// TestDeliveredByNothingOlder: files of what was signed before do not come back to a
// task that has newer ones, also by a rund that was started since; and a program does
// not begin with files that are not what is signed for it by then.
func TestDeliveredByNothingOlder(t *testing.T) {
	n := newNode(t)
	s := n.deployer()
	first, second := configFile("conf", "a=1"), configFile("conf", "a=2")
	second.Version.ObjectId = first.Version.ObjectId
	d := s.holds(first)
	d.ServiceName = "one"
	s.facts.ServiceName = "one"
	older := proto.CloneOf(d)
	s.signs(older, 5, first)
	s.signs(d, 10, second)
	n.apply(d)
	s.wants(d)
	s.refuses("another content", "rule config", s.deliver(d, first))
	s.facts.NodeName = "a\nb"
	s.refuses("a node's name", "name", s.deliver(d, second))
	s.facts.NodeName = "host-1"
	renamed := proto.CloneOf(second)
	renamed.Name = "other"
	s.refuses("another name", "rule config", s.deliver(d, renamed))
	template := proto.CloneOf(second)
	template.Template = true
	s.refuses("a template", "rule config", s.deliver(d, template))
	if err := s.deliver(d, second); err != nil {
		t.Fatal(err)
	}
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	replay := func(when string) {
		t.Helper()
		n.apply(older)
		s.refuses(when, "rule version", s.deliver(older, first))
		if got := s.inside(d, "/etc/app.conf"); got != "a=2" {
			t.Errorf("%s: the config is %q", when, got)
		}
	}
	replay("while it runs")
	n.restart()
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.apply(d)
	s.ask()
	replay("after a restart of rund")
	if err := s.deliver(d, second); err == nil {
		t.Error("by what is wanted no more")
	}
	n.apply(d)
	if err := s.deliver(d, second); err != nil {
		t.Errorf("the same again: %v", err)
	}

	waits := s.holds(first)
	waits.ServiceName, waits.Phase = "two", rundpb.Phase_PHASE_CREATED
	s.facts.ServiceName = "two"
	s.signs(waits, 5, first)
	n.apply(d, waits)
	s.wants(waits)
	if err := s.deliver(waits, first); err != nil {
		t.Fatal(err)
	}
	n.awaitPhase(waits.GetTaskId(), rundpb.Phase_PHASE_CREATED)
	waits.Phase = rundpb.Phase_PHASE_RUNNING
	s.signs(waits, 6, second)
	n.apply(d, waits)
	s.fails("files from before", "rule config", waits)
}

// TestLockIsRoots: whose connection is not root's changes nothing of the lock, and is
// told of it.
func TestLockIsRoots(t *testing.T) {
	n := newNode(t)
	s := n.deployer()
	for _, req := range []*rundpb.LockRequest{
		{Change: &rundpb.LockRequest_Forget{Forget: true}},
		{Change: &rundpb.LockRequest_Chain{Chain: s.chain.Proto()}},
		{Change: &rundpb.LockRequest_Pin{Pin: s.chain.HeadDigest()}},
	} {
		if _, err := n.client.Lock(n.ctx(), req); status.Code(err) != codes.PermissionDenied { // its listener names nobody
			t.Errorf("%v: %v", req, err)
		}
	}
	if r, err := n.client.Lock(n.ctx(), &rundpb.LockRequest{}); err != nil || !r.GetOn() {
		t.Errorf("%v, %v", r, err)
	}
}

// TestRelaysLeadWhereSigned: clients are led to no port that was not signed for.
func TestRelaysLeadWhereSigned(t *testing.T) {
	n := newNode(t)
	s := n.deployer()
	d := n.desired()
	d.ServiceName = "led"
	d.Spec.Ports = []*taskpb.Port{{Published: 80, Target: 80, Mode: taskpb.Port_MODE_INGRESS}}
	s.signs(d, time.Now().UnixMilli())
	w := n.server.newWorker(d.GetTaskId())
	w.made = d
	for target, ok := range map[uint32]bool{80: true, 22: false} {
		d.Relays = &rundpb.Relays{Relays: []*rundpb.Relay{{Target: target}}}
		if err := w.admitRelays(d); (err == nil) != ok {
			t.Errorf("port %d: %v", target, err)
		}
	}
}
