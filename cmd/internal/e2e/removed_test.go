package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRemovedNodeGivesUp: a worker that is up and is removed hears it from the
// managers, ends its containers, forgets its keys, says so, also after a restart,
// and can be taken in again.
func TestRemovedNodeGivesUp(t *testing.T) {
	c := up(t, "removed", 1, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "held", "--replicas", "2", "--constraint", "node.role==worker", image)
	eventually(t, 30*time.Second, func() string {
		if n := len(c.containers()); n != 2 {
			return fmt.Sprintf("%d containers run on the worker", n)
		}
		return ""
	})
	h := c.host("worker-1")
	keys := func() (left []string) {
		for _, name := range []string{"member", "leaf"} {
			if _, err := os.Stat(filepath.Join(h.DataDir, "control", name)); err == nil {
				left = append(left, name)
			}
		}
		return left
	}
	start := time.Now()
	c.ok("manager-1", "node", "rm", "--force", "worker-1")
	eventually(t, 30*time.Second, func() string {
		r := c.on("worker-1", "status")
		if r.code != 5 || !strings.Contains(r.stdout, "removed from cluster") || !strings.Contains(r.stderr, "redoubt join") {
			return r.String()
		}
		if left := keys(); left != nil {
			return fmt.Sprintf("%v are left", left)
		}
		if n := len(c.containers()); n != 0 {
			return fmt.Sprintf("%d containers go on", n)
		}
		return ""
	})
	t.Logf("keys and containers gone %v after the removal was asked for", time.Since(start).Round(10*time.Millisecond))
	eventually(t, 30*time.Second, func() string {
		if r := c.on("worker-1", "status"); strings.Contains(r.stdout, "being ended") {
			return r.String()
		}
		return ""
	})
	// The note survives a restart, and joining again ends it.
	c.lab("stop", "worker-1")
	c.lab("start", "worker-1")
	if r := c.on("worker-1", "status"); r.code != 5 || !strings.Contains(r.stdout, "removed from cluster") {
		t.Errorf("after a restart: %v", r)
	}
	token := strings.TrimSpace(c.ok("manager-1", "join-token", "worker", "-q"))
	if r := c.onIn("worker-1", []byte(token), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Fatalf("joining again: %v", r)
	}
	eventually(t, 30*time.Second, func() string {
		if r := c.on("worker-1", "status"); r.code != 0 || strings.Contains(r.stdout, "removed") {
			return r.String()
		}
		if n := len(c.containers()); n != 2 {
			return fmt.Sprintf("%d containers run on the worker", n)
		}
		return ""
	})
}
