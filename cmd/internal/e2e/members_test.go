package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMembers is the life of the set of managers: a worker becomes one and
// leads, managers become workers or leave, up or dead, and each time the keys
// that the one that left knew are worth nothing.
func TestMembers(t *testing.T) {
	t.Parallel()
	c := up(t, "members", 3, 2)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "held", "--replicas", "2", "--constraint", "node.role==worker", image)
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"a worker is promoted and keeps its containers", promoted},
		{"a manager dies and the promoted one still has a quorum", promotedLeads},
		{"what a clumsy operator gets wrong changes nothing", clumsy},
		{"a manager is demoted", demoted},
		{"a dead manager is removed, and others only while a majority stays", deadManagerRemoved},
		{"a manager that is up is removed", liveManagerRemoved},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			story.tell(t, &sub)
		}) {
			return
		}
	}
}

var shownKey = regexp.MustCompile(`RDTKEY-[A-Z0-9-]+`)

// leave takes a manager out and keeps the operator key that it was shown.
func (c *cluster) leave(host string, args ...string) result {
	c.t.Helper()
	r := c.on(host, args...)
	if r.code != 0 {
		c.t.Fatalf("%s: redoubt %v: %v", host, args, r)
	}
	key := shownKey.FindString(r.stdout)
	if key == "" {
		c.t.Fatalf("no new operator key was shown: %v", r)
	}
	c.keepKey(key)
	return r
}

func (c *cluster) voters(host string) (names []string, all string) {
	all = c.ok(host, "status")
	for line := range strings.Lines(all) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Manager:" && !strings.Contains(line, "no voter") && !strings.Contains(line, "unreachable") {
			names = append(names, f[1])
		}
	}
	return names, all
}

// reissued waits until every node has a certificate of the new issuer.
func (c *cluster) reissued(host string, since time.Time) {
	c.t.Helper()
	eventually(c.t, 60*time.Second, func() string {
		if s := c.ok(host, "status"); strings.Contains(s, "before the last key rotation") {
			return s
		}
		return ""
	})
	c.t.Logf("every node re-issued %v after the command began", time.Since(since).Round(10*time.Millisecond))
}

func promoted(t *testing.T, c *cluster) {
	eventually(t, 60*time.Second, func() string {
		if n := len(c.containers()); n == 0 {
			return fmt.Sprintf("%d containers run", n)
		}
		return ""
	})
	before := fmt.Sprint(c.containers())
	start := time.Now()
	c.ok("manager-1", "node", "promote", "worker-1")
	t.Logf("manager on record after %v", time.Since(start).Round(10*time.Millisecond))
	eventually(t, 60*time.Second, func() string {
		if names, all := c.voters("manager-1"); !strings.Contains(strings.Join(names, " "), "worker-1") {
			return all
		}
		return ""
	})
	t.Logf("promote → has a vote: %v", time.Since(start).Round(10*time.Millisecond))
	if after := fmt.Sprint(c.containers()); after != before {
		t.Errorf("containers changed: %s, then %s", before, after)
	}
	c.refused("manager-1", 1, "manager already", nil, "node", "promote", "worker-1")
}

func promotedLeads(t *testing.T, c *cluster) {
	// Three of four are left, the promoted one with a vote among them.
	c.lab("stop", "manager-1")
	eventually(t, 60*time.Second, func() string {
		if r := c.on("worker-1", "status"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	c.lab("start", "manager-1")
	c.unlock("manager-1")
}

func clumsy(t *testing.T, c *cluster) {
	slots := func() string {
		set, managers, _ := strings.Cut(c.ok("manager-1", "unlock-key", "slot", "ls"), "\n\nMANAGER ")
		if set == "" || managers == "" {
			t.Errorf("what is this? %s", set)
		}
		return set
	}
	before := slots()
	for _, verb := range [][]string{{"rm", "--force"}, {"rm", "--compromised"}, {"demote"}, {"promote"}} {
		c.refused("manager-1", 1, "nobody", nil, append(append([]string{"node"}, verb...), "nobody")...)
	}
	c.refused("manager-1", 1, "worker already", nil, "node", "demote", "worker-2")
	c.refused("manager-1", 1, "is up", nil, "node", "rm", "manager-2")
	c.refused("worker-2", 5, "worker", nil, "node", "rm", "--force", "manager-2")
	c.lab("stop", "manager-3")
	c.lab("start", "manager-3")
	c.refused("manager-3", 4, "locked", nil, "node", "rm", "--compromised", "manager-2")
	c.refused("manager-3", 4, "locked", nil, "node", "demote", "manager-2")
	c.unlock("manager-3")
	if after := slots(); after != before {
		t.Errorf("the slots changed:\n%s\nthen\n%s", before, after)
	}
}

// both runs one command on two managers at once. One of them does it and shows
// the key that counts; the other is refused on a line, after its own key was
// called worthless where it showed one.
func (c *cluster) both(args ...string) {
	c.t.Helper()
	results := make(chan result, 2)
	for _, host := range []string{"manager-1", "manager-2"} {
		go func() { results <- c.on(host, args...) }()
	}
	won := 0
	for range 2 {
		r := <-results
		switch key := shownKey.FindString(r.stdout); {
		case r.code == 0 && key != "":
			won++
			c.keepKey(key)
		case r.code == 0 || r.stderr == "" || key != "" && !strings.Contains(r.stderr, "opens nothing"):
			c.t.Errorf("the one that lost: %v", r)
		default:
			c.t.Logf("the one that lost: %s", strings.TrimSpace(r.stderr))
		}
	}
	if won != 1 {
		c.t.Fatalf("%d of two did it", won)
	}
}

func demoted(t *testing.T, c *cluster) {
	before := fmt.Sprint(c.containers())
	start := time.Now()
	c.both("node", "demote", "worker-1")
	t.Logf("demoted after %v", time.Since(start).Round(10*time.Millisecond))
	eventually(t, 60*time.Second, func() string {
		if r := c.on("worker-1", "status"); r.code != 0 || !strings.Contains(r.stdout, "worker") || !strings.Contains(r.stdout, "active") || strings.Contains(r.stdout, "no session") || strings.Contains(r.stdout, "Session:") {
			return r.String()
		}
		return ""
	})
	t.Logf("a worker with a session after %v", time.Since(start).Round(10*time.Millisecond))
	h := c.host("worker-1")
	for _, left := range []string{"control/raft", "control/boot", "keyd/state"} {
		if _, err := os.Stat(filepath.Join(h.DataDir, left)); err == nil {
			t.Errorf("%s is left", left)
		}
	}
	if after := fmt.Sprint(c.containers()); after != before {
		t.Errorf("containers changed: %s, then %s", before, after)
	}
	c.reissued("manager-1", start)
}

func deadManagerRemoved(t *testing.T, c *cluster) {
	c.lab("stop", "manager-3")
	eventually(t, 60*time.Second, func() string {
		if names, all := c.voters("manager-1"); len(names) != 2 {
			return all
		}
		return ""
	})
	c.refused("manager-1", 1, "no majority", nil, "node", "rm", "--force", "manager-2")
	start := time.Now()
	c.leave("manager-1", "node", "rm", "--force", "manager-3")
	t.Logf("a dead manager removed after %v", time.Since(start).Round(10*time.Millisecond))
	c.reissued("manager-1", start)
}

func liveManagerRemoved(t *testing.T, c *cluster) {
	c.refused("manager-1", 1, "on another manager", nil, "node", "rm", "--force", "manager-1")
	c.lab("stop", "manager-2")
	// Without a quorum it is refused before a key is shown.
	r := c.on("manager-1", "node", "rm", "--force", "manager-2")
	if r.code != 6 || r.stdout != "" || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
		t.Errorf("without a quorum: %v", r)
	}
	c.lab("start", "manager-2")
	c.unlock("manager-2")
	c.leave("manager-1", "node", "rm", "--force", "manager-2")
	c.refused("manager-1", 1, "another manager", nil, "node", "demote", "manager-1")
	c.reissued("manager-1", time.Now())
	// The new key opens what stays, the one before opens nothing.
	c.lab("stop", "manager-1")
	c.lab("start", "manager-1")
	c.unlock("manager-1")
	c.ok("manager-1", "node", "ls")
}
