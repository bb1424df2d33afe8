package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFiveManagers loses more managers than five can spare, and gets them back:
// two are cut off the network, then the leader is killed. What was acknowledged
// before, between and after is there, once; nothing is acknowledged meanwhile,
// and what runs goes on.
func TestFiveManagers(t *testing.T) {
	t.Parallel()
	c := up(t, "five", 5, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--quiet", "--name", "edge", "--publish", "published=8080,target=80,mode=host", image)

	var acknowledged []string
	write := func(from, name string) result {
		r := c.on(from, "service", "create", "--detach", "--name", name, "--replicas", "0", image)
		if r.code == 0 {
			acknowledged = append(acknowledged, name)
		}
		return r
	}
	write("manager-1", "before")

	leader := c.leader("manager-1")
	var others []string
	for i := range 5 {
		if name := fmt.Sprintf("manager-%d", i+1); name != leader {
			others = append(others, name)
		}
	}
	cut, rest := others[:2], others[2:]
	c.lab("cut", cut...)
	if r := write(rest[0], "two-cut-off"); r.code != 0 {
		t.Errorf("three of five managers did not accept a write: %v", r)
	}

	c.lab("kill", leader)
	for _, from := range []string{rest[0], rest[1], cut[0]} {
		if r := write(from, "no-quorum-"+from); r.code == 0 {
			t.Errorf("%s acknowledged a write without a majority", from)
		} else if strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
			t.Errorf("%s refused in more than a line: %v", from, r)
		}
	}
	answers(t, c, "worker-1")

	c.lab("heal")
	healed := time.Now()
	eventually(t, 2*time.Minute, func() string {
		if r := write(rest[0], "healed"); r.code != 0 && !strings.Contains(r.stderr, "exists") {
			return r.String()
		}
		return ""
	})
	t.Logf("a write was acknowledged %v after the cables were back", time.Since(healed).Round(100*time.Millisecond))

	c.lab("start", leader)
	c.unlock(leader)
	eventually(t, 2*time.Minute, func() string {
		ready := 0
		for _, n := range c.nodes(leader) {
			if n.State == "ready" {
				ready++
			}
		}
		if ready != 6 {
			return fmt.Sprintf("%d of 6 nodes are ready", ready)
		}
		return ""
	})
	write(leader, "after")
	if !slices.Contains(acknowledged, "after") {
		t.Error("the whole cluster did not accept a write")
	}

	for _, from := range others {
		var found []string
		for line := range strings.Lines(c.ok(from, "service", "ls", "--format", "{{.Name}}")) {
			found = append(found, strings.TrimSpace(line))
		}
		slices.Sort(found)
		if len(slices.Compact(slices.Clone(found))) != len(found) {
			t.Errorf("%s has a service twice: %v", from, found)
		}
		for _, name := range append(acknowledged, "edge", "healed") {
			if !slices.Contains(found, name) {
				t.Errorf("%s was acknowledged, and %s does not have it: %v", name, from, found)
			}
		}
	}
	answers(t, c, "worker-1")
}
