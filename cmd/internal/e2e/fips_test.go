package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/keyscan"
)

// TestFIPS: a cluster that was in no FIPS mode is put into it by its configuration,
// its store is turned, and it does what a cluster does, but for the mesh; then a
// worker goes back, which alone carries networks.
func TestFIPS(t *testing.T) {
	t.Parallel()
	c := up(t, "fips", 1, 1)
	c.load()
	if s := c.suites("manager-1"); s[1] == 0 || s[2] != 0 {
		t.Errorf("sealed outside of FIPS mode: %v", s)
	}
	if c.daemonsInFIPS("manager-1")+c.daemonsInFIPS("worker-1") != 0 || strings.Contains(c.ok("manager-1", "status"), "FIPS") {
		t.Error("FIPS mode is on that nobody asked for")
	}
	c.ok("manager-1", "network", "create", "early")
	c.ok("manager-1", "service", "create", "--quiet", "--name", "early", "--network", "early", image)
	eventually(t, time.Minute, func() string {
		if c.tunnels("worker-1") == "" {
			return "the worker has no end of a tunnel"
		}
		return ""
	})

	for _, h := range []string{"manager-1", "worker-1"} {
		c.fips(h, true)
	}
	if left := c.tunnels("worker-1"); left != "" {
		t.Errorf("a tunnel is left in FIPS mode: %s", left)
	}
	if out := c.on("manager-1", "status"); !strings.Contains(out.stdout, "FIPS:") { // locked
		t.Errorf("status of a locked manager: %v", out)
	}
	c.unlocks("manager-1") // what is on its disk is of suite 1
	for _, h := range []string{"manager-1", "worker-1"} {
		if n := c.daemonsInFIPS(h); n != 5 {
			t.Errorf("%s: %d daemons are in FIPS mode", h, n)
		}
		for _, want := range []string{"FIPS:", "memguard's secretbox", "WireGuard is not validated", "keyd: FIPS 140-3 mode"} {
			if out := c.ok(h, "status"); !strings.Contains(out, want) {
				t.Errorf("%s: status does not say %q: %s", h, want, out)
			}
		}
	}
	eventually(t, time.Minute, func() string {
		if out := c.ok("manager-1", "node", "inspect", "worker-1"); !strings.Contains(out, "fips  ") || !strings.Contains(out, "IPsec driver") {
			return "node inspect does not say FIPS: " + out
		}
		return ""
	})
	// What ran on a network is not called running where that was cut.
	eventually(t, time.Minute, func() string {
		tasks := c.tasks("manager-1", "early")
		waits := func(t taskJSON) bool { return t.Node == "" && strings.Contains(t.Message+t.Error, "in FIPS mode") }
		if slices.ContainsFunc(tasks, func(t taskJSON) bool { return t.State == "running" }) || !slices.ContainsFunc(tasks, waits) {
			return fmt.Sprintf("the task whose network was cut: %+v", tasks)
		}
		return ""
	})
	c.ok("manager-1", "store", "rotate-key")
	if s := c.suites("manager-1"); s[1] != 0 || s[2] == 0 {
		t.Errorf("a store that was turned has records of suites %v", s)
	}

	c.onIn("manager-1", []byte("the secret"), "secret", "create", "s", "-")
	c.ok("manager-1", "service", "create", "--quiet", "--name", "edge", "--secret", "s", "--publish", "published=8080,target=80,mode=host", image)
	answers := func() string {
		if code, err := get("http://" + c.host("worker-1").Address + ":8080/"); err != nil || code != http.StatusOK {
			return fmt.Sprint("edge does not answer: ", code, err)
		}
		return ""
	}
	eventually(t, time.Minute, answers)
	c.ok("manager-1", "unlock-key", "slot", "add", "shamir", "--shares", "3", "--threshold", "2")
	c.ok("manager-1", "ca", "rotate", "--root")
	c.lab("stop", "manager-1")
	c.lab("start", "manager-1")
	c.unlocks("manager-1")

	c.refused("manager-1", 1, "FIPS needs the IPsec driver, which this version has not", nil, "network", "create", "back")
	c.ok("manager-1", "service", "create", "--detach", "--name", "meshed", "--publish", "published=8081,target=80", image)
	eventually(t, time.Minute, func() string {
		if tasks := c.tasks("manager-1", "meshed"); len(tasks) != 1 || !strings.Contains(tasks[0].Message+tasks[0].Error, "in FIPS mode") {
			return fmt.Sprintf("the task of the routing mesh does not wait: %+v", tasks)
		}
		return ""
	})

	c.fips("worker-1", false)
	eventually(t, time.Minute, func() string {
		for _, service := range []string{"meshed", "early"} {
			tasks := c.tasks("manager-1", service)
			if !slices.ContainsFunc(tasks, func(t taskJSON) bool { return t.State == "running" && t.Node == "worker-1" }) {
				return fmt.Sprintf("the worker is in FIPS mode no more, and the task is not there: %+v", tasks)
			}
		}
		return ""
	})
	c.ok("manager-1", "network", "create", "back")
	eventually(t, time.Minute, answers)
	c.ok("manager-1", "service", "create", "--detach", "--name", "held", "--network", "back", "--constraint", "node.role==manager", image)
	c.ok("manager-1", "node", "update", "--availability", "active", "manager-1")
	eventually(t, time.Minute, func() string {
		if tasks := c.tasks("manager-1", "held"); len(tasks) != 1 || !strings.Contains(tasks[0].Message+tasks[0].Error, "in FIPS mode") {
			return fmt.Sprintf("the task on a network does not wait: %+v", tasks)
		}
		return ""
	})
}

// TestFIPSFlag: redoubt-node's flag does the same without a word in the configuration.
func TestFIPSFlag(t *testing.T) {
	t.Parallel()
	c := up(t, "fipsflag", 1, 0, "--fips")
	if n := c.daemonsInFIPS("manager-1"); n != 5 {
		t.Errorf("%d daemons are in FIPS mode", n)
	}
	if s := c.suites("manager-1"); s[1] != 0 || s[2] == 0 {
		t.Errorf("the store has records of suites %v", s)
	}
}

// fips changes a host's configuration and starts it anew.
func (c *cluster) fips(name string, on bool) {
	c.t.Helper()
	path := filepath.Join(filepath.Dir(c.host(name).DataDir), "config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	config := strings.ReplaceAll(string(text), "  fips: true\n", "")
	if on {
		config = strings.Replace(config, "node:\n", "node:\n  fips: true\n", 1)
	}
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		c.t.Fatal(err)
	}
	c.lab("stop", name)
	c.lab("start", name)
}

// unlocks opens a manager and waits until it serves.
func (c *cluster) unlocks(name string) {
	c.t.Helper()
	if r := c.onIn(name, c.key(), "unlock"); r.code != 0 {
		c.t.Fatalf("unlock: %v", r)
	}
	c.unlocked(name)
}

// tunnels are a host's interfaces of the mesh.
func (c *cluster) tunnels(name string) string {
	c.t.Helper()
	return c.inHost(name, "sh", "-c", "ip -o link | grep -E ' rdtw[^ ]*' || true")
}

// suites are the records in a manager's store, by suite.
func (c *cluster) suites(name string) map[uint8]uint64 {
	c.t.Helper()
	r, err := keyscan.Dir(c.t.Context(), filepath.Join(c.host(name).DataDir, "control", "raft"))
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Suites()
}

// daemonsInFIPS counts the daemons of a host to which Go refuses what is outside of
// its module, and which have their names.
func (c *cluster) daemonsInFIPS(name string) (n int) {
	c.t.Helper()
	run := c.host(name).RunDir
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range paths {
		args, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		comm, _ := os.ReadFile(filepath.Join(p, "comm"))
		env, _ := os.ReadFile(filepath.Join(p, "environ"))
		daemon := strings.TrimSpace(string(comm))
		if slices.Contains(strings.Split(string(args), "\x00"), run) && strings.HasPrefix(daemon, "redoubt") && daemon != "redoubt-node" &&
			slices.Contains(strings.Split(string(env), "\x00"), "GODEBUG=fips140=only") {
			n++
		}
	}
	return n
}
