//go:build interop

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestInteropEndpointMode: a service that is asked all the time gets another
// endpoint mode, and back. None of its tasks is replaced, and who asks its name gets an
// answer throughout: a virtual address that was named a moment ago leads there still.
func TestInteropEndpointMode(t *testing.T) {
	t.Parallel()
	const m = "manager-1"
	c := up(t, "endpointmode", 1, 2)
	c.load()
	c.ok(m, "network", "create", "back")
	c.populate("far back worker-2", "near back worker-1")
	c.ok(m, "service", "create", "--name", "web", "--network", "back", "--replicas", "4", image)
	was := c.tasks(m, "web")
	o := &overlayStory{cluster: c}
	near, far := c.place(o.task("near")), c.place(o.task("far"))
	asked := c.traffic("web", 5*time.Millisecond, near, far)
	for _, x := range []struct {
		mode  string
		addrs int
	}{{"dnsrr", 4}, {"vip", 1}} {
		c.ok(m, "service", "update", "--endpoint-mode", x.mode, "web")
		eventually(t, 30*time.Second, func() string {
			addrs, err := near.names("web")
			if err != nil || len(addrs) != x.addrs {
				return fmt.Sprintf("%s: its name leads to %v (%v)", x.mode, addrs, err)
			}
			return ""
		})
	}
	if now := c.tasks(m, "web"); len(now) != len(was) {
		t.Errorf("tasks were replaced: %v", now)
	}
	t.Logf("%d requests", asked.stop())
}
