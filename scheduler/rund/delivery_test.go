package rund

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
	"github.com/redoubt-cluster/redoubt/secrets/seal"
)

// sender does what a keyd does for this node's rund.
type sender struct {
	*node
	facts     *taskpb.FileFacts
	master    *seal.Master
	statement []byte
}

func (n *node) sender() *sender {
	s := &sender{node: n, facts: &taskpb.FileFacts{ClusterId: ident.New(), NodeId: ident.New(), NodeName: "host-1", ServiceName: "web", Slot: 1}}
	var err error
	if s.master, err = seal.NewMaster(s.facts.ClusterId, 1, make([]byte, 32)); err != nil {
		n.t.Fatal(err)
	}
	s.ask()
	return s
}

// ask hears the key that rund has now.
func (s *sender) ask() {
	s.t.Helper()
	got, err := s.client.NodeKey(s.ctx(), &rundpb.NodeKeyRequest{ClusterId: s.facts.ClusterId, NodeId: s.facts.NodeId})
	if err != nil {
		s.t.Fatal(err)
	}
	s.statement = got.GetStatement()
}

func (s *sender) secret(d *rundpb.TaskDesired, id, name, kind, text string) *taskpb.DeliveredFile {
	s.t.Helper()
	sub := seal.Subject{ClusterID: s.facts.ClusterId, SecretID: id, VersionID: ident.New(), Kind: kind}
	data, sealed, err := seal.Seal(s.master.Recipient(), 1, sub, []byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := s.master.OpenKey(sub, sealed)
	if err != nil {
		s.t.Fatal(err)
	}
	to, err := seal.ParseStatement(s.statement)
	if err != nil {
		s.t.Fatal(err)
	}
	f := &taskpb.DeliveredFile{Version: &taskpb.FileVersion{ObjectId: id, VersionId: sub.VersionID}, Name: name, Data: data}
	if f.Key, err = seal.ToNode(to, seal.Grant{ServiceID: d.GetServiceId(), TaskID: d.GetTaskId()}, sub, key); err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s *sender) deliver(d *rundpb.TaskDesired, files ...*taskpb.DeliveredFile) error {
	sum := sha256.Sum256(s.statement)
	facts := proto.CloneOf(s.facts)
	facts.ServiceId = d.GetServiceId()
	_, err := s.client.Deliver(s.ctx(), &rundpb.DeliverRequest{TaskId: d.GetTaskId(), Statement: sum[:], Files: files, Facts: facts})
	return err
}

func (s *sender) wants(d *rundpb.TaskDesired) {
	s.t.Helper()
	s.await(d.GetTaskId(), "waiting for files", func(a *rundpb.TaskActual) bool { return a.GetWantsFiles() })
}

func (s *sender) has(d *rundpb.TaskDesired, files ...*taskpb.DeliveredFile) {
	s.t.Helper()
	s.await(d.GetTaskId(), "versions", func(a *rundpb.TaskActual) bool {
		if len(a.GetFiles()) != len(files) {
			return false
		}
		for i, f := range files {
			if !proto.Equal(a.GetFiles()[i], f.GetVersion()) {
				return false
			}
		}
		return true
	})
}

// inside reads a file as the container has it.
func (s *sender) inside(d *rundpb.TaskDesired, path string) string {
	s.t.Helper()
	root, err := os.OpenRoot("/proc/" + s.pid(d.GetTaskId()) + "/root")
	if err != nil {
		s.t.Fatal(err)
	}
	defer root.Close()
	b, err := root.ReadFile(strings.TrimPrefix(path, "/"))
	if err != nil {
		s.t.Error(err)
	}
	return string(b)
}

const canary = "canary-bcd4e1f0-in-a-secret"

// TestSecretsOfATask: a task waits for what it is granted, has it with owner and
// mode, gets another version while it runs, keeps it while rund is away, and leaves
// nothing. The plaintext is in no file of the node but in the task's memory.
func TestSecretsOfATask(t *testing.T) {
	n := newNode(t)
	s := n.sender()
	token, conf, tmpl := ident.New(), ident.New(), ident.New()
	d := n.desired()
	d.Spec.Container.Secrets = []*taskpb.FileUse{{Source: token, Target: "token", Uid: 1000, Gid: 1000, Mode: 0o440}}
	d.Spec.Container.Configs = []*taskpb.FileUse{{Source: conf, Target: "/etc/app.conf"}, {Source: tmpl}}
	n.apply(d)
	s.wants(d)
	config := &taskpb.DeliveredFile{Version: &taskpb.FileVersion{ObjectId: conf, VersionId: conf}, Name: "app", Config: true, Data: []byte("plain")}
	template := &taskpb.DeliveredFile{Version: &taskpb.FileVersion{ObjectId: tmpl, VersionId: tmpl}, Name: "motd", Config: true, Template: true,
		Data: []byte(`{{.Service.Name}}.{{.Task.Slot}} at {{.Node.Hostname}}: {{secret "api"}}`)}
	first := s.secret(d, token, "api", seal.KindFile, canary+"-1")
	if err := s.deliver(d, first, config, template); err != nil {
		t.Fatal(err)
	}
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	s.has(d, first, config, template)
	look := func(want string) {
		t.Helper()
		if got := s.inside(d, "/run/secrets/token"); got != want {
			t.Errorf("the secret is %q", got)
		}
		if got := s.inside(d, "/run/configs/motd"); got != "web.1 at host-1: "+want {
			t.Errorf("the template became %q", got)
		}
	}
	look(canary + "-1")
	if got := s.inside(d, "/etc/app.conf"); got != "plain" {
		t.Errorf("the config is %q", got)
	}
	root := "/proc/" + s.pid(d.GetTaskId()) + "/root"
	var st unix.Stat_t
	base := n.config.UserNS.Base
	if err := unix.Stat(root+"/run/secrets/..data/token", &st); err != nil || st.Uid != base+1000 || st.Gid != base+1000 || st.Mode&0o777 != 0o440 {
		t.Errorf("%v, %d:%d %o", err, st.Uid, st.Gid, st.Mode)
	}
	if err := unix.Stat(root+"/run/configs/..data/motd", &st); err != nil || st.Uid != base || st.Mode&0o777 != 0o400 {
		t.Errorf("a config with a secret: %v, %d %o", err, st.Uid, st.Mode)
	}
	mounts, err := os.ReadFile("/proc/" + s.pid(d.GetTaskId()) + "/mountinfo")
	if err != nil || !strings.Contains(string(mounts), " /run/secrets ro,nosuid,nodev,noexec") {
		t.Errorf("%v: the container's mounts are\n%s", err, mounts)
	}

	n.restart()
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	s.has(d, first, config, template)
	n.apply(d)
	if err := s.deliver(d, first, config, template); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("sealed to the rund before: %v", err)
	}
	s.ask()
	second := s.secret(d, token, "api", seal.KindFile, canary+"-2")
	template.Data = []byte(`{{.Service.Name}}.{{.Task.Slot}} at {{.Node.Hostname}}: {{secret "api"}}`)
	config.Data = []byte("short")
	if err := s.deliver(d, second, config, template); err != nil {
		t.Fatal(err)
	}
	s.has(d, second, config, template)
	look(canary + "-2")
	if got := s.inside(d, "/etc/app.conf"); got != "short" {
		t.Errorf("the config is %q", got)
	}

	// In no file but below the one mount: not in rund's, nor in containerd's.
	out, _ := exec.Command("grep", "-rlsa", "--exclude-dir=files-"+d.GetTaskId(), canary, n.runDir, filepath.Join(ctrd.Dir, "root")).Output()
	if len(out) > 0 {
		t.Errorf("the plaintext is in %s", out)
	}
	if strings.Contains(n.logs.String(), canary) {
		t.Error("the plaintext is in the log")
	}
	d.Phase = rundpb.Phase_PHASE_STOPPING
	n.apply(d)
	if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED); len(a.GetFiles()) > 0 {
		t.Errorf("a task that ended has %v", a.GetFiles())
	}
	if left, _ := filepath.Glob(filepath.Join(n.runDir, "netns", "files-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := s.deliver(d, second, config, template); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "ended") {
		t.Errorf("to a task that ended: %v", err)
	}
}

// TestDeliverySignals: who asked for it gets a signal after a version took the place
// of another, and not for the first.
func TestDeliverySignals(t *testing.T) {
	n := newNode(t)
	s := n.sender()
	id := ident.New()
	d := n.desired()
	d.Spec.Container.Secrets = []*taskpb.FileUse{{Source: id, Target: "a", OnUpdate: taskpb.OnUpdate_ON_UPDATE_SIGNAL, Signal: "SIGUSR1"}}
	n.apply(d)
	s.wants(d)
	first := s.secret(d, id, "a", seal.KindFile, "1")
	if err := s.deliver(d, first); err != nil {
		t.Fatal(err)
	}
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)
	n.awaitLog(d.GetTaskId(), "ready")
	if err := s.deliver(d, first); err != nil { // nothing new
		t.Fatal(err)
	}
	if err := s.deliver(d, s.secret(d, id, "a", seal.KindFile, "2")); err != nil {
		t.Fatal(err)
	}
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_EXITED)
	if log := n.logText(d.GetTaskId()); log != "ready\ngot user defined signal 1\n" {
		t.Errorf("log %q", log)
	}
}

// TestDeliveryRefused: what is not the task's, or not sealed for it, is refused, and
// the task goes on waiting. No refusal quotes a secret.
func TestDeliveryRefused(t *testing.T) {
	n := newNode(t)
	s := n.sender()
	id, conf := ident.New(), ident.New()
	d, other := n.desired(), n.desired()
	for _, x := range []*rundpb.TaskDesired{d, other} {
		x.Spec.Container.Secrets = []*taskpb.FileUse{{Source: id}}
		x.Spec.Container.Configs = []*taskpb.FileUse{{Source: conf}}
	}
	n.apply(d, other)
	s.wants(d)
	s.wants(other)
	config := func(text string) *taskpb.DeliveredFile {
		return &taskpb.DeliveredFile{Version: &taskpb.FileVersion{ObjectId: conf, VersionId: conf}, Name: "c", Config: true, Template: true, Data: []byte(text)}
	}
	good := s.secret(d, id, "a", seal.KindFile, canary)
	damaged := proto.CloneOf(good)
	damaged.Data[len(damaged.Data)-1] ^= 1
	for want, files := range map[string][]*taskpb.DeliveredFile{
		"not have all files":        {good},
		"other files":               {config(""), good},
		"has other files":           {s.secret(d, ident.New(), "a", seal.KindFile, canary), config("")},
		"key does not open":         {s.secret(other, id, "a", seal.KindFile, canary), config("")},
		"does not open":             {s.secret(d, id, "a", seal.KindRegistry, canary), config("")},
		"data does not open":        {damaged, config("")},
		`names the secret "b"`:      {good, config(`{{secret "a"}}{{secret "b"}}`)},
		"not part of the language":  {good, config(`{{range 100000000}}{{end}}`)},
		"can't evaluate field Evil": {good, config(`{{(secret "a").Evil}}`)},
	} {
		if err := s.deliver(d, files...); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := s.deliver(n.desired(), good, config("")); status.Code(err) != codes.NotFound {
		t.Errorf("a task that is not here: %v", err)
	}
	s.wants(d)
	if left, _ := filepath.Glob(filepath.Join(n.runDir, "netns", "files-*")); len(left) > 0 {
		t.Errorf("a refusal leaves %v", left)
	}
	if strings.Contains(n.logs.String(), canary) {
		t.Error("the plaintext is in the log")
	}
	if err := s.deliver(d, good, config("")); err != nil {
		t.Error(err)
	}
	n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_RUNNING)

	for what, spoil := range map[string]func(*taskpb.ContainerSpec){
		"user namespace": func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: id, Uid: 1 << 20}} },
		"has names and":  func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: id, Target: "../x"}} },
		"belongs to the": func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: id, Target: "/proc/x"}} },
		"names and no":   func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: id, Target: "/run/secrets/a/b"}} },
		"two secrets, configs or mounts": func(c *taskpb.ContainerSpec) {
			c.Secrets = []*taskpb.FileUse{{Source: id, Target: "x"}, {Source: id, Target: "x"}}
		},
		"permissions":    func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: id, Mode: 0o4755}} },
		"no id":          func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: "name"}} },
		"signal belongs": func(c *taskpb.ContainerSpec) { c.Secrets = []*taskpb.FileUse{{Source: id, Signal: "SIGHUP"}} },
	} {
		d := n.desired()
		spoil(d.Spec.Container)
		n.apply(d)
		if a := n.awaitPhase(d.GetTaskId(), rundpb.Phase_PHASE_FAILED); !a.GetRejected() || !strings.Contains(a.GetError(), what) {
			t.Errorf("%s: %v", what, a)
		}
	}
}
