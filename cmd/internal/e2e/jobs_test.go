package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestJobs: jobs come to their end and say how, run by a schedule and by hand, survive
// their manager, and are told of by runs.
func TestJobs(t *testing.T) {
	t.Parallel()
	c := up(t, "jobs", 1, 1)
	c.lab("load", checkedImage(t, "redoubt.test/job:1", "/probe"))
	for _, story := range []struct {
		name string
		tell func(*jobStory)
	}{
		{"to its end, and again", (*jobStory).completes},
		{"it fails", (*jobStory).fails},
		{"on each node", (*jobStory).everywhere},
		{"by a schedule", (*jobStory).scheduled},
		{"its manager dies", (*jobStory).managerDies},
		{"of a stack", (*jobStory).ofStack},
	} {
		at := time.Now()
		if !t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			story.tell(&jobStory{&sub})
		}) {
			return
		}
		t.Logf("%s: %v", story.name, time.Since(at).Round(100*time.Millisecond))
	}
}

const jobImage = "redoubt.test/job:1"

type jobStory struct{ *cluster }

// create makes a job and waits for its end.
func (s *jobStory) create(name string, args ...string) {
	s.t.Helper()
	s.ok("manager-1", append([]string{"service", "create", "-q", "--name", name, "--no-healthcheck", "--restart-delay", "100ms"}, args...)...)
}

// says fails unless `redoubt service args…` prints exactly these lines.
func (s *jobStory) says(want string, args ...string) {
	s.t.Helper()
	if got := strings.TrimSpace(s.ok("manager-1", append([]string{"service"}, args...)...)); got != want {
		s.t.Errorf("service %s:\n%s\nwant\n%s", strings.Join(args, " "), got, want)
	}
}

const runLines = "{{.Run}} {{.State}} {{.Completed}}/{{.Wanted}}"

func (s *jobStory) completes() {
	s.create("import", "--mode", "replicated-job", "--replicas", "3", "--max-concurrent", "2", jobImage, "echo", "done", "said")
	s.says("1 completed 3/3", "runs", "--format", runLines, "import")
	if got := s.ok("manager-1", "service", "ls"); !strings.Contains(got, "0/0 (3/3 completed)") {
		s.t.Error(got)
	}
	s.says("import.1 complete 1\nimport.2 complete 1\nimport.3 complete 1", "ps", "--format", "{{.Name}} {{.State}} {{.Run}}", "import")
	s.says("2", "run", "-q", "import")
	s.says("2 completed 3/3\n1 completed 3/3", "runs", "--format", runLines, "import")
	if got := s.ok("manager-1", "service", "logs", "--run", "2", "import"); strings.Count(got, "#2@worker-1 | done") != 3 || strings.Contains(got, "#1@") {
		s.t.Errorf("of run 2:\n%s", got)
	}
	s.ok("manager-1", "service", "update", "-q", "--label-add", "a=b", "import") // begins none
	s.ok("manager-1", "service", "scale", "-q", "import=1")
	s.says("3 completed 1/1\n2 completed 3/3\n1 completed 3/3", "runs", "--format", runLines, "import")
}

func (s *jobStory) fails() {
	s.refused("manager-1", 3, "run 1 of broke failed, 2 of 2 failed: ", nil, "service", "create", "-q", "--name", "broke", "--mode", "replicated-job", "--replicas", "2",
		"--no-healthcheck", "--restart-condition", "none", jobImage, "exit", "3")
	s.refused("manager-1", 1, "update settings are for services that go on", nil, "service", "update", "--update-parallelism", "2", "broke")
	// Tried once more it would do: the second attempt is no second run.
	s.refused("manager-1", 3, "failed", nil, "service", "update", "-q", "--restart-condition", "on-failure", "--restart-max-attempts", "1", "--restart-delay", "100ms", "broke")
	if n := strings.Count(s.ok("manager-1", "service", "ps", "--format", "{{.Run}} {{.State}}", "broke"), "2 failed"); n != 4 {
		s.t.Errorf("%d tasks of run 2 failed, want two of each slot", n)
	}
	if got := s.ok("manager-1", "status"); !strings.Contains(got, "run 2 of job broke has failed") {
		s.t.Errorf("status: %s", got)
	}
	s.ok("manager-1", "service", "rm", "broke")
}

func (s *jobStory) everywhere() {
	s.create("sweep", "--mode", "global-job", jobImage, "echo", "swept", "it")
	s.says("1 completed 1/1", "runs", "--format", runLines, "sweep")
	s.says("sweep.worker-1 complete", "ps", "--format", "{{.Name}} {{.State}}", "sweep")
	s.ok("manager-1", "service", "rm", "sweep")
}

func (s *jobStory) scheduled() {
	s.create("nightly", "--mode", "replicated-job", "--schedule", "30 2 * * *", "--time-zone", "Europe/Berlin", jobImage, "sleep", "1h")
	s.says("0 true", "ls", "--filter", "name=nightly", "--format", "{{.Run}} {{if .Due}}true{{end}}")
	s.ok("manager-1", "service", "run", "-d", "nightly")
	s.refused("manager-1", 1, "run 1 of job nightly is still going", nil, "service", "run", "nightly")
	s.ok("manager-1", "service", "update", "-d", "--concurrency", "replace", "nightly")
	s.says("2", "run", "-d", "nightly")
	s.says("2 running 0/1\n1 stopped 0/1", "runs", "--format", runLines, "nightly")
	eventually(s.t, 20*time.Second, func() string { // the first is stopped, and the second runs
		got := s.ok("manager-1", "service", "ps", "--format", "{{.Run}} {{.State}} {{.Desired}}", "nightly")
		if !strings.Contains(got, "2 running running") || !strings.Contains(got, "1 shutdown") && !strings.Contains(got, "1 failed") {
			return got
		}
		return ""
	})
	s.ok("manager-1", "service", "suspend", "nightly")
	if got := s.ok("manager-1", "service", "inspect", "nightly"); !strings.Contains(got, "suspended since") || !strings.Contains(got, "30 2 * * * (Europe/Berlin), replace") {
		s.t.Errorf("inspect: %s", got)
	}
	s.ok("manager-1", "service", "resume", "nightly")
	s.ok("manager-1", "service", "rm", "nightly")
	events := s.ok("manager-1", "events", "--since", "5m", "--until", "0s", "--filter", "name=nightly", "--filter", "type=service", "--format", "{{.Action}}")
	if got := strings.Join(strings.Fields(events), " "); !strings.Contains(got, "create run-begin update ") || !strings.Contains(got, "run-stop") || !strings.Contains(got, "suspend resume") {
		s.t.Errorf("events: %s", got)
	}
}

// managerDies while a run goes on, and the run comes to its end all the same, once.
func (s *jobStory) managerDies() {
	s.create("long", "-d", "--mode", "replicated-job", "--replicas", "2", "--max-concurrent", "1", jobImage, "sleep", "2s")
	eventually(s.t, 20*time.Second, func() string {
		if got := s.ok("manager-1", "service", "ps", "--format", "{{.State}}", "long"); strings.TrimSpace(got) != "running" {
			return got
		}
		return ""
	})
	s.lab("kill", "manager-1")
	s.lab("start", "manager-1")
	if r := s.onIn("manager-1", s.key(), "unlock"); r.code != 0 {
		s.t.Fatal(r)
	}
	eventually(s.t, 30*time.Second, func() string {
		if r := s.on("manager-1", "service", "runs", "--format", runLines, "long"); strings.TrimSpace(r.stdout) != "1 completed 2/2" {
			return r.String()
		}
		return ""
	})
	s.says("long.1 complete\nlong.2 complete", "ps", "--format", "{{.Name}} {{.State}}", "long")
}

func (s *jobStory) ofStack() {
	file := s.file(fmt.Sprintf(`services:
  migrate:
    image: %[1]s
    command: [echo, migrated, now]
    healthcheck: {disable: true}
    deploy: {mode: replicated-job}
  backup:
    image: %[1]s
    command: [echo, saved, it]
    deploy: {mode: global-job}
    x-redoubt-schedule: {expression: "@daily", keep: 3}
`, jobImage))
	s.ok("manager-1", "stack", "deploy", "-c", file, "shop")
	s.says("1 completed 1/1", "runs", "--format", runLines, "shop_migrate")
	s.says("", "runs", "-q", "shop_backup")
	s.ok("manager-1", "stack", "deploy", "-c", file, "shop") // again: nothing is another
	s.says("1 completed 1/1", "runs", "--format", runLines, "shop_migrate")
	s.ok("manager-1", "stack", "rm", "shop")
}

func (s *jobStory) file(text string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "compose.yml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}
