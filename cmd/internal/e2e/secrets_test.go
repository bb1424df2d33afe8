package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// TestSecrets: a secret comes from standard input into the container that it is for,
// changes there while the program runs, and goes with the task. What it holds is in
// no file, argument or log of any host, and nodes without the task have nothing.
func TestSecrets(t *testing.T) {
	t.Parallel()
	c := up(t, "secrets", 1, 2)
	c.load()
	s := &secretStory{cluster: c, canary: "canary-" + ident.New()}
	for _, story := range []struct {
		name string
		tell func(*secretStory)
	}{
		{"a container gets what its service names", (*secretStory).given},
		{"another version comes under a running container", (*secretStory).updated},
		{"who asked is signalled or replaced", (*secretStory).told},
		{"what is used is not removed, what is missing is waited for", (*secretStory).refusals},
		{"data of any kind, and as much as may be", (*secretStory).sizes},
		{"rund is killed and the files stay", (*secretStory).rundKilled},
		{"the task moves and takes them along", (*secretStory).moved},
		{"the plaintext is nowhere else", (*secretStory).nowhere},
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

type secretStory struct {
	*cluster
	canary string // begins every secret here
}

const secretsManager = "manager-1"

// put makes or changes a secret from standard input.
func (s *secretStory) put(verb, name, text string) {
	s.t.Helper()
	if r := s.onIn(secretsManager, []byte(text), "secret", verb, name, "-"); r.code != 0 {
		s.t.Fatalf("secret %s: %v", verb, r)
	}
}

// only is the one task of a service that runs.
func (s *secretStory) only(service string) (task taskJSON) {
	s.t.Helper()
	eventually(s.t, time.Minute, func() string {
		var live []taskJSON
		for _, t := range s.tasks(secretsManager, service) {
			if t.Desired == "running" {
				live = append(live, t)
			}
		}
		if len(live) != 1 || live[0].State != "running" {
			return fmt.Sprintf("the tasks are %v", live)
		}
		task = live[0]
		return ""
	})
	return task
}

// has waits until a process has that in a file of its container.
func (s *secretStory) has(process, path, want string) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, func() string {
		b, err := os.ReadFile("/proc/" + process + "/root" + path)
		if err != nil || string(b) != want {
			return fmt.Sprintf("%s is %q, %v; want %q", path, b, err, want)
		}
		return ""
	})
}

// fileSystems are a host's tasks with files.
func (s *secretStory) fileSystems(name string) (out []string) {
	s.t.Helper()
	for line := range strings.Lines(s.inHost(name, "ls", filepath.Join(s.host(name).RunDir, "netns"))) {
		if task, ok := strings.CutPrefix(strings.TrimSpace(line), "files-"); ok {
			out = append(out, task)
		}
	}
	return out
}

func (s *secretStory) given() {
	s.put("create", "token", s.canary+"-1")
	r := s.onIn(secretsManager, []byte(`{{.Service.Name}}.{{.Task.Slot}} on {{.Node.Hostname}}: {{secret "token"}}`), "config", "create", "--template", "motd", "-")
	if r.code != 0 {
		s.t.Fatal(r)
	}
	s.ok(secretsManager, "service", "create", "--name", "web", "--constraint", "node.hostname==worker-1",
		"--secret", "source=token,target=api,uid=7,gid=8,mode=0440", "--config", "motd", "--config", "source=motd,target=/etc/motd", image)
	p := s.process(s.only("web"))
	s.has(p, "/run/secrets/api", s.canary+"-1")
	for _, path := range []string{"/run/configs/motd", "/etc/motd"} {
		s.has(p, path, "web.1 on worker-1: "+s.canary+"-1")
	}
	if got := s.mounts(p, "/run/secrets"); !strings.Contains(got, "ro,nosuid,nodev,noexec") || !strings.Contains(got, "tmpfs") {
		s.t.Errorf("mounted as %q", got)
	}
	if fi, err := os.Stat("/proc/" + p + "/root/run/secrets/..data/api"); err != nil || fi.Mode().Perm() != 0o440 {
		s.t.Errorf("%v, %v", fi, err)
	}
	if got := s.fileSystems("worker-2"); len(got) > 0 {
		s.t.Errorf("worker-2 has files of %v", got)
	}
	if got := s.fileSystems("worker-1"); len(got) != 1 {
		s.t.Errorf("worker-1 has files of %v", got)
	}
}

// mounts is the line of a mount of a process.
func (s *secretStory) mounts(process, at string) string {
	b, err := os.ReadFile("/proc/" + process + "/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == at {
			return line
		}
	}
	return ""
}

func (s *secretStory) updated() {
	task := s.only("web")
	p := s.process(task)
	s.put("update", "token", s.canary+"-2")
	s.has(p, "/run/secrets/api", s.canary+"-2")
	s.has(p, "/run/configs/motd", "web.1 on worker-1: "+s.canary+"-2")
	s.has(p, "/etc/motd", "web.1 on worker-1: "+s.canary+"-2")
	eventually(s.t, 20*time.Second, func() string {
		got := s.ok(secretsManager, "secret", "grants", "token")
		for _, want := range []string{"web", "worker-1", "manager-1", "version 2"} {
			if !strings.Contains(got, want) {
				return "the grants are\n" + got
			}
		}
		if strings.Contains(got, "worker-2") {
			s.t.Fatalf("a node without the task is named:\n%s", got)
		}
		for line := range strings.Lines(got) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "web.1" && f[len(f)-1] != "2" {
				return "the task has not acknowledged version 2:\n" + got
			}
		}
		return ""
	})
	s.ok(secretsManager, "secret", "rollback", "token")
	s.has(p, "/run/secrets/api", s.canary+"-1")
	if now := s.only("web"); now.ID != task.ID || s.process(now) != p {
		s.t.Errorf("task %s was replaced by %s", task.ID, now.ID)
	}
}

func (s *secretStory) told() {
	for name, on := range map[string]string{"restarted": "restart", "signalled": "SIGTERM"} {
		s.ok(secretsManager, "service", "create", "--name", name, "--constraint", "node.hostname==worker-2", "--restart-delay", "1s",
			"--secret", "source=token,target=api,on-update="+on, image)
		before := s.only(name)
		s.put("update", "token", s.canary+"-"+on)
		eventually(s.t, time.Minute, func() string {
			if now := s.only(name); now.ID == before.ID {
				return name + " has its first task still"
			}
			return ""
		})
		s.has(s.process(s.only(name)), "/run/secrets/api", s.canary+"-"+on)
		s.ok(secretsManager, "service", "rm", name)
	}
	eventually(s.t, time.Minute, func() string {
		if got := s.fileSystems("worker-2"); len(got) > 0 {
			return fmt.Sprintf("worker-2 has files of %v", got)
		}
		return ""
	})
}

func (s *secretStory) refusals() {
	r := s.on(secretsManager, "secret", "rm", "token")
	if r.code == 0 || !strings.Contains(r.stderr, "web") {
		s.t.Errorf("a secret that is used is removed: %v", r)
	}
	r = s.on(secretsManager, "service", "create", "--detach", "--name", "none", "--secret", "nothing", image)
	if r.code == 0 || !strings.Contains(r.stderr, "nothing") {
		s.t.Errorf("a secret that is not there is granted: %v", r)
	}
	// The template names a secret that this service does not have.
	s.ok(secretsManager, "service", "create", "--detach", "--name", "poor", "--config", "motd", image)
	eventually(s.t, time.Minute, func() string {
		for _, t := range s.tasks(secretsManager, "poor") {
			if t.State == "running" {
				s.t.Fatal("a task runs without a secret that it needs")
			}
			if strings.Contains(t.Message, `names the secret "token"`) {
				return ""
			}
		}
		return fmt.Sprintf("it does not say why: %v", s.tasks(secretsManager, "poor"))
	})
	s.ok(secretsManager, "service", "rm", "poor")
	for text, want := range map[string]string{`{{range 9999999999}}{{end}}`: "not part of the language", "{{": "unclosed"} {
		if r := s.onIn(secretsManager, []byte(text), "config", "create", "--template", "bad", "-"); r.code == 0 || !strings.Contains(r.stderr, want) {
			s.t.Errorf("template %q: %v", text, r)
		}
	}
}

func (s *secretStory) rundKilled() {
	task := s.only("web")
	p := s.process(task)
	before, err := os.ReadFile("/proc/" + p + "/root/run/secrets/api")
	if err != nil {
		s.t.Fatal(err)
	}
	s.inHost("worker-1", "kill", "-9", strconv.Itoa(s.daemons(s.host("worker-1"))["redoubt-rund"]))
	s.has(p, "/run/secrets/api", string(before))
	s.put("update", "token", s.canary+"-3")
	s.has(p, "/run/secrets/api", s.canary+"-3")
	if now := s.only("web"); now.ID != task.ID {
		s.t.Errorf("task %s was replaced by %s", task.ID, now.ID)
	}
}

func (s *secretStory) moved() {
	s.ok(secretsManager, "service", "update", "--constraint-rm", "node.hostname==worker-1", "--constraint-add", "node.hostname==worker-2", "web")
	eventually(s.t, time.Minute, func() string {
		if n := s.only("web"); n.Node != "worker-2" {
			return "it is on " + n.Node
		}
		if got := s.fileSystems("worker-1"); len(got) > 0 {
			return fmt.Sprintf("worker-1 has files of %v", got)
		}
		return ""
	})
	s.has(s.process(s.only("web")), "/run/secrets/api", s.canary+"-3")
}

func (s *secretStory) nowhere() {
	var dirs []string
	for _, h := range s.hosts() {
		dirs = append(dirs, h.DataDir, h.RunDir)
		// As the host sees it, but for the one place where it belongs.
		out, err := exec.Command(filepath.Join(binDir, "redoubt"), "lab", "exec", "--name", s.name, h.Name, "--",
			"grep", "-rlsa", "-D", "skip", "--exclude-dir=files-*", s.canary, h.RunDir, "/run/containerd").Output()
		if len(out) > 0 {
			s.t.Errorf("%s: the plaintext is in %s (%v)", h.Name, out, err)
		}
	}
	dirs = append(dirs, filepath.Join("/var/lib/redoubt-lab", s.name), filepath.Join("/run/redoubt-lab", s.name))
	scan := func(text string) string {
		out, _ := exec.Command("grep", append([]string{"-rlsa", "-D", "skip", text}, dirs...)...).Output()
		return string(out)
	}
	if out := scan(s.canary); out != "" {
		s.t.Errorf("the plaintext is in %s", out)
	}
	// What the scan must find: the specification, with the use of the secret, is in the
	// database of containerd.
	if out := scan("/run/secrets"); !strings.Contains(out, "containerd") {
		s.t.Errorf("the scan does not see what there is, but %q", out)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/*")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range procs {
		if name := filepath.Base(p); name != "cmdline" && name != "environ" {
			continue
		}
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), s.canary) {
			s.t.Errorf("the plaintext is in %s", p)
		}
	}
}

// TestSecretTimes measures how long another version of a secret takes to the last of
// REDOUBT_SECRET_TASKS containers (12) on three workers, REDOUBT_SECRET_ROUNDS times (3):
// from before the command that changes it to when the file of each was seen to be new.
func TestSecretTimes(t *testing.T) {
	tasks, rounds := 12, 3
	for name, n := range map[string]*int{"REDOUBT_SECRET_TASKS": &tasks, "REDOUBT_SECRET_ROUNDS": &rounds} {
		if v, err := strconv.Atoi(os.Getenv(name)); err == nil && v > 0 {
			*n = v
		}
	}
	c := up(t, "secret-times", 1, 3)
	c.load()
	s := &secretStory{cluster: c, canary: "canary-" + ident.New()}
	s.put("create", "token", s.canary+"-0")
	s.ok(secretsManager, "service", "create", "--timeout", "3m", "--name", "web", "--replicas", strconv.Itoa(tasks), "--secret", "token", image)
	var files []string
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range exes {
		file := filepath.Join(filepath.Dir(exe), "root/run/secrets/token")
		if to, err := os.Readlink(exe); err == nil && to == "/demoapp" {
			if b, err := os.ReadFile(file); err == nil && string(b) == s.canary+"-0" {
				files = append(files, file)
			}
		}
	}
	if len(files) != tasks {
		t.Fatalf("%d of %d containers have the secret", len(files), tasks)
	}
	for round := range rounds {
		want := fmt.Sprintf("%s-%d", s.canary, round+1)
		began := time.Now()
		s.put("update", "token", want)
		said := time.Since(began)
		for _, f := range files {
			for {
				if b, err := os.ReadFile(f); err == nil && string(b) == want {
					break
				}
				if time.Since(began) > time.Minute {
					t.Fatalf("%s is not new after a minute", f)
				}
				time.Sleep(time.Millisecond)
			}
		}
		t.Logf("%d containers: the command took %v, the last had it after %v", tasks, said.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
}
