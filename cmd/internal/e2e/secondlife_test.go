package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSecondLives: a node's directory has one supervisor, a node one directory,
// a cluster one life; who mixes them up is told, and nothing is harmed.
func TestSecondLives(t *testing.T) {
	t.Parallel()
	c := up(t, "secondlife", 2, 1)
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"a second supervisor on a node's directories", secondSupervisor},
		{"the directory of another node", foreignDirectory},
		{"a manager that would take the quorum with it", leavesTwo},
		{"a worker that leaves, and comes again under its name", sameNameAgain},
		{"backups of two clusters, and one restored twice", twoBackups},
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

func secondSupervisor(t *testing.T, c *cluster) {
	h := c.host("manager-1")
	before := c.daemons(h)
	uid, err := ownerOf(filepath.Join(h.DataDir, "control"))
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string][]string{"everything": nil, "the data directory": {"--run-dir", h.RunDir + "2"}, "the run directory": {"--data-dir", h.DataDir + "2"}} {
		args := append([]string{"lab", "exec", "--name", c.name, "manager-1", "--", filepath.Join(binDir, "redoubt-node"), "--data-dir", h.DataDir, "--run-dir", h.RunDir}, users(uid)...)
		r := run(t, nil, append(args, change...)...)
		if r.code != 1 || !strings.Contains(r.stderr, "another redoubt-node") || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
			t.Errorf("a second supervisor that shares %s: %v", what, r)
		}
	}
	os.RemoveAll(h.RunDir + "2")
	os.RemoveAll(h.DataDir + "2")
	if after := c.daemons(h); len(after) != len(before) || after["redoubtd"] != before["redoubtd"] || after["redoubt-keyd"] != before["redoubt-keyd"] {
		t.Errorf("the daemons were %v and are %v", before, after)
	}
	c.ok("manager-1", "node", "ls")
}

// foreignDirectory: a worker's disk comes back as a copy of another node's. It is
// that node's then, and a second member it is not.
func foreignDirectory(t *testing.T, c *cluster) {
	token, id := c.token("worker")
	worker, manager := c.host("worker-1"), c.host("manager-2")
	c.lab("stop", "worker-1")
	own := filepath.Join(t.TempDir(), "own")
	move(t, worker.DataDir, own)
	cp(t, manager.DataDir, worker.DataDir)
	// As it came, its files are another user's; then as somebody mends that.
	c.lab("start", "worker-1")
	c.refused("worker-1", 1, "chown", []byte(token), "join", c.addr2377("manager-1"))
	c.lab("stop", "worker-1")
	for _, dir := range []string{"control", "keyd"} {
		uid, err := ownerOf(filepath.Join(own, dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := filepath.WalkDir(filepath.Join(worker.DataDir, dir), func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, int(uid), int(uid))
		}); err != nil {
			t.Fatal(err)
		}
	}
	c.lab("start", "worker-1")
	c.refused("worker-1", 1, "already in cluster", []byte(token), "join", c.addr2377("manager-1"))
	if s := c.tokenState(id); s != "valid" {
		t.Errorf("the token is %s", s)
	}
	c.lab("stop", "worker-1")
	if err := os.RemoveAll(worker.DataDir); err != nil {
		t.Fatal(err)
	}
	move(t, own, worker.DataDir)
	c.lab("start", "worker-1")
	eventually(t, time.Minute, func() string { return c.memberReady("worker-1") })
	c.ok("manager-2", "node", "ls") // whose files they were is unharmed
}

func leavesTwo(t *testing.T, c *cluster) {
	for _, m := range []string{"manager-1", "manager-2"} {
		c.refused(m, 1, "one of two managers", nil, "leave")
		c.refused(m, 1, "redoubt node rm --force", nil, "leave")
	}
	c.ok("manager-2", "node", "ls")
}

func sameNameAgain(t *testing.T, c *cluster) {
	was := c.nodeID("worker-1")
	c.ok("worker-1", "leave", "--force")
	c.refused("worker-1", 1, "no cluster", nil, "leave")
	token, _ := c.token("worker")
	if r := c.onIn("worker-1", []byte(token), "join", c.addr2377("manager-1")); r.code != 0 {
		t.Fatalf("joining again: %v", r)
	}
	// Two have the name now: a command that could mean either asks for the id.
	c.refused("manager-1", 1, "id", nil, "node", "rm", "worker-1")
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-1", "node", "rm", "--force", was); r.code != 0 {
			return r.String()
		}
		return ""
	})
	eventually(t, time.Minute, func() string { return c.memberReady("worker-1") })
	if now := c.nodeID("worker-1"); now == was {
		t.Error("it has its old id")
	}
}

// twoBackups: manager-2 is taken out, founds a cluster of its own, and is then
// given the wrong backup, and the right one, on two machines.
func twoBackups(t *testing.T, c *cluster) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ours, theirs := filepath.Join(dir, "ours.rdtb"), filepath.Join(dir, "theirs.rdtb")
	c.ok("manager-1", "backup", "create", ours)
	key := c.key()
	cluster := c.clusterID("manager-1")
	c.leave("manager-1", "node", "rm", "--force", "manager-2")
	eventually(t, time.Minute, func() string {
		if r := c.on("manager-2", "status"); r.code != 5 || strings.Contains(r.stdout, "being ended") {
			return r.String()
		}
		return ""
	})
	other := shownKey.FindString(c.ok("manager-2", "init", "--node-pool", "100.64.0.0/16", "--network-pool", "172.20.0.0/16"))
	c.ok("manager-2", "network", "create", "front")
	if out := c.ok("manager-2", "network", "inspect", "front"); !strings.Contains(out, "172.20.") {
		t.Errorf("a network outside of the pool that was chosen:\n%s", out)
	}
	if out := c.ok("manager-2", "node", "inspect", "manager-2"); !regexp.MustCompile(`Mesh address: +100\.64\.`).MatchString(out) {
		t.Errorf("a node's address outside of the pool that was chosen:\n%s", out)
	}
	c.ok("manager-2", "backup", "create", theirs)
	c.ok("manager-2", "leave", "--force")

	c.refused("manager-2", 4, "wrong key", key, "backup", "restore", theirs)
	c.refused("manager-2", 1, "not of", []byte(other), "backup", "restore", theirs, "--cluster", cluster)
	c.refused("manager-2", 4, "wrong key", []byte(other), "backup", "restore", ours)
	if r := c.on("manager-2", "status"); !strings.Contains(r.stdout+r.stderr, "no cluster") {
		t.Errorf("after restores that were refused: %v", r)
	}
	if r := c.onIn("manager-2", key, "backup", "restore", ours, "--cluster", cluster); r.code != 0 {
		t.Fatalf("restore: %v", r)
	}
	c.refused("manager-2", 1, "already", key, "backup", "restore", ours)

	// Restored again elsewhere there are two clusters of one name, and each
	// refuses the other's nodes and tokens.
	c.ok("worker-1", "leave", "--force")
	if r := c.onIn("worker-1", key, "backup", "restore", ours); r.code != 0 {
		t.Fatalf("the second restore: %v", r)
	}
	token := strings.TrimSpace(c.ok("worker-1", "join-token", "worker", "-q"))
	c.ok("manager-1", "leave", "--force")
	c.refused("manager-1", 1, "not accepted", []byte(token), "join", c.addr2377("manager-2"))
	if out := c.ok("manager-2", "node", "ls"); strings.Contains(out, "worker-1") {
		t.Errorf("one of the two lists the other: %s", out)
	}
	if r := c.onIn("manager-1", []byte(token), "join", c.addr2377("worker-1")); r.code != 0 {
		t.Errorf("joining the one that made the token: %v", r)
	}
}

// memberReady says what is missing for name to be a ready node.
func (c *cluster) memberReady(name string) string {
	c.t.Helper()
	out := c.ok("manager-1", "node", "ls")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 && slices.Contains(f[:3], name) && strings.Contains(line, " ready ") {
			return ""
		}
	}
	return out
}

func (c *cluster) clusterID(host string) string {
	c.t.Helper()
	for line := range strings.Lines(c.ok(host, "status")) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Cluster:" {
			return f[1]
		}
	}
	c.t.Fatal("status names no cluster")
	return ""
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("mv", from, to).CombinedOutput(); err != nil {
		t.Fatalf("mv: %v: %s", err, out)
	}
}

// users are a supervisor's flags for the users that the lab gave a host.
func users(control uint32) []string {
	return []string{"--control-user", fmt.Sprint(control), "--keyd-user", fmt.Sprint(control + 1), "--netd-user", fmt.Sprint(control + 2), "--named-user", fmt.Sprint(control + 3)}
}
