package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// TestDeploymentLock: a manager that was taken over, a build that believes whatever it
// is told, cannot have a worker under the deployment lock run what no deployer signed,
// nor something else in the place of what one signed, nor what was signed before; what
// was signed runs.
func TestDeploymentLock(t *testing.T) {
	t.Parallel()
	c := up(t, "lock", 1, 1, "--bin-dir", compromised(t))
	c.load()
	s := &lockStory{cluster: c, dir: t.TempDir()}
	s.deployers()
	for _, story := range []struct {
		name string
		tell func(*lockStory)
	}{
		{"a worker is told by its root whom to trust", (*lockStory).trusted},
		{"what is signed runs, and gets its secret", (*lockStory).signed},
		{"what nobody signed does not", (*lockStory).unsigned},
		{"what was signed is not changed", (*lockStory).changed},
		{"what was signed before does not come back", (*lockStory).replayed},
		{"a config has the content that was signed", (*lockStory).config},
		{"a change goes on from what was signed last", (*lockStory).base},
		{"redoubtd and managers cannot take the lock away", (*lockStory).kept},
		{"who joins by a token is told by it", (*lockStory).joined},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			inner, sub := *s, *c
			sub.t = t
			inner.cluster = &sub
			story.tell(&inner)
			*s = inner
			s.cluster = c
		}) {
			return
		}
	}
}

// compromised is a directory of binaries, of which redoubtd believes anything.
func compromised(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	all, err := os.ReadDir(binDir)
	if err != nil {
		t.Fatal(err)
	}
	from, err := filepath.Abs(binDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Name() == "redoubtd" {
			continue
		}
		if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags", "redoubt_compromised", "-o", filepath.Join(dir, "redoubtd"), "./cmd/redoubtd")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

type lockStory struct {
	*cluster
	dir   string // of the deployers' machine
	image string // with its digest
	first []byte // what web was signed as first
	old   *schedulerpb.ServiceSpec
}

// deploy runs redoubt on the deployers' machine, by the API of the manager.
func (s *lockStory) deploy(args ...string) result { s.t.Helper(); return s.as("manager-1", args...) }

func (s *lockStory) as(host string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "redoubt"), append([]string{"--host", "unix://" + filepath.Join(s.host(host).RunDir, "api.sock")}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // its code tells
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (s *lockStory) done(args ...string) string {
	s.t.Helper()
	r := s.deploy(args...)
	if r.code != 0 {
		s.t.Fatalf("redoubt %v: %v", args, r)
	}
	return strings.TrimSpace(r.stdout)
}

func (s *lockStory) deployers() {
	i, err := age.GenerateX25519Identity()
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.dir, "age.key")
	if err := os.WriteFile(file, []byte(i.String()+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var status struct {
		Node struct {
			ClusterID string `json:"cluster_id"`
		} `json:"node"`
	}
	s.decode(s.ok("manager-1", "status", "--format", "json"), &status)
	args := []string{"lock", "chain", "create", "--cluster", status.Node.ClusterID, "--threshold", "2"}
	for _, name := range []string{"ann", "bob", "cid"} {
		args = append(args, "--key", s.done("lock", "key", "create", name, "--age-identity", file))
	}
	s.done(args...)
	s.done("lock", "chain", "sign", "--with", "ann")
	if r := s.as("worker-1", "lock", "trust", s.chain()); r.code != 1 || !strings.Contains(r.stderr, "lacks 1 of the signatures") {
		s.t.Errorf("a node takes a chain that lacks a signature: %v", r)
	}
	s.done("lock", "chain", "sign", "--with", "cid")
	s.done("lock", "chain", "show")

	s.ok("manager-1", "service", "create", "--name", "early", "--constraint", "node.hostname==worker-1", image)
	s.image = image + "@" + s.spec("early").GetTask().GetContainer().GetDigest()
}

func (s *lockStory) chain() string { return filepath.Join(s.dir, "redoubt", "lock", "chain") }

func (s *lockStory) client() *apiclient.Client {
	s.t.Helper()
	c, err := apiclient.Dial(s.t.Context(), filepath.Join(s.host("manager-1").RunDir, "api.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

func (s *lockStory) service(name string) *schedulerpb.Service {
	s.t.Helper()
	r, err := s.client().ListServices(s.t.Context(), &controlpb.ListServicesRequest{Services: []string{name}})
	if err != nil || len(r.GetServices()) != 1 {
		s.t.Fatal(err)
	}
	return r.GetServices()[0].GetService()
}

func (s *lockStory) spec(name string) *schedulerpb.ServiceSpec {
	s.t.Helper()
	return s.service(name).GetSpec()
}

// store has the manager keep whatever is given.
func (s *lockStory) store(name string, sp *schedulerpb.ServiceSpec, signed []byte) {
	s.t.Helper()
	svc := s.service(name)
	if _, err := s.client().UpdateService(s.t.Context(), &controlpb.UpdateServiceRequest{Service: svc.GetId(), Version: svc.GetMeta().GetVersion(), Spec: sp, Signed: signed}); err != nil {
		s.t.Fatal(err)
	}
}

// refuses waits until the worker says no by that rule to a task of the service that do
// brings about, and looks that no such task runs.
func (s *lockStory) refuses(service, rule string, do func()) {
	s.t.Helper()
	before := map[string]bool{}
	if s.on("manager-1", "service", "inspect", service).code == 0 {
		for _, t := range s.tasks("manager-1", service) {
			before[t.ID] = true
		}
	}
	do()
	want := "deployment lock, rule " + rule
	eventually(s.t, time.Minute, func() string {
		var said []string
		for _, t := range s.tasks("manager-1", service) {
			if !before[t.ID] && strings.Contains(t.Error, want) {
				return ""
			}
			said = append(said, fmt.Sprintf("%s %s %s %q", t.Node, t.State, t.Desired, t.Error))
		}
		return fmt.Sprintf("no new task of %s says %q: %v", service, want, said)
	})
	for _, t := range s.tasks("manager-1", service) {
		if !before[t.ID] && t.State == "running" {
			s.t.Errorf("%s runs", t.ID)
		}
	}
}

func (s *lockStory) trusted() {
	early := s.done("service", "ps", "early", "-q")
	if r := s.as("worker-1", "lock", "trust", s.chain()); r.code != 0 || !strings.Contains(r.stdout, "on: this node runs signed services alone") {
		s.t.Fatal(r)
	}
	eventually(s.t, 20*time.Second, func() string {
		r := s.on("manager-1", "node", "inspect", "worker-1", "--format", "json")
		if !strings.Contains(r.stdout, "deployment-lock") {
			return "the worker does not say that it has the lock"
		}
		return ""
	})
	if now := s.done("service", "ps", "early", "-q"); now != early {
		s.t.Errorf("what ran before was touched: %s, %s", early, now)
	}
}

func (s *lockStory) signed() {
	if r := s.onIn("manager-1", []byte("hunter2"), "secret", "create", "token", "-"); r.code != 0 {
		s.t.Fatal(r)
	}
	args := []string{"service", "create", "--name", "web", "--constraint", "node.hostname==worker-1", "--secret", "token", "--sign-with", "bob"}
	if r := s.deploy(append(args, image)...); r.code != 2 || !strings.Contains(r.stderr, "by its digest") {
		s.t.Errorf("a manager chooses what is signed: %v", r)
	}
	s.done(append(args, s.image)...)
	s.first, s.old = s.service("web").GetSigned(), s.spec("web")
	s.done("service", "scale", "web=2", "--sign-with", "ann")
	s.done("service", "scale", "web=1") // within what was signed
	s.done("service", "update", "--env-add", "A=b", "--sign-with", "cid", "web")
	tasks := &secretStory{cluster: s.cluster}
	tasks.has(tasks.process(tasks.only("web")), "/run/secrets/token", "hunter2")
	if r := s.onIn("manager-1", []byte("hunter3"), "secret", "update", "token", "-"); r.code != 0 {
		s.t.Fatal(r)
	}
	tasks.has(tasks.process(tasks.only("web")), "/run/secrets/token", "hunter3")
}

func (s *lockStory) unsigned() {
	s.refuses("miner", "signed", func() {
		s.ok("manager-1", "service", "create", "-d", "--name", "miner", "--constraint", "node.hostname==worker-1", "--secret", "token", image)
	})
	s.ok("manager-1", "service", "rm", "miner")
	if got := (&secretStory{cluster: s.cluster}).fileSystems("worker-1"); len(got) > 2 { // web's, and one of before
		s.t.Errorf("files of %v are on the worker", got)
	}
	// Under another name, by web's signature.
	sp := proto.CloneOf(s.spec("web"))
	sp.Name = "other"
	s.refuses("other", "service", func() {
		if _, err := s.client().CreateService(s.t.Context(), &controlpb.CreateServiceRequest{Signed: s.service("web").GetSigned(), Spec: sp}); err != nil {
			s.t.Fatal(err)
		}
	})
	s.ok("manager-1", "service", "rm", "other")
	// There is no other way in: what the API can do is in its list of calls.
	if r := s.on("manager-1", "service", "exec", "web"); r.code != 2 {
		s.t.Errorf("there is a way to run something in a container: %v", r)
	}
}

func (s *lockStory) changed() {
	good := s.service("web")
	for what, change := range map[string]func(*taskpb.ContainerSpec){
		"command": func(c *taskpb.ContainerSpec) { c.Command = []string{"/demo", "--listen", ":99"} },
		"image": func(c *taskpb.ContainerSpec) {
			c.Digest = "sha256:" + strings.Repeat("0", 64)
			c.Image = "redoubt.lab/demo@" + c.Digest
		},
		"secrets":     func(c *taskpb.ContainerSpec) { c.Secrets[0].Target = "stolen" },
		"healthcheck": func(c *taskpb.ContainerSpec) { c.Healthcheck = &taskpb.Healthcheck{Test: []string{"CMD", "/demo"}} },
	} {
		sp := proto.CloneOf(good.GetSpec())
		change(sp.Task.Container)
		s.t.Log(what)
		s.refuses("web", "spec", func() { s.store("web", sp, good.GetSigned()) })
		s.store("web", good.GetSpec(), good.GetSigned())
		(&secretStory{cluster: s.cluster}).only("web")
	}
	sp := proto.CloneOf(good.GetSpec())
	sp.GetReplicated().Replicas = 3
	s.refuses("web", "replicas", func() { s.store("web", sp, good.GetSigned()) })
	s.store("web", good.GetSpec(), good.GetSigned())
	(&secretStory{cluster: s.cluster}).only("web")
}

func (s *lockStory) replayed() {
	good := s.service("web")
	s.refuses("web", "version", func() { s.store("web", s.old, s.first) })
	// Also where rund does not remember by itself.
	s.lab("kill", "worker-1")
	s.lab("start", "worker-1")
	sp := proto.CloneOf(s.old)
	sp.Task.Force++
	s.refuses("web", "version", func() { s.store("web", sp, s.first) })
	s.store("web", good.GetSpec(), good.GetSigned())
	(&secretStory{cluster: s.cluster}).only("web")
}

func (s *lockStory) config() {
	if r := s.onIn("manager-1", []byte("a=1"), "config", "create", "conf", "-"); r.code != 0 {
		s.t.Fatal(r)
	}
	add := []string{"service", "update", "--config-add", "conf", "--sign-with", "ann", "web"}
	if r := s.deploy(add...); r.code != 2 || !strings.Contains(r.stderr, "nobody signed what it holds") {
		s.t.Errorf("what a manager says that a config holds is signed: %v", r)
	}
	if r := s.deploy(append(add, "--sign-config", "conf="+s.file("conf", "a=0"))...); r.code != 1 || !strings.Contains(r.stderr, "another content than your file") {
		s.t.Errorf("a manager has another content than the deployer: %v", r)
	}
	s.done(append(add, "--sign-config", "conf="+s.file("conf", "a=1"))...)
	tasks := &secretStory{cluster: s.cluster}
	p := tasks.process(tasks.only("web"))
	tasks.has(p, "/run/configs/conf", "a=1")
	if r := s.onIn("manager-1", []byte("a=2"), "config", "update", "conf", "-"); r.code != 0 {
		s.t.Fatal(r)
	}
	s.ok("manager-1", "service", "scale", "-d", "web=1")
	if b, err := os.ReadFile("/proc/" + p + "/root/run/configs/conf"); err != nil || string(b) != "a=1" {
		s.t.Errorf("%q, %v", b, err)
	}
	label := []string{"service", "update", "--label-add", "x=y", "--sign-with", "ann", "web"}
	if r := s.deploy(label...); r.code != 1 || !strings.Contains(r.stderr, "is not what was signed of it") {
		s.t.Errorf("a content that a manager changed is signed along: %v", r)
	}
	s.done(append(label, "--sign-config", "conf="+s.file("conf", "a=2"))...)
	tasks.has(tasks.process(tasks.only("web")), "/run/configs/conf", "a=2")
}

// file is one on the deployers' machine.
func (s *lockStory) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// base: a manager shows what was signed before as what there is.
func (s *lockStory) base() {
	good := s.service("web")
	s.store("web", s.old, s.first)
	if r := s.deploy("service", "update", "--env-add", "Z=1", "--sign-with", "ann", "web"); r.code != 1 || !strings.Contains(r.stderr, "this machine knows of something signed") {
		s.t.Errorf("a change goes on from what deployers left behind: %v", r)
	}
	s.store("web", good.GetSpec(), good.GetSigned())
	r := s.deploy("service", "update", "--env-add", "Z=1", "--sign-with", "ann", "web")
	if r.code != 0 || !strings.Contains(r.stderr, "web was signed 20") || !strings.Contains(r.stderr, "task.container.env") {
		s.t.Errorf("what is signed is not shown: %v", r)
	}
	(&secretStory{cluster: s.cluster}).only("web")
}

// asRedoubtd runs redoubt on the worker as the user that its redoubtd has.
func (s *lockStory) asRedoubtd(args ...string) result {
	s.t.Helper()
	sock := filepath.Join(s.host("worker-1").RunDir, "rund.sock")
	fi, err := os.Stat(sock)
	if err != nil {
		s.t.Fatal(err)
	}
	uid := fi.Sys().(*syscall.Stat_t).Uid
	if uid == 0 {
		s.t.Fatal("rund's socket is root's: redoubtd would have no user of its own")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program := filepath.Join(s.dir, "program") // the one that is built may lie where that user cannot see it
	b, err := os.ReadFile(filepath.Join(binDir, "redoubt"))
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--host", "unix://" + filepath.Join(s.host("worker-1").RunDir, "api.sock")}, args...)...)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "XDG_CONFIG_HOME=/nonexistent")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func (s *lockStory) kept() {
	if r := s.asRedoubtd("lock", "status"); r.code != 0 || !strings.Contains(r.stdout, "on:") {
		s.t.Errorf("this asks in vain: %v", r)
	}
	if r := s.asRedoubtd("lock", "forget"); r.code != 1 || !strings.Contains(r.stderr, "only root of this node") {
		s.t.Errorf("redoubtd has the lock forgotten: %v", r)
	}
	before := s.as("worker-1", "lock", "status")
	other := filepath.Join(s.dir, "other")
	eve := s.done("lock", "key", "create", "eve", "--age-identity", filepath.Join(s.dir, "age.key"))
	cluster := strings.Fields(strings.SplitAfter(before.stdout, "Cluster:")[1])[0]
	s.done("lock", "chain", "create", "--cluster", cluster, "--threshold", "1", "--key", eve, other)
	s.done("lock", "chain", "sign", "--with", "eve", other)
	if r := s.as("worker-1", "lock", "trust", other); r.code != 1 || !strings.Contains(r.stderr, "trusts another chain") {
		s.t.Errorf("another chain is taken: %v", r)
	}
	if after := s.as("worker-1", "lock", "status"); after.stdout != before.stdout {
		s.t.Errorf("%v, before %v", after, before)
	}
	// Two of three give another key in the place of one.
	args := []string{"lock", "chain", "extend", "--threshold", "2", "--key", eve}
	for _, f := range strings.Fields(before.stdout) {
		if strings.HasPrefix(f, "RDTD1.") && len(args) < 9 {
			args = append(args, "--key", f)
		}
	}
	s.done(args...)
	s.done("lock", "chain", "sign", "--with", "ann")
	s.done("lock", "chain", "sign", "--with", "bob")
	s.done("service", "update", "--env-add", "A=c", "--sign-with", "eve", "--sign-as-is", "web") // brings the link along
	if r := s.as("worker-1", "lock", "status"); !strings.Contains(r.stdout, eve) {
		s.t.Errorf("the worker does not follow: %v", r)
	}
}

func (s *lockStory) joined() {
	h := s.host("worker-1")
	s.ok("worker-1", "leave")
	s.ok("manager-1", "node", "rm", "--force", "worker-1")
	if r := s.as("worker-1", "lock", "status"); !strings.Contains(r.stdout, "on:") || !strings.Contains(r.stdout, "LINK") {
		s.t.Errorf("who left has no lock: %v", r)
	}
	if r := s.as("worker-1", "lock", "forget"); r.code != 0 || !strings.Contains(r.stdout, "off:") {
		s.t.Fatal(r)
	}
	token := s.done("join-token", "worker", "-q", "--lock-chain", s.chain())
	if r := s.onIn("worker-1", []byte(token), "join", s.host("manager-1").Address); r.code != 0 {
		s.t.Fatal(r)
	}
	if r := s.as("worker-1", "lock", "status"); !strings.Contains(r.stdout, "on:") || strings.Contains(r.stdout, "LINK") {
		s.t.Errorf("who joined with the lock: %v", r)
	}
	s.refuses("miner", "signed", func() {
		s.ok("manager-1", "service", "create", "-d", "--name", "miner", "--constraint", "node.hostname==worker-1", image)
	})
	(&secretStory{cluster: s.cluster}).only("web")
	if r := s.as("worker-1", "lock", "status"); !strings.Contains(r.stdout, "LINK") {
		s.t.Errorf("the chain did not come with what is signed: %v", r)
	}
	if fi, err := os.Stat(filepath.Join(h.DataDir, "rund", "lock")); err != nil || fi.Mode().Perm() != 0o600 {
		s.t.Errorf("%v, %v", fi, err)
	}
}
