package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFiles holds the directories of every kind of node against the table in
// docs/formats.md: a file, mode, owner or magic that it does not have is a
// mistake, in one or in the other.
func TestFiles(t *testing.T) {
	t.Parallel()
	c := up(t, "files", 1, 2)
	c.load()
	audit := &fileAudit{fileTable(t), map[string]bool{}}
	check := func(kind string, hosts ...string) {
		t.Helper()
		for _, name := range hosts {
			h := c.host(name)
			for _, wrong := range c.audit(audit, h) {
				t.Errorf("%s (%s): %s", name, kind, wrong)
			}
		}
	}
	c.ok("manager-1", "network", "create", "back")
	c.ok("manager-1", "service", "create", "--timeout", "30s", "--name", "web", "--network", "back", image)
	check("a manager with segments, and workers", "manager-1", "worker-1", "worker-2")
	c.ok("manager-1", "store", "rotate-key")
	check("a manager whose store has a new key", "manager-1")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(dir, "cluster.rdtb")
	c.ok("manager-1", "backup", "create", backup)

	c.ok("manager-1", "node", "rm", "--force", "worker-2")
	eventually(t, time.Minute, func() string {
		if r := c.on("worker-2", "status"); r.code != 5 || !strings.Contains(r.stdout, "removed from cluster") || strings.Contains(r.stdout, "being ended") {
			return r.String()
		}
		return ""
	})
	check("removed", "worker-2")

	h := c.host("manager-1")
	c.lab("stop", "manager-1")
	check("stopped", "manager-1")
	flippedFiles(t, c, h)
	c.logStore(h, "bolt")
	c.lab("start", "manager-1")
	check("locked", "manager-1")
	c.unlock("manager-1")
	check("a manager with its log in the database", "manager-1")
	if left, _ := filepath.Glob(filepath.Join(h.DataDir, "control", "raft", "wal*")); len(left) > 0 {
		t.Errorf("%v is left: the log is not in the database", left)
	}
	if r := c.onIn("worker-2", c.key(), "backup", "restore", backup); r.code != 0 {
		t.Fatalf("restore: %v", r)
	}
	check("restored", "worker-2")
	for _, r := range audit.rows {
		rare := r.brief || strings.HasSuffix(r.pattern, ".old") || strings.HasSuffix(r.pattern, "log.1") || strings.HasSuffix(r.pattern, ".user") ||
			strings.HasSuffix(r.pattern, "/promotion") || strings.HasSuffix(r.pattern, "/failure") ||
			strings.HasPrefix(r.pattern, "<run>/netns/files-") || // of tasks with secrets
			strings.HasPrefix(r.pattern, "<data>/rund/") || // under the deployment lock, whose story looks at these
			strings.HasPrefix(r.pattern, "<data>/volumes/<") || // of tasks with volumes; scheduler/rund/volume looks at these
			strings.HasSuffix(r.pattern, "/managers") || // of a manager that is not the only one
			strings.Contains(r.pattern, "/raft/audit/") || // of thousands of records; raftstore looks at these
			strings.Contains(r.pattern, ">/cni/") // no host here has CNI networks; scheduler/rund/cni looks at these
		if !audit.seen[r.pattern] && !rare {
			t.Errorf("no node has %s: is it still a file of Redoubt?", r.pattern)
		}
	}
	if fi, err := os.Stat(backup); err != nil || fi.Mode() != 0o600 {
		t.Errorf("the backup: %v, %v", fi.Mode(), err)
	}
	t.Run("what is not in the table is found", func(t *testing.T) { plantedFiles(t, audit.rows) })
}

// audit holds a host against the table. Its users are those of its processes,
// where they run, and of its directories.
func (c *cluster) audit(a *fileAudit, h host) (wrong []string) {
	c.t.Helper()
	owners := map[string]uint32{"root": 0}
	for user, daemon := range map[string]string{"control": "redoubtd", "keyd": "redoubt-keyd"} {
		uid, err := ownerOf(filepath.Join(h.DataDir, user))
		if err != nil || uid == 0 {
			c.t.Fatalf("%s's directory is of user %d, %v", user, uid, err)
		}
		owners[user] = uid
		if pid := c.daemons(h)[daemon]; pid != 0 {
			var runs uint32
			fmt.Sscan(c.proc(pid)["Uid"], &runs)
			if runs != uid {
				wrong = append(wrong, fmt.Sprintf("%s runs as %d, its directory is of user %d", daemon, runs, uid))
			}
		}
	}
	owners["netd"] = owners["control"] + 2 // so the lab numbers them; netd has no directory
	if owners["control"] == owners["keyd"] {
		wrong = append(wrong, "control and keyd are one user")
	}
	return append(append(wrong, a.check("<data>", h.DataDir, owners)...), a.check("<run>", h.RunDir, owners)...)
}

// logStore has a stopped manager keep its log as asked from its next start on.
func (c *cluster) logStore(h host, kind string) {
	c.t.Helper()
	file := filepath.Join(filepath.Dir(h.DataDir), "config.yaml")
	config, err := os.ReadFile(file)
	if err == nil {
		changed := strings.Replace(string(config), "node:\n", "node:\n  raft: {log_store: "+kind+"}\n", 1)
		err = os.WriteFile(file, []byte(changed), 0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// plantedFiles shows that the audit can fail: each fault by itself is named.
func plantedFiles(t *testing.T, rows []fileRow) {
	owners := map[string]uint32{"root": 0, "control": 64997, "keyd": 64998, "netd": 64999}
	for name, x := range map[string]struct {
		path, content string
		mode          os.FileMode
		uid           int
		want          string
	}{
		"as it should be":     {"control/member", "RDTN\x01", 0o600, 64997, ""},
		"an unknown file":     {"control/notes", "RDTN\x01", 0o600, 64997, "names no <data>/control/notes"},
		"one a level deeper":  {"control/raft/x/raft.db", "", 0o600, 64997, "names no <data>/control/raft/x/raft.db"},
		"readable by others":  {"control/leaf", "RDTN\x01", 0o644, 64997, "leaf is of mode 0644"},
		"of another user":     {"keyd/state", "RDTK\x01", 0o600, 64997, "state is of user 64997"},
		"without its magic":   {"control/boot", "{}", 0o600, 64997, "boot does not begin"},
		"of another format":   {"keyd/state", "RDTK\x02", 0o600, 64998, "state does not begin"},
		"content in the lock": {"lock", "x", 0o600, 0, "lock does not begin"},
	} {
		dir := t.TempDir()
		for sub, uid := range map[string]int{".": 0, "control": 64997, "keyd": 64998} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(filepath.Join(dir, sub), uid, uid); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, x.path)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(x.content), x.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, x.uid, x.uid); err != nil {
			t.Fatal(err)
		}
		said := strings.Join((&fileAudit{rows, map[string]bool{}}).check("<data>", dir, owners), "\n")
		if x.want == "" && said != "" || !strings.Contains(said, x.want) {
			t.Errorf("%s: want %q, got %q", name, x.want, said)
		}
	}
}
