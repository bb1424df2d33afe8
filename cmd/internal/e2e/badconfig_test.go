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

// badConfig: the daemon says which key in which line and is tried again, ever
// less often; once the file is right it comes up without anybody's help.
func badConfig(t *testing.T, c *cluster) {
	h := c.host("worker-2")
	dir := filepath.Dir(h.DataDir)
	path := filepath.Join(dir, "config.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(good), "  dns:", "  dsn:", 1)
	line := strings.Count(bad[:strings.Index(bad, "  dsn:")], "\n") + 1
	c.lab("stop", "worker-2")
	if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "redoubt-node.log")
	old, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`config.yaml: line %d: unknown key "dsn"`, line)
	begun := time.Now()
	if r := run(t, nil, "lab", "start", "--name", c.name, "worker-2"); r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("lab start with a refused configuration: %v", r)
	}
	c.refused("worker-2", 1, want, nil, "status")
	t.Logf("the refusal was told twice within %v", time.Since(begun).Round(time.Millisecond)) // each waits for the next attempt at most
	ended := regexp.MustCompile(`"time":"([^"]+)".*redoubtd: ended \(exit code 2\)`)
	eventually(t, time.Minute, func() string {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b[len(old):])
		if !strings.Contains(text, want) {
			return "the log does not say: " + want
		}
		var at []time.Time
		for _, m := range ended.FindAllStringSubmatch(text, -1) {
			when, err := time.Parse(time.RFC3339Nano, m[1])
			if err != nil {
				t.Fatal(err)
			}
			at = append(at, when)
		}
		if len(at) < 5 {
			return fmt.Sprintf("redoubtd was started %d times", len(at))
		}
		t.Logf("tried again after %v at first and %v at last", at[1].Sub(at[0]), at[len(at)-1].Sub(at[len(at)-2]))
		return ""
	})
	if err := os.WriteFile(path, good, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		if r := c.on("worker-2", "status"); r.code != 0 {
			return "the file is right again: " + r.String()
		}
		return ""
	})
	helperConfig(t, c, path, log, good)
}

// helperConfig: of a helper's mistake nobody would hear but the supervisor, which
// says it and ends. It is not told to a node that runs.
func helperConfig(t *testing.T, c *cluster, path, log string, good []byte) {
	bad := "netd: {allow_link_lokal: true}\n" + string(good)
	if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	c.ok("worker-2", "status")
	c.lab("stop", "worker-2")
	begun := time.Now()
	r := run(t, nil, "lab", "start", "--name", c.name, "worker-2")
	said := r.stderr
	if r.code == 0 { // redoubtd answered before netd had read it
		eventually(t, time.Minute, func() string {
			b, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			if said = string(b); !strings.Contains(said, "all daemons are stopped") {
				return "netd refuses the configuration, and the supervisor does not end"
			}
			return ""
		})
	}
	for _, want := range []string{"redoubt-node: redoubt-netd: configuration", `config.yaml: line 1: unknown key "allow_link_lokal"`} {
		if !strings.Contains(said, want) {
			t.Errorf("lab start where netd refuses the configuration: %v, want %q", r, want)
		}
	}
	t.Logf("netd's refusal was told within %v", time.Since(begun).Round(time.Millisecond))
	c.refused("worker-2", 6, "no node answers", nil, "status")
	if err := os.WriteFile(path, good, 0o644); err != nil {
		t.Fatal(err)
	}
	c.lab("start", "worker-2")
	c.ok("worker-2", "status")
}

// twice: who is a member founds and joins nothing else, and a directory that
// held a store is not silently used again.
func twice(t *testing.T, c *cluster) {
	token, id := c.token("worker")
	c.refused("manager-1", 1, "already in cluster", nil, "init")
	c.refused("worker-1", 1, "already in cluster", nil, "init")
	c.refused("manager-1", 1, "already in cluster", []byte(token), "join", "192.0.2.1")
	c.refused("worker-1", 1, "already in cluster", []byte(token), "join", c.host("manager-1").Address)
	used := filepath.Join(c.host("worker-2").DataDir, "control", "raft")
	if err := os.Mkdir(used, 0o700); err != nil {
		t.Fatal(err)
	}
	manager := c.host("manager-1").Address
	c.refused("worker-2", 1, "holds a store", []byte(token), "join", manager)
	r := c.onIn("worker-2", nil, "init")
	if r.code != 1 || !strings.Contains(r.stderr, "holds a store") || !strings.Contains(r.stderr, "the key above opens nothing") {
		t.Errorf("init on a used directory: %v", r)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("the store that was there: %v", err)
	}
	if err := os.Remove(used); err != nil {
		t.Fatal(err)
	}
	if s := c.tokenState(id); s != "valid" {
		t.Errorf("the token is %s", s)
	}
}

func badKeys(t *testing.T, c *cluster) {
	key := c.key()
	c.refused("manager-1", 1, "not locked", key, "unlock")
	c.lab("stop", "manager-1")
	c.lab("start", "manager-1")
	defer c.unlock("manager-1")
	text := strings.TrimSpace(string(key))
	flipped := []byte(text)
	if i := len("RDTKEY-") + 3; flipped[i] == 'A' {
		flipped[i] = 'B'
	} else {
		flipped[i] = 'A'
	}
	for _, k := range []struct{ want, key string }{
		{"nothing was changed", newKey(t)},
		{"nothing was changed", string(flipped)},
		{"nothing was changed", text[:40]},
		{"nothing was changed", "hunter2hunter2"},
		{"nothing was changed", ""},
		{"nothing was changed", strings.Repeat("A", 5000)},
		{"nothing was changed", "RDTKEY-\x00\x01\xff"},
		{"more than one line", text + "\n" + text},
	} {
		c.refused("manager-1", 4, k.want, []byte(k.key), "unlock")
	}
	c.refused("manager-1", 2, "not taken from the command line", nil, "unlock", newKey(t))
	for _, args := range [][]string{{"status"}, {"node", "ls"}, {"service", "ls"}, {"join-token", "worker"}, {"unlock-key", "rotate"}} {
		c.refused("manager-1", 4, "locked", nil, args...)
	}
	c.refused("manager-1", 1, "already in cluster", nil, "init")
	c.refused("manager-1", 1, "for good", nil, "leave")
}
