package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStacks: five compose files run as they are written, change, fail, are taken back
// and go, and a deployer of one stack deploys that one.
func TestStacks(t *testing.T) {
	t.Parallel()
	c := up(t, "stacks", 1, 2)
	c.load()
	s := &stackStory{cluster: c, env: []string{"TOKEN=canary-1"}}
	for _, story := range []struct {
		name string
		tell func(*stackStory)
	}{
		{"a voting app", (*stackStory).voting},
		{"a blog and its database", (*stackStory).blog},
		{"secrets, configs, healthchecks and a policy", (*stackStory).shop},
		{"one on every node", (*stackStory).agents},
		{"layers of files", (*stackStory).layers},
		{"the same again changes nothing", (*stackStory).again},
		{"an update, and one that fails and is taken back", (*stackStory).updates},
		{"a clumsy operator", (*stackStory).clumsy},
		{"names that another has", (*stackStory).claims},
		{"a deployer of one stack", (*stackStory).deployer},
		{"what goes, goes with all that is its", (*stackStory).removal},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			inner, sub := *s, *c
			sub.t = t
			inner.cluster = &sub
			story.tell(&inner)
		}) {
			return
		}
	}
}

type stackStory struct {
	*cluster
	env []string // of the deployer
}

// stackFile is a file of testdata/stacks.
func stackFile(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "stacks", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// stack runs `redoubt stack args…` on the manager, with NAME=value before it.
func (s *stackStory) stack(args ...string) result {
	s.t.Helper()
	env := append([]string{"env"}, s.env...)
	for len(args) > 0 && strings.Contains(args[0], "=") {
		env, args = append(env, args[0]), args[1:]
	}
	line := append(append([]string{"lab", "exec", "--name", s.name, "manager-1", "--"}, env...), "redoubt", "stack")
	for i, a := range args {
		if strings.HasSuffix(a, ".yml") && !filepath.IsAbs(a) {
			args[i] = stackFile(s.t, a)
		}
	}
	return run(s.t, nil, append(line, args...)...)
}

// done is stack for commands that must succeed.
func (s *stackStory) done(args ...string) result {
	s.t.Helper()
	r := s.stack(args...)
	if r.code != 0 {
		s.t.Fatalf("stack %v: %v", args, r)
	}
	return r
}

// answers waits until a page of a host has want in it.
func (s *stackStory) answers(host, url, want string) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, func() string {
		r := run(s.t, nil, "lab", "exec", "--name", s.name, host, "--", "curl", "-sS", "--max-time", "3", url)
		if r.code != 0 || !strings.Contains(r.stdout, want) {
			return fmt.Sprintf("%s at %s: %v", url, host, r)
		}
		return ""
	})
}

// one is a task of a service that runs.
func (s *stackStory) one(service string) *place {
	s.t.Helper()
	return s.place(s.serving(service)[0])
}

func (s *stackStory) voting() {
	r := s.done("deploy", "-c", "voting.yml", "vote")
	for _, want := range []string{"network vote_backend: created", "network vote_frontend: created", "service vote_vote: created"} {
		if !strings.Contains(r.stdout, want) {
			s.t.Errorf("%q is not in %s", want, r.stdout)
		}
	}
	s.answers("worker-1", "http://127.0.0.1:5000/", "hello from")
	s.answers("manager-1", "http://127.0.0.1:5001/", "hello from")
	worker, vote := s.one("vote_worker"), s.one("vote_vote")
	for _, name := range []string{"redis", "vote_redis", "db", "vote"} {
		if _, err := worker.names(name); err != nil {
			s.t.Errorf("the worker does not find %s: %v", name, err)
		}
	}
	if addrs, err := vote.names("db"); err == nil {
		s.t.Errorf("the front end finds the database at %v", addrs)
	}
	if got := s.done("ls").stdout; !strings.Contains(got, "vote   5          6/6") {
		s.t.Errorf("stack ls: %s", got)
	}
	if got := s.done("ps", "vote").stdout; !strings.Contains(got, "vote_worker.1") || !strings.Contains(got, "vote_vote.2") {
		s.t.Errorf("stack ps: %s", got)
	}
	if got := s.done("services", "vote").stdout; !strings.Contains(got, "*:5000->80/tcp") {
		s.t.Errorf("stack services: %s", got)
	}
}

func (s *stackStory) blog() {
	s.done("deploy", "-c", "blog.yml", "blog")
	s.answers("worker-2", "http://127.0.0.1:8081/", "hello from")
	blog := s.one("blog_wordpress")
	addrs, err := blog.names("db")
	if err != nil || len(addrs) != 1 {
		s.t.Fatalf("the database is at %v, %v", addrs, err)
	}
	if got, err := blog.page(addrs[0] + ":3306"); err != nil || !strings.Contains(got, "hello from") {
		s.t.Errorf("the database says %q, %v", got, err)
	}
	s.holds("blog_db", "/run/secrets/db_root", "not a real one\n")
	if got := s.ok("manager-1", "volume", "ls", "--filter", "label=com.docker.stack.namespace=blog", "--format", "{{.Name}} {{.State}} {{len .Nodes}}"); got != "blog_db_data used 1\nblog_wp_data used 1\n" {
		s.t.Errorf("volumes: %s", got)
	}
}

// holds waits until a service's task has that in a file.
func (s *stackStory) holds(service, path, want string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, func() string {
		b, err := os.ReadFile("/proc/" + s.process(s.serving(service)[0]) + "/root" + path)
		if err != nil || string(b) != want {
			return fmt.Sprintf("%s is %q, %v; want %q", path, b, err, want)
		}
		return ""
	})
}

func (s *stackStory) shop() {
	plan := s.done("deploy", "-c", "shop.yml", "--dry-run", "--format", "{{len .Steps}}", "shop").stdout
	if plan != "8\n" {
		s.t.Errorf("the plan has %s steps", plan)
	}
	if r := s.done("deploy", "-c", "shop.yml", "shop"); strings.Contains(r.stderr, "warning") || strings.Contains(r.String(), "canary") {
		s.t.Errorf("it says %v", r)
	}
	s.holds("shop_web", "/run/secrets/api", "canary-1")
	s.holds("shop_web", "/etc/motd", "hello shop_web")
	s.answers("worker-1", "http://127.0.0.1:8082/", "hello from")
	if got, err := s.one("shop_web").get("db"); err != nil || !strings.Contains(got, "hello from") {
		s.t.Errorf("web at the database: %q, %v", got, err)
	}
	thief := s.one("shop_thief")
	if addrs, err := thief.names("db"); err == nil {
		if got, err := thief.page(addrs[0]); err == nil {
			s.t.Errorf("what no policy lets in got %q", got)
		}
	}
}

func (s *stackStory) agents() {
	s.done("deploy", "-c", "agents.yml", "ops")
	for _, worker := range []string{"worker-1", "worker-2"} {
		s.answers(worker, "http://"+s.host(worker).Address+":9100/", "hello from")
	}
	if got := s.ok("manager-1", "service", "inspect", "ops_probe", "--format", "{{.service.spec.labels.team}} {{.service.spec.task.container.labels.kind}} {{.service.spec.task.identity.none}}"); got != "ops probe true\n" {
		s.t.Errorf("it is %s", got)
	}
	for _, task := range s.serving("ops_probe") {
		p := "/proc/" + s.process(task)
		for file, want := range map[string]string{
			"environ": "\x00WHERE=" + task.Node + "\x00", "root/etc/hosts": "10.0.0.7", "limits": " 1024                 files", // the bound: Go raises its own
		} {
			if b, err := os.ReadFile(filepath.Join(p, file)); err != nil || !strings.Contains("\x00"+string(b), want) {
				s.t.Errorf("%s of %s has no %q: %q, %v", file, task.Name, want, b, err)
			}
		}
	}
}

func (s *stackStory) layers() {
	s.done("PORT=80", "deploy", "-c", "layers.yml", "-c", "layers.prod.yml", "layers")
	if got := s.ok("manager-1", "service", "inspect", "layers_api", "--format", "{{.wanted}} {{.service.spec.task.container.env}}"); got != "2 [LAYER=production]\n" {
		s.t.Errorf("layers_api is %s", got)
	}
	if got := s.ok("manager-1", "service", "ls", "--filter", "label=com.docker.stack.namespace=layers", "--format", "{{.Name}}"); got != "layers_api\nlayers_part\n" {
		s.t.Errorf("there are %s", got)
	}
	s.done("deploy", "-c", "layers.yml", "--profile", "debug", "layers")
	if got := s.done("services", "layers", "--format", "{{.Name}} {{.Wanted}}").stdout; got != "layers_api 1\nlayers_debug 1\nlayers_part 1\n" {
		s.t.Errorf("with the profile there are %s", got)
	}
}

// revisions are the services with their revisions and versions.
func (s *stackStory) revisions() string {
	s.t.Helper()
	return s.ok("manager-1", "service", "inspect", "shop_web", "shop_db", "shop_thief", "vote_vote", "blog_db", "--format", "{{.service.spec.name}} {{.service.revision}}") +
		s.ok("manager-1", "secret", "ls", "--format", "{{.Name}} {{.Current}}") + s.ok("manager-1", "config", "ls", "--format", "{{.Name}} {{.Current}}")
}

func (s *stackStory) again() {
	before := s.revisions()
	for _, args := range [][]string{{"-c", "shop.yml", "shop"}, {"-c", "voting.yml", "vote"}, {"-c", "blog.yml", "blog"}} {
		if r := s.done(append([]string{"deploy"}, args...)...); r.stdout != "all is as the files say\n" {
			s.t.Errorf("%v again: %v", args, r)
		}
	}
	if after := s.revisions(); after != before {
		s.t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
}

func (s *stackStory) updates() {
	process := s.process(s.serving("shop_web")[0])
	if r := s.done("TOKEN=canary-2", "MOTD=good day", "deploy", "-c", "shop.yml", "shop"); r.stdout != "secret shop_token: updated\nconfig shop_motd: updated\n" {
		s.t.Errorf("another secret: %v", r)
	}
	s.holds("shop_web", "/run/secrets/api", "canary-2")
	s.holds("shop_web", "/etc/motd", "good day shop_web")
	if now := s.process(s.serving("shop_web")[0]); now != process {
		s.t.Errorf("the task was replaced for it: %s, and was %s", now, process)
	}
	before := s.done("TOKEN=canary-2", "MOTD=good day", "deploy", "-c", "shop.yml", "--dry-run", "shop").stdout
	if strings.Contains(before, "update") {
		s.t.Errorf("it is not as the files say: %s", before)
	}
	// Its checks fail: nothing of it stays.
	r := s.stack("TOKEN=canary-3", "MOTD=good night", "CHECK=1", "deploy", "-c", "shop.yml", "-q", "--timeout", "15s", "--rollback-on-failure", "shop")
	if r.code != 3 || !strings.Contains(r.stderr, "service shop_web: ") || !strings.Contains(r.stderr, "it was taken back") {
		s.t.Errorf("an update that fails: %v", r)
	}
	for _, want := range []string{"config shop_motd has version 2 again", "secret shop_token has version 2 again", "service shop_web is as it was before"} {
		if !strings.Contains(r.stdout, want) {
			s.t.Errorf("%q is not in %s", want, r.stdout)
		}
	}
	if got := s.done("TOKEN=canary-2", "MOTD=good day", "deploy", "-c", "shop.yml", "shop"); got.stdout != "all is as the files say\n" {
		s.t.Errorf("after that: %v", got)
	}
	s.holds("shop_web", "/run/secrets/api", "canary-2")
	// The cluster takes it back itself, where the file says so.
	r = s.stack("TOKEN=canary-2", "MOTD=good day", "CHECK=1", "ON_FAILURE=rollback", "deploy", "-c", "shop.yml", "-q", "--timeout", "60s", "shop")
	if r.code != 3 || !strings.Contains(r.stderr, "service shop_web: ") {
		s.t.Errorf("an update that the cluster takes back: %v", r)
	}
	s.answers("worker-1", "http://127.0.0.1:8082/", "hello from")
	// What was held before is the version of before.
	s.done("deploy", "-q", "-c", "shop.yml", "shop")
	if got := s.ok("manager-1", "secret", "ls", "--filter", "name=shop_token", "--format", "{{.Current}}"); got != "1\n" {
		s.t.Errorf("what was held at first is version %s", got)
	}
}

// clumsy interrupts a deployment, and does it again.
func (s *stackStory) clumsy() {
	cmd := exec.Command(filepath.Join(binDir, "redoubt"), "lab", "exec", "--name", s.name, "manager-1", "--", "redoubt", "stack", "deploy", "-c", stackFile(s.t, "voting.yml"), "again")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, 20*time.Second, func() string {
		if r := s.on("manager-1", "network", "inspect", "again_backend"); r.code != 0 {
			return "nothing is deployed"
		}
		return ""
	})
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		s.t.Log("it was faster")
	}
	// The ports are the other one's; without them it goes on from where it was.
	s.done("rm", "vote")
	r := s.done("deploy", "-c", "voting.yml", "again")
	if strings.Contains(r.stdout, "network again_backend: created") {
		s.t.Errorf("it began anew: %v", r)
	}
	s.answers("worker-1", "http://127.0.0.1:5000/", "hello from")
}

func (s *stackStory) claims() {
	s.ok("manager-1", "service", "create", "-q", "--name", "agents_probe", image)
	r := s.stack("deploy", "-c", "agents.yml", "agents")
	if r.code != 1 || !strings.Contains(r.stderr, "service agents_probe is there already and of no stack") || !strings.Contains(r.stderr, "nothing was done") {
		s.t.Errorf("a name that is taken: %v", r)
	}
	if r := s.on("manager-1", "network", "inspect", "agents_default"); r.code == 0 {
		s.t.Error("something of it was done")
	}
	s.ok("manager-1", "service", "rm", "agents_probe")
	// Stack a, service b_c; stack a_b, service c.
	one, two := filepath.Join(s.t.TempDir(), "one.yml"), filepath.Join(s.t.TempDir(), "two.yml")
	for path, service := range map[string]string{one: "b_c", two: "c"} {
		if err := os.WriteFile(path, []byte("services: {"+service+": {image: '"+image+"'}}\n"), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	s.done("deploy", "-q", "-c", one, "a")
	if r := s.stack("deploy", "-c", two, "a_b"); r.code != 1 || !strings.Contains(r.stderr, "service a_b_c is of stack a") {
		s.t.Errorf("two stacks, one name: %v", r)
	}
	s.done("rm", "a")
}

func (s *stackStory) deployer() {
	d := s.desk("worker-1")
	if r := d.run(s.ok("manager-1", "person", "invite", "-q", "dora"), "context", "create", "prod", "--use"); r.code != 0 {
		s.t.Fatal(r)
	}
	file := stackFile(s.t, "voting.yml")
	d.refused(5, "person:dora may not ", "stack", "deploy", "-c", file, "dora")
	s.ok("manager-1", "auth", "bind", "viewer", "person:dora")
	s.ok("manager-1", "auth", "bind", "deployer", "person:dora", "--label", "com.docker.stack.namespace=dora")
	s.done("rm", "again") // which has the ports
	d.ok("stack", "deploy", "-q", "-c", file, "dora")
	d.refused(5, "person:dora may not network.create on network other_default", "stack", "deploy", "-c", stackFile(s.t, "layers.yml"), "other")
	if r := d.run("", "stack", "rm", "shop"); r.code != 5 || !strings.Contains(r.stderr, "person:dora may not service.remove on service shop_db") {
		s.t.Errorf("another's stack: %v", r)
	}
	d.ok("stack", "deploy", "-q", "-c", file, "dora")
	d.ok("stack", "rm", "dora")
}

func (s *stackStory) removal() {
	s.ok("manager-1", "service", "create", "-q", "--name", "guest", "--secret", "shop_token", image)
	r := s.done("rm", "shop", "layers", "ops")
	if !strings.Contains(r.stderr, "secret shop_token stays: in use by service guest") {
		s.t.Errorf("what is in use: %v", r)
	}
	s.ok("manager-1", "service", "rm", "guest")
	if r := s.done("rm", "shop", "blog"); !strings.Contains(r.stderr, "volume blog_db_data stays, with its data") {
		s.t.Errorf("volumes: %v", r)
	}
	s.ok("manager-1", "volume", "rm", "blog_db_data", "blog_wp_data")
	for _, kind := range []string{"service", "network", "secret", "config", "policy"} {
		left := strings.Fields(s.ok("manager-1", kind, "ls", "--format", "{{.Name}}"))
		if slices.ContainsFunc(left, func(name string) bool { return strings.Contains(name, "_") }) {
			s.t.Errorf("of %s there are still %v", kind, left)
		}
	}
	if r := s.stack("rm", "shop"); r.code != 1 || !strings.Contains(r.stderr, `no stack "shop"`) {
		s.t.Errorf("once more: %v", r)
	}
}
