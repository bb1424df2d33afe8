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

// TestPeerRelease has a manager that lost its power opened by the others, twice; not
// out of hours, not from another network, not after it was away for too long, not with
// an old copy of its disk, and not after it was removed.
func TestPeerRelease(t *testing.T) {
	t.Parallel()
	c := up(t, "release", 3, 0)
	const m = "manager-3"
	h := c.host(m)
	network := h.Address + "/24"
	c.ok("manager-1", "unlock-key", "slot", "add", "release", "--networks", network)
	c.refused("manager-1", 1, "already", nil, "unlock-key", "slot", "add", "release", "--name", "second")
	if out := c.ok(m, "unlock-key", "slot", "ls"); !strings.Contains(out, "release (at any time, from ") {
		t.Errorf("slot ls: %s", out)
	}
	cycle := func() { c.lab("kill", "--containers", m); c.lab("start", m) }
	opens := func(what string) {
		t.Helper()
		cycle()
		began := time.Now()
		eventually(t, time.Minute, func() string {
			if r := c.on(m, "node", "ls"); r.code != 0 {
				return r.String()
			}
			return ""
		})
		t.Logf("%s: open and serving %v after its daemons were started", what, time.Since(began).Round(100*time.Millisecond))
	}
	// stays is a manager that the others refuse, and says why.
	stays := func(what, why string) {
		t.Helper()
		eventually(t, 20*time.Second, func() string {
			if r := c.on(m, "status"); r.code != 4 || !strings.Contains(r.stdout+r.stderr, why) {
				return fmt.Sprintf("%s: want %q, got %v", what, why, r)
			}
			return ""
		})
	}
	copied := filepath.Join(t.TempDir(), "copy")
	cp(t, h.DataDir, copied)
	put := func(from string) {
		t.Helper()
		for _, name := range []string{"keyd", "control"} {
			if err := os.RemoveAll(filepath.Join(h.DataDir, name)); err != nil {
				t.Fatal(err)
			}
			cp(t, filepath.Join(from, name), filepath.Join(h.DataDir, name))
		}
	}
	// back starts the manager with the copy, which others refuse, then with its own disk.
	back := func() {
		t.Helper()
		c.lab("kill", "--containers", m)
		now := filepath.Join(t.TempDir(), "now")
		cp(t, h.DataDir, now)
		put(copied)
		c.lab("start", m)
		stays("an old copy of the disk", "old copy")
		if out := c.ok("manager-1", "events", "--since", "10m", "--until", "0s"); !strings.Contains(out, "unlock-key release-refused") {
			t.Errorf("an old copy of the disk is no event: %s", out)
		}
		c.lab("kill", "--containers", m)
		put(now)
		c.lab("start", m)
		c.unlocked(m)
	}
	// Its state is newer than the copy, and nobody released it since.
	c.ok("manager-1", "store", "rotate-key", m)
	back()
	opens("a reboot")
	eventually(t, 20*time.Second, func() string {
		out := c.ok("manager-1", "events", "--since", "10m", "--until", "0s")
		if !strings.Contains(out, "unlock-key release") || !strings.Contains(out, h.Address) {
			return out
		}
		return ""
	})
	opens("another reboot")

	// The disk of before the first reboot.
	back()

	// Out of hours.
	change := func(flags ...string) {
		t.Helper()
		eventually(t, time.Minute, func() string {
			if r := c.on("manager-1", "unlock-key", "slot", "rm", "release"); r.code != 0 && !strings.Contains(r.stderr, "no slot") {
				return r.String()
			}
			return ""
		})
		c.ok("manager-1", append([]string{"unlock-key", "slot", "add", "release"}, flags...)...)
	}
	hour := func(in time.Duration) string { return time.Now().UTC().Add(in).Format("15:04") }
	change("--window", hour(2*time.Hour)+"-"+hour(3*time.Hour))
	cycle()
	stays("out of hours", "managers are released")
	c.unlock(m)
	change("--networks", "192.0.2.0/24")
	cycle()
	stays("from another network", "none of the networks")
	c.unlock(m)

	// Back a minute and a bit after it was last heard, also where another leader judges.
	change("--within", "1m")
	if out := c.ok(m, "unlock-key", "slot", "ls"); !strings.Contains(out, "within 1m of when it was last heard") {
		t.Errorf("slot ls: %s", out)
	}
	c.lab("kill", "--containers", m)
	gone := time.Now()
	if leader := c.leader("manager-1"); leader == "manager-1" {
		c.lab("stop", leader)
		c.lab("start", leader)
		c.unlock(leader)
	}
	eventually(t, 2*time.Minute, func() string {
		if out := c.ok("manager-1", "node", "inspect", m); !regexp.MustCompile(`Last heard: +1 minute ago`).MatchString(out) {
			return out
		}
		return ""
	})
	t.Logf("started %v after it was killed", time.Since(gone).Round(time.Second))
	c.lab("start", m)
	stays("away too long", "managers are released within 1m of that")
	if out := c.ok("manager-1", "events", "--since", "10m", "--until", "0s"); !strings.Contains(out, "away too long") {
		t.Errorf("that it was away too long is no event: %s", out)
	}
	c.unlock(m)

	// The same manager, removed before it comes back.
	change("--networks", network)
	opens("in its network")
	c.lab("kill", "--containers", m)
	eventually(t, time.Minute, func() string { // who leads may change
		if r := c.on("manager-1", "node", "rm", "--force", m); r.code != 0 {
			return r.String()
		}
		return ""
	})
	c.lab("start", m)
	stays("removed", "this manager was removed")
}

// unlocked waits until a manager is open.
func (c *cluster) unlocked(name string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		if r := c.on(name, "node", "ls"); r.code != 0 {
			return r.String()
		}
		return ""
	})
}
