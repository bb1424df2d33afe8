//go:build interop

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestInteropAwayFromCA: a manager and a worker are off while the issuing CA is
// replaced and their certificates of the one before end. Both come back by
// themselves; the manager once it is unlocked.
func TestInteropAwayFromCA(t *testing.T) {
	useShifted(t)
	c := up(t, "awayca", 3, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--quiet", "--name", "edge", "--constraint", "node.role==worker", "--publish", "published=8080,target=80,mode=host", image)
	c.settableClocks()
	c.whole(t, 2*time.Minute)
	away := []string{"manager-3", "worker-1"}
	for _, name := range away {
		c.lab("kill", "--containers", name)
	}
	if r := c.on("manager-1", "ca", "rotate", "--detach"); r.code != 0 {
		t.Fatal(r)
	}
	// Those that are there have certificates of the new one before their own end.
	eventually(t, time.Minute, func() string {
		out := c.ok("manager-1", "ca", "inspect")
		if strings.Count(out, "manager-") < 2 || !strings.Contains(out, "former") {
			return out
		}
		return ""
	})
	for _, h := range c.hosts() {
		c.setClock(h, 2*day)
	}
	eventually(t, 3*time.Minute, func() string {
		if r := c.on("manager-1", "node", "ls"); r.code != 0 || strings.Count(r.stdout, " ready ") != 2 {
			return r.String()
		}
		return ""
	})
	t.Logf("before they are back:\n%s", c.ok("manager-1", "ca", "inspect"))
	for _, name := range away {
		c.lab("start", name)
	}
	c.unlock("manager-3")
	c.whole(t, 3*time.Minute)
	t.Logf("after:\n%s", c.ok("manager-1", "ca", "inspect"))
}
