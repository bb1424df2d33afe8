package e2e

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

// checkedImage has a HEALTHCHECK that asks whether the file is there.
func checkedImage(t *testing.T, ref, file string) string {
	t.Helper()
	dir := t.TempDir()
	program, err := rundtest.BuildStatic(dir, "github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest/probe")
	if err != nil {
		t.Fatal(err)
	}
	img, err := rundtest.BuildImage([]rundtest.File{{Name: "probe", Data: program, Mode: 0o755}}, v1.Config{
		Entrypoint: []string{"/probe"}, Cmd: []string{"deaf"},
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "/probe", "test", file}, Interval: time.Second, Retries: 1},
	}, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := rundtest.SaveDocker(f, ref, img); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTasks: a task that fails its image's healthcheck is replaced, a service
// that passes is running with its logs merged, and a drained node is empty when
// its time is over, whatever grace its tasks were given.
func TestTasks(t *testing.T) {
	t.Parallel()
	c := up(t, "tasks", 1, 1)
	const m = "manager-1"
	c.lab("load", checkedImage(t, "redoubt.test/well:1", "/probe"))
	c.lab("load", checkedImage(t, "redoubt.test/sick:1", "/nothing"))

	c.ok(m, "service", "create", "--name", "well", "--replicas", "2", "--stop-grace-period", "1h", "redoubt.test/well:1")
	logs := c.ok(m, "service", "logs", "--timestamps", "well")
	lines := strings.Split(strings.TrimSpace(logs), "\n")
	if len(lines) != 2 || lines[0] > lines[1] || !strings.Contains(logs, "well.1@") || !strings.Contains(logs, "well.2@") {
		t.Errorf("logs of two tasks, by time:\n%s", logs)
	}

	c.ok(m, "service", "create", "-d", "--name", "sick", "--stop-grace-period", "1s", "--restart-delay", "1s", "redoubt.test/sick:1")
	eventually(t, time.Minute, func() string {
		ps := c.ok(m, "service", "ps", "--no-trunc", "sick")
		if strings.Count(ps, "unhealthy: exit code 1: ") < 2 || !strings.Contains(ps, "(1 healthchecks failed in a row)") {
			return "no second task was tried and found unhealthy:\n" + ps
		}
		return ""
	})
	if ls := c.ok(m, "service", "ls"); !strings.Contains(ls, "0/1") {
		t.Errorf("a service that never passed its check is said to run:\n%s", ls)
	}
	c.ok(m, "service", "rm", "sick")

	begun := time.Now()
	c.ok(m, "node", "update", "--availability", "drain", "--drain-deadline", "5s", "worker-1")
	if text := c.ok(m, "node", "inspect", "worker-1"); !strings.Contains(text, "tasks are still there, killed in") {
		t.Errorf("the drain's progress is not shown:\n%s", text)
	}
	eventually(t, time.Minute, func() string {
		if text := c.ok(m, "node", "inspect", "worker-1"); !strings.Contains(text, "by 0 tasks") {
			return "not drained yet:\n" + text
		}
		return ""
	})
	if took := time.Since(begun); took < 4*time.Second {
		t.Errorf("killed after %v, before its time", took)
	}
}
