package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/controlpb"
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
		{"a report tells of what the lock does not hold", (*lockStory).reported},
		{"what is signed runs, and gets its secret", (*lockStory).signed},
		{"what nobody signed does not", (*lockStory).unsigned},
		{"what was signed is not changed", (*lockStory).changed},
		{"what was signed before does not come back", (*lockStory).replayed},
		{"a config has the content that was signed", (*lockStory).config},
		{"a change goes on from what was signed last", (*lockStory).base},
		{"a stack is signed, with what its configs hold", (*lockStory).stack},
		{"what was signed before is signed anew to go back to it", (*lockStory).back},
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
	files := &fileAudit{fileTable(s.t), map[string]bool{}}
	for _, wrong := range s.audit(files, s.host("worker-1")) {
		s.t.Error(wrong)
	}
	if !files.seen["<data>/rund/lock"] {
		s.t.Error("what the node trusts is in no file of docs/formats.md")
	}
}

// reported: who lacks the lock, what ran before it, and what somebody does to its file,
// is in a report. What that prints mends the file.
func (s *lockStory) reported() {
	file := filepath.Join(s.host("worker-1").DataDir, "rund", "lock")
	found := map[string]string{"lock-agreed": "manager-1 has no deployment lock", "containers-signed": "rule signed"}
	s.reports(found)
	if err := os.Remove(file); err != nil {
		s.t.Fatal(err)
	}
	found["lock-kept"] = file + " is gone"
	s.reports(found)
	if r := s.as("worker-1", "lock", "trust", s.chain()); r.code != 0 {
		s.t.Fatal(r)
	}
	delete(found, "lock-kept")
	s.reports(found)
}

// reports waits until a report has these findings about the lock, and no others.
func (s *lockStory) reports(found map[string]string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, func() string {
		r := s.on("manager-1", "compliance", "run", "--scope", "cluster", "--format", "json")
		left := maps.Clone(found)
		for _, x := range s.controls(r.stdout) {
			says, bad := found[x.Control]
			bad = bad && x.Target.Name != "manager-1"
			switch {
			case !slices.Contains([]string{"lock-agreed", "lock-kept", "containers-signed"}, x.Control):
			case bad != (x.Outcome == "fail") || bad && !strings.Contains(strings.Join(x.Evidence, "\n"), says):
				return fmt.Sprintf("%+v, want %q", x, says)
			case bad:
				delete(left, x.Control)
			}
		}
		if len(left) > 0 {
			return fmt.Sprintf("no finding of %v: %v", left, r)
		}
		return ""
	})
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

// stack: a stack's services are signed as one is, again where a config holds something
// else, and when they go back.
func (s *lockStory) stack() {
	deploy := func(level, motd string, more ...string) result {
		file := filepath.Join(s.dir, "compose.yml")
		text := fmt.Sprintf("services:\n  web:\n    image: %s\n    environment: {LEVEL: %s}\n    configs: [motd]\n    deploy: {placement: {constraints: [node.hostname==worker-1]}}\nconfigs: {motd: {content: %s}}\n", s.image, level, motd)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return s.deploy(append([]string{"stack", "deploy", "-c", file, "lab"}, more...)...)
	}
	story := &secretStory{cluster: s.cluster}
	for _, c := range [][]string{{"low", "hello"}, {"high", "hello"}, {"high", "goodbye"}} {
		if r := deploy(c[0], c[1], "--sign-with", "ann"); r.code != 0 {
			s.t.Fatal(r)
		}
		story.has(story.process(story.only("lab_web")), "/motd", c[1])
	}
	if r := deploy("high", "goodbye", "--sign-with", "ann"); r.code != 0 || r.stdout != "all is as the files say\n" {
		s.t.Errorf("the same again: %v", r)
	}
	if r := deploy("low", "goodbye", "-q", "--timeout", "10s"); r.code != 3 {
		s.t.Errorf("what nobody signed: %v", r)
	}
	if r := deploy("high", "goodbye", "--sign-with", "ann", "--sign-as-is"); r.code != 0 {
		s.t.Errorf("signed again: %v", r)
	}
	s.done("stack", "rm", "lab")
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
	// A command in a container is what nobody signed, too.
	s.refused("manager-1", 1, "runs no commands in containers: it has the deployment lock", nil, "service", "exec", "web", "/demoapp", "exit", "0")
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

// back: what was signed before is signed anew, and nodes, which begin nothing older than
// they know, run it.
func (s *lockStory) back() {
	s.done("service", "rollback", "--sign-with", "ann", "web")
	if env := s.spec("web").GetTask().GetContainer().GetEnv(); slices.Contains(env, "Z=1") {
		s.t.Errorf("it went back to %v", env)
	}
	(&secretStory{cluster: s.cluster}).only("web")
	s.done("service", "update", "--env-add", "Z=1", "--sign-with", "ann", "web")
	(&secretStory{cluster: s.cluster}).only("web")
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
	// Of the links it has that one's digest, until something that is signed brings them:
	// web may have done so already.
	if r := s.as("worker-1", "lock", "status"); !strings.Contains(r.stdout, "on:") || !strings.Contains(r.stdout, "Pinned link:") {
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
