//go:build interop

package e2e

import (
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

// TestInteropTime: what time does to a cluster, by daemons whose clocks are set.
func TestInteropTime(t *testing.T) {
	useShifted(t)
	c := up(t, "time", 3, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--quiet", "--name", "edge", "--constraint", "node.role==worker", "--publish", "published=8080,target=80,mode=host", image)
	c.settableClocks()
	t.Run("a worker's clock is shown", c.workerClock)
	t.Run("a leader whose clock jumps hands over and stamps nothing", c.leaderJumps)
	t.Run("clocks that are set back a year", c.yearBack)
	t.Run("a cluster that slept two days", func(t *testing.T) { c.slept(t, 2*day) })
	t.Run("a manager that was off for three days", func(t *testing.T) { c.managerOff(t, 5*day) })
	t.Run("powered off for twenty-five days", func(t *testing.T) { c.poweredOff(t, 30*day); c.whole(t, 3*time.Minute) })
	t.Run("powered off for forty days", func(t *testing.T) { c.offTooLong(t, 70*day) })
	t.Run("keys of stores that are ninety days old", func(t *testing.T) { c.oldStoreKeys(t, 96*day) })
}

// whole waits until every node is ready, every manager votes, and edge answers.
func (c *cluster) whole(t *testing.T, within time.Duration) {
	t.Helper()
	start := time.Now()
	eventually(t, within, func() string {
		r := c.on("manager-1", "node", "ls")
		if r.code != 0 || strings.Count(r.stdout, " ready ") != 4 || strings.Contains(r.stdout, "unreachable") || !strings.Contains(r.stdout, "leader") {
			return r.String()
		}
		return ""
	})
	eventually(t, within, func() string {
		if r := c.on("manager-1", "service", "ps", "edge"); r.code != 0 || c.running("manager-1", "edge")["worker-1"] != 1 {
			return r.String()
		}
		return ""
	})
	answers(t, c, "worker-1")
	t.Logf("whole after %v", time.Since(start).Round(100*time.Millisecond))
}

// warns waits for a warning of status, or for it to be gone.
func (c *cluster) warns(t *testing.T, want string, there bool) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-1", "status"); strings.Contains(r.stdout+r.stderr, want) != there {
			return r.String()
		}
		return ""
	})
}

func (c *cluster) workerClock(t *testing.T) {
	c.whole(t, 2*time.Minute)
	w := c.host("worker-1")
	c.warns(t, "the clock of node", false)
	c.setClock(w, -time.Minute)
	c.warns(t, "the clock of node worker-1 is 1m0s behind", true)
	if out := c.ok("manager-1", "node", "ls"); !strings.Contains(out, "-1m0s") {
		t.Errorf("node ls does not show it:\n%s", out)
	}
	if out := c.ok("manager-1", "node", "inspect", "worker-1"); !strings.Contains(out, "ahead of the leader's, sure to") {
		t.Errorf("node inspect does not show it:\n%s", out)
	}
	c.setClock(w, 0)
	c.warns(t, "the clock of node", false)
}

// leaderJumps: an hour's jump of the leader, then of a follower that is made to
// stand: neither leads, and a token of ten minutes outlives it all.
func (c *cluster) leaderJumps(t *testing.T) {
	token := strings.TrimSpace(c.ok("manager-1", "join-token", "worker", "-q"))
	leader := c.leader("manager-1")
	h := c.host(leader)
	c.setClock(h, time.Hour)
	start := time.Now()
	var asked string
	for _, m := range []string{"manager-1", "manager-2", "manager-3"} {
		if m != leader {
			asked = m
		}
	}
	eventually(t, time.Minute, func() string {
		if now := c.leader(asked); now == leader {
			return leader + " still leads"
		}
		return ""
	})
	t.Logf("handed over %v after the jump", time.Since(start).Round(100*time.Millisecond))
	c.warns(t, "the clock of manager "+leader, true)
	// It would be next when the present one stops: it is elected or not, and does
	// not lead.
	second := c.leader(asked)
	c.lab("stop", second)
	third := ""
	for _, m := range []string{"manager-1", "manager-2", "manager-3"} {
		if m != leader && m != second {
			third = m
		}
	}
	eventually(t, time.Minute, func() string {
		if now := c.leader(third); now != third {
			return now + " leads"
		}
		return ""
	})
	c.ok(third, "service", "create", "--quiet", "--detach", "--name", "stamped", "--replicas", "0", image)
	c.setClock(h, 0)
	c.lab("start", second)
	c.unlock(second)
	c.whole(t, 2*time.Minute)
	// Had the hour been stamped, the token would be refused.
	c.lab("stop", "worker-1")
	c.lab("start", "worker-1")
	if r := c.on("worker-1", "leave", "--force"); r.code != 0 {
		t.Fatal(r)
	}
	if r := c.onIn("worker-1", []byte(token), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Errorf("the token does not live any more: %v", r)
	}
	c.forgetDown(t)
	c.whole(t, 2*time.Minute)
}

// forgetDown removes the records of nodes that are down.
func (c *cluster) forgetDown(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		left := ""
		for _, n := range c.nodes("manager-1") {
			if n.State == "down" {
				left += c.on("manager-1", "node", "rm", n.ID).String()
			}
		}
		return left
	})
}

// yearBack: the leader's clock, then everybody's. What has not begun yet is believed by
// nobody, nothing that ended lives again, and with right clocks all is as before.
func (c *cluster) yearBack(t *testing.T) {
	ended := strings.TrimSpace(c.ok("manager-1", "join-token", "worker", "--ttl", "1s", "-q"))
	leader, asked := c.leader("manager-1"), "manager-1"
	if leader == asked {
		asked = "manager-2"
	}
	c.setClock(c.host(leader), -365*day)
	eventually(t, 2*time.Minute, func() string {
		if now := c.leader(asked); now == leader || now == "" {
			return leader + " still leads"
		}
		return ""
	})
	c.ok(asked, "service", "create", "--quiet", "--detach", "--name", "meanwhile", "--replicas", "0", image)
	c.setClock(c.host(leader), 0)
	c.whole(t, 3*time.Minute)

	c.poweredOff(t, -365*day)
	for range 10 {
		if r := c.on("manager-1", "node", "ls"); r.code == 0 {
			t.Fatalf("managers believe certificates that have not begun: %v", r)
		}
	}
	c.poweredOff(t, 0)
	c.whole(t, 5*time.Minute)
	c.ok("manager-1", "service", "inspect", "meanwhile")
	if r := c.on("worker-1", "leave", "--force"); r.code != 0 {
		t.Fatal(r)
	}
	c.refused("worker-1", 1, "expired", []byte(ended), "join", c.addr2377("manager-1"))
	token := strings.TrimSpace(c.ok("manager-1", "join-token", "worker", "-q"))
	if r := c.onIn("worker-1", []byte(token), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Fatal(r)
	}
	c.forgetDown(t)
	c.whole(t, 2*time.Minute)
}

// slept: every machine's clock moves, as when all were suspended: every
// certificate but the boot leaves has ended.
func (c *cluster) slept(t *testing.T, to time.Duration) {
	for _, h := range c.hosts() {
		c.setClock(h, to)
	}
	c.whole(t, 5*time.Minute)
}

// managerOff: one manager's certificate ends while it is off.
func (c *cluster) managerOff(t *testing.T, to time.Duration) {
	c.lab("stop", "manager-3")
	for _, h := range c.hosts() {
		c.setClock(h, to)
	}
	eventually(t, 3*time.Minute, func() string {
		if r := c.on("manager-1", "node", "ls"); r.code != 0 || strings.Count(r.stdout, " ready ") != 3 {
			return r.String()
		}
		return ""
	})
	c.lab("start", "manager-3")
	c.unlock("manager-3")
	c.whole(t, 3*time.Minute)
}

// poweredOff: nothing is left of any machine but its disk.
func (c *cluster) poweredOff(t *testing.T, to time.Duration) {
	for _, h := range c.hosts() {
		c.lab("kill", "--containers", h.Name)
		c.setClock(h, to)
	}
	c.bootAll()
}

// offTooLong: the managers come back as ever; the worker, whose certificate ended
// more than thirty days ago, says what to do, and that is enough.
func (c *cluster) offTooLong(t *testing.T, to time.Duration) {
	c.poweredOff(t, to)
	eventually(t, 2*time.Minute, func() string {
		r := c.on("worker-1", "status")
		if !strings.Contains(r.stdout+r.stderr, "more than 30 days ago") || !strings.Contains(r.stdout+r.stderr, "redoubt leave --force") {
			return r.String()
		}
		return ""
	})
	eventually(t, 2*time.Minute, func() string {
		if r := c.on("manager-1", "node", "ls"); r.code != 0 || strings.Count(r.stdout, " ready ") != 3 || strings.Contains(r.stdout, "unreachable") {
			return r.String()
		}
		return ""
	})
	c.ok("worker-1", "leave", "--force")
	c.forgetDown(t)
	token := strings.TrimSpace(c.ok("manager-1", "join-token", "worker", "-q"))
	if r := c.onIn("worker-1", []byte(token), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Fatal(r)
	}
	c.whole(t, 2*time.Minute)
}

// oldStoreKeys: each manager renews the key of its store when that is ninety days old,
// without anybody, and no record of before is left on its disk.
func (c *cluster) oldStoreKeys(t *testing.T, to time.Duration) {
	managers := []string{"manager-1", "manager-2", "manager-3"}
	eventually(t, time.Minute, func() string { return c.storeKeys(managers, 1) })
	c.poweredOff(t, to)
	eventually(t, 3*time.Minute, func() string { return c.storeKeys(managers, 2) })
}
