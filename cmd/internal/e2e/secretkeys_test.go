package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSecretsOutliveTheirMaster: a manager is removed, and with it the cluster's key
// for secrets; all versions are sealed to the next one, keyds forget the one before,
// and tasks made after that read what was made before.
func TestSecretsOutliveTheirMaster(t *testing.T) {
	t.Parallel()
	c := up(t, "secretkeys", 3, 1)
	c.load()
	const m = "manager-1"
	plain := []byte("canary-of-before\x00\xff")
	if r := c.onIn(m, plain, "secret", "create", "before", "-"); r.code != 0 {
		t.Fatalf("secret create: %v", r)
	}
	for i := range 140 { // more than are sealed anew at once
		if r := c.onIn("manager-2", fmt.Appendf(nil, "v%d", i), "secret", "create", fmt.Sprintf("filler-%d", i), "-"); r.code != 0 {
			t.Fatalf("secret create: %v", r)
		}
	}
	c.lab("stop", "manager-3")
	eventually(t, time.Minute, func() string {
		if names, all := c.voters(m); len(names) != 2 {
			return all
		}
		return ""
	})
	start := time.Now()
	c.leave(m, "node", "rm", "--force", "manager-3")
	for _, host := range []string{m, "manager-2"} {
		eventually(t, time.Minute, func() string {
			raw, err := os.ReadFile(filepath.Join(c.host(host).DataDir, "keyd", "journal"))
			if err != nil {
				return err.Error()
			}
			if !strings.Contains(string(raw), `"event":"drop-masters"`) {
				return "keyd of " + host + " still has the master of before"
			}
			return ""
		})
		t.Logf("keyd of %s has one master again after %v", host, time.Since(start).Round(10*time.Millisecond))
	}
	if r := c.onIn("manager-2", []byte("after"), "secret", "create", "after", "-"); r.code != 0 {
		t.Errorf("a secret made after that: %v", r)
	}
	c.ok(m, "service", "create", "--name", "web", "--secret", "before", "--secret", "source=after,target=now,mode=0444", image)
	var tasks []struct{ ID string }
	c.decode(c.ok(m, "service", "ps", "--format", "json", "web"), &tasks)
	pid := c.taskPID(tasks[0].ID)
	for name, want := range map[string]string{"before": string(plain), "now": "after"} {
		path := fmt.Sprintf("/proc/%d/root/run/secrets/%s", pid, name)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	grants := c.ok(m, "secret", "grants", "before")
	for _, want := range []string{"web", "/run/secrets/before", "worker-1", "manager-1, manager-2"} {
		if !strings.Contains(grants, want) {
			t.Errorf("grants lacks %q:\n%s", want, grants)
		}
	}
	c.refused(m, 1, "in use", nil, "secret", "rm", "before")
}
