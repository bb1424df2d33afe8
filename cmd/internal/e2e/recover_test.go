package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLostQuorum is the story of a cluster that loses two of its three managers
// for good, and of one that is brought back from a backup on another machine: shares
// do both, as a key would.
func TestLostQuorum(t *testing.T) {
	t.Parallel()
	c := up(t, "lostq", 3, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "before", "--replicas", "1", image)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cluster.rdtb")
	shares := shareText.FindAllString(c.ok("manager-1", "unlock-key", "slot", "add", "shamir", "--name", "officers", "--shares", "3", "--threshold", "2"), -1)
	if len(shares) != 3 {
		t.Fatal("not three shares")
	}
	if out := c.ok("manager-1", "backup", "create", file); !strings.Contains(out, "the operator key operator, or 2 of the 3 shares officers of slot epoch 2") {
		t.Errorf("create says %q", out)
	}
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster, string, []string)
	}{
		{"a backup is verified, and what was done to it is named", verified},
		{"one manager goes on alone", recovered},
		{"the backup is restored on another machine", restored},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			sub := *c
			sub.t = t
			story.tell(t, &sub, file, shares)
		}) {
			return
		}
	}
}

func verified(t *testing.T, c *cluster, file string, shares []string) {
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("the backup is %v (%v), want mode 0600", fi.Mode(), err)
	}
	if out := c.ok("manager-1", "backup", "verify", file); !strings.Contains(out, "whole;") {
		t.Errorf("verify says %q", out)
	}
	if r := c.onIn("manager-1", c.key(), "backup", "verify", file, "--key-file", "-"); r.code != 0 || !strings.Contains(r.stdout, "genuine") {
		t.Errorf("verify with the key: %v", r)
	}
	c.refused("manager-1", 4, "wrong key", []byte(newKey(t)), "backup", "verify", file, "--key-file", "-")
	if r := c.onIn("manager-1", together(shares[0], shares[2]), "backup", "verify", file, "--key-file", "-"); r.code != 0 || !strings.Contains(r.stdout, "genuine") {
		t.Errorf("verify with shares: %v", r)
	}
	c.refused("manager-1", 4, "1 of 2 shares are here: 1 more are needed; nothing was changed", together(shares[0]), "backup", "verify", file, "--key-file", "-")
	c.refused("manager-1", 4, "mistyped", together(shares[0], shares[1][:len(shares[1])-1]+otherEnd(shares[1])), "backup", "verify", file, "--key-file", "-")
	c.refused("manager-1", 4, "more than one line", together(string(c.key()), shares[0]), "backup", "verify", file, "--key-file", "-")
	c.refused("manager-1", 1, "exists", nil, "backup", "create", file)
	c.refused("manager-1", 1, "cannot write /nowhere/x: no such file", nil, "backup", "create", "/nowhere/x")
	c.refused("worker-1", 5, "a worker", c.key(), "recover", "--force-new-cluster")
	if found := c.filesWith([][]byte{[]byte("before"), []byte(image), []byte("worker-1")}, filepath.Dir(file)); len(found) > 0 {
		t.Errorf("a service's, an image's or a node's name stands in %v", found)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(filepath.Dir(file), "bad.rdtb")
	for name, data := range map[string][]byte{
		"cut in the head":    whole[:100],
		"cut at the end":     whole[:len(whole)-1],
		"something after it": append(append([]byte(nil), whole...), 'x'),
		"flipped":            flipped(whole, len(whole)/2),
		"empty":              nil,
	} {
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := c.on("manager-1", "backup", "verify", bad); r.code == 0 || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// together are keys or shares as they are given: one a line.
func together(texts ...string) []byte { return []byte(strings.Join(texts, "\n") + "\n") }

func flipped(b []byte, at int) []byte {
	out := append([]byte(nil), b...)
	out[at] ^= 1
	return out
}

func recovered(t *testing.T, c *cluster, _ string, shares []string) {
	token, _ := c.token("worker")
	c.refused("manager-1", 1, "has a leader", c.key(), "recover", "--force-new-cluster", "--key-file", "-")
	c.refused("manager-1", 2, "--force-new-cluster", c.key(), "recover")
	c.ok("manager-1", "service", "create", "--detach", "--name", "after", "--replicas", "1", image)
	c.lab("kill", "manager-2")
	c.lab("kill", "manager-3")
	for host, what := range map[string]string{"manager-1": "critical  this node: it finds no leader", "manager-2": "critical  this node: no node answers at "} {
		eventually(t, 30*time.Second, func() string { // the one that is left notices by and by
			r := c.on(host, "doctor")
			if r.code == 3 && strings.Contains(r.stdout, what) {
				return ""
			}
			return fmt.Sprintf("doctor on %s: %v", host, r)
		})
	}
	eventually(t, 30*time.Second, func() string {
		if r := c.on("manager-1", "service", "ls"); r.code != 0 {
			return ""
		}
		return "two of three managers are gone, and the third answers still"
	})
	c.refused("manager-1", 4, "does not open this manager", []byte(newKey(t)), "recover", "--force-new-cluster", "--key-file", "-")
	c.refused("manager-1", 4, "1 of 2 shares are here", together(shares[1], shares[1]), "recover", "--force-new-cluster")
	if r := c.onIn("manager-1", together(shares[2], shares[1]), "recover", "--force-new-cluster", "--key-file", "-"); r.code != 0 {
		t.Fatalf("recover: %v", r)
	}
	eventually(t, 30*time.Second, func() string { return c.serves("manager-1", "before", "after") })
	eventually(t, 30*time.Second, func() string {
		if out := c.ok("manager-1", "node", "ls"); !strings.Contains(out, "worker-1") || strings.Contains(out, "manager-2") {
			return "node ls says " + out
		}
		return ""
	})
	c.ok("manager-1", "service", "create", "--name", "alone", "--replicas", "1", image)
	if out := c.ok("manager-1", "join-token", "ls"); !strings.Contains(out, "revoked") {
		t.Errorf("the tokens of before are not void: %s (one was %.12s…)", out, token)
	}
	// One that was thought lost comes back: it is told that it was removed.
	c.lab("start", "manager-2")
	c.onIn("manager-2", c.key(), "unlock", "--timeout", "5s")
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-2", "status"); !strings.Contains(r.stdout+r.stderr, "removed") {
			return "manager-2 says " + r.String()
		}
		return ""
	})
	// After a restart the manager is of the new incarnation still.
	c.lab("stop", "manager-1")
	c.lab("start", "--unlock", "manager-1")
	eventually(t, 30*time.Second, func() string { return c.serves("manager-1", "before", "after", "alone") })
}

// serves says which of the services host does not list.
func (c *cluster) serves(host string, services ...string) string {
	r := c.on(host, "service", "ls")
	for _, s := range services {
		if !strings.Contains(r.stdout, s) {
			return host + " does not list " + s + ": " + r.String()
		}
	}
	return ""
}

func restored(t *testing.T, c *cluster, file string, shares []string) {
	c.refused("manager-1", 1, "already", c.key(), "backup", "restore", file)
	c.lab("stop", "manager-1")
	c.lab("start", "manager-3")
	c.ok("manager-3", "leave", "--force")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(filepath.Dir(file), "bad.rdtb")
	if err := os.WriteFile(bad, whole[:len(whole)-40], 0o600); err != nil {
		t.Fatal(err)
	}
	c.refused("manager-3", 1, "cut off", c.key(), "backup", "restore", bad)
	c.refused("manager-3", 4, "wrong key", []byte(newKey(t)), "backup", "restore", file)
	c.refused("manager-3", 1, "not of", c.key(), "backup", "restore", file, "--cluster", "aaaaaaaaaaaaaaaaaaaaaaaaaa")
	c.refused("manager-3", 4, "1 of 2 shares are here", together(shares[0]), "backup", "restore", file)
	if r := c.onIn("manager-3", together(shares[0], shares[1]), "backup", "restore", file); r.code != 0 {
		t.Fatalf("restore: %v", r)
	}
	c.refused("manager-3", 1, "already", c.key(), "backup", "restore", file)
	if missing := c.serves("manager-3", "before"); missing != "" {
		t.Error(missing)
	}
	if out := c.ok("manager-3", "service", "ls"); strings.Contains(out, "after") {
		t.Errorf("a service made after the backup is there: %s", out)
	}
	if out := c.ok("manager-3", "node", "ls"); strings.Contains(out, "worker-1") || strings.Contains(out, "manager-1") {
		t.Errorf("nodes of before are members still: %s", out)
	}
	// It is a cluster like any other: nodes join, and its manager restarts.
	c.ok("manager-3", "join-token", "worker", "-q")
	c.lab("stop", "manager-3")
	c.lab("start", "--unlock", "manager-3")
	eventually(t, 30*time.Second, func() string { return c.serves("manager-3", "before") })
}
