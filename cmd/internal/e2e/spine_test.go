package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSpine is the main job from end to end, on one cluster of three managers
// and two workers.
func TestSpine(t *testing.T) {
	t.Parallel()
	c := up(t, "spine", 3, 2)
	c.load()
	for _, story := range []struct {
		name string
		tell func(*testing.T, *cluster)
	}{
		{"sandboxes hold exactly what is declared", sandboxes},
		{"a canary in a service stays out of every file and log", canary},
		{"a published port answers", published},
		{"the leader dies and nothing acknowledged is lost", leaderDies},
		{"all managers stop and containers go on", managersStop},
		{"a worker dies and its tasks move", workerDies},
		{"daemons die and containers do not", daemonsDie},
		{"a restarted manager is locked", lockedManager},
		{"the unlock key rotates", rotation},
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

func sandboxes(t *testing.T, c *cluster) {
	nodes := c.nodes("manager-1")
	if len(nodes) != 5 {
		t.Fatalf("%d nodes, want 5", len(nodes))
	}
	for _, n := range nodes {
		want := "drain"
		if strings.HasPrefix(n.Hostname, "worker") {
			want = "active"
		}
		if n.State != "ready" || n.Availability != want {
			t.Errorf("%s is %s and %s, want ready and %s", n.Hostname, n.State, n.Availability, want)
		}
	}
	const none = "0000000000000000"
	seen := map[string]string{}
	for _, h := range c.hosts() {
		pids := c.daemons(h)
		for name, want := range map[string]struct {
			caps string
			root bool
		}{
			"redoubtd":      {none, false},
			"redoubt-keyd":  {none, false},
			"redoubt-netd":  {"0000000000201000", false},
			"redoubt-named": {none, false},
			"redoubt-rund":  {"00000000002000fb", true},
		} {
			pid, ok := pids[name]
			if !ok {
				t.Errorf("%s: %s does not run", h.Name, name)
				continue
			}
			p := c.proc(pid)
			uid, _, _ := strings.Cut(p["Uid"], " ")
			if (uid == "0") != want.root || p["Uid"] != strings.Repeat(uid+" ", 3)+uid || p["Groups"] != "" {
				t.Errorf("%s: %s runs as uid %q with groups %q", h.Name, name, p["Uid"], p["Groups"])
			}
			if other := seen[uid]; other != "" && !want.root {
				t.Errorf("%s: %s shares uid %s with %s", h.Name, name, uid, other)
			}
			seen[uid] = h.Name + "/" + name
			for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
				if p[set] != want.caps {
					t.Errorf("%s: %s has %s %s, want %s", h.Name, name, set, p[set], want.caps)
				}
			}
			if p["NoNewPrivs"] != "1" || p["Seccomp"] != "2" {
				t.Errorf("%s: %s has NoNewPrivs %s and Seccomp %s", h.Name, name, p["NoNewPrivs"], p["Seccomp"])
			}
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
			if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
				t.Errorf("%s: %s may dump core (%v)", h.Name, name, err)
			}
			// The kernel gives a process that is not dumpable to root.
			var owner uint32
			if owner, err = ownerOf(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || owner != 0 {
				t.Errorf("%s: %s is dumpable: /proc files of uid %d (%v)", h.Name, name, owner, err)
			}
		}
	}
}

func canary(t *testing.T, c *cluster) {
	const value, service = "canary-in-the-environment-7f3a9", "canary-service-name"
	c.ok("manager-1", "service", "create", "--name", service, "--replicas", "2", "--env", "CANARY="+value, image)
	var dirs []string
	for _, h := range c.hosts() {
		dirs = append(dirs, h.DataDir, h.RunDir)
		logs, _ := filepath.Glob(filepath.Join(filepath.Dir(h.DataDir), "redoubt-node.log"))
		dirs = append(dirs, logs...)
		for name, pid := range c.daemons(h) {
			cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err != nil || strings.Contains(string(cmdline), value) {
				t.Errorf("%s: %s has it in its arguments (%v)", h.Name, name, err)
			}
		}
	}
	if found := c.filesWith([][]byte{[]byte(value)}, dirs...); len(found) > 0 {
		t.Errorf("the environment stands in %v", found)
	}
	// The data directories alone say nothing of what the cluster runs.
	var data []string
	for _, h := range c.hosts() {
		data = append(data, h.DataDir)
	}
	if found := c.filesWith([][]byte{[]byte(service), []byte(image)}, data...); len(found) > 0 {
		t.Errorf("a service's name or image stands in %v", found)
	}
	c.ok("manager-1", "service", "rm", service)
}

func published(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--name", "edge", "--mode", "global", "--publish", "mode=host,published=8080,target=80", image)
	for _, w := range []string{"worker-1", "worker-2"} {
		answers(t, c, w)
	}
	if code, err := get("http://" + net.JoinHostPort(c.host("manager-1").Address, "8080")); err == nil {
		t.Errorf("a drained manager answers on the port: %d", code)
	}
}

func answers(t *testing.T, c *cluster, worker string) {
	t.Helper()
	url := "http://" + net.JoinHostPort(c.host(worker).Address, "8080")
	eventually(t, 30*time.Second, func() string {
		if code, err := get(url); err != nil || code != 200 {
			return fmt.Sprintf("%s: %d %v", url, code, err)
		}
		return ""
	})
}

func leaderDies(t *testing.T, c *cluster) {
	leader := c.leader("manager-1")
	from := "manager-1"
	if leader == from {
		from = "manager-2"
	}
	var acknowledged []string
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		run(t, nil, "lab", "kill", "--name", c.name, leader)
	}()
	for i := range 30 {
		name := fmt.Sprintf("write-%d", i)
		if r := c.on(from, "service", "create", "--detach", "--name", name, "--replicas", "0", image); r.code == 0 {
			acknowledged = append(acknowledged, name)
		}
	}
	<-killed
	c.leader(from)
	eventually(t, time.Minute, func() string {
		if r := c.on(from, "service", "create", "--detach", "--name", "after-the-leader", "--replicas", "0", image); r.code != 0 && !strings.Contains(r.stderr, "exists") {
			return r.String()
		}
		return ""
	})
	names := map[string]bool{}
	var services []struct {
		Name string `json:"name"`
	}
	c.decode(c.ok(from, "service", "ls", "--format", "json"), &services)
	for _, s := range services {
		names[s.Name] = true
	}
	for _, n := range append(acknowledged, "after-the-leader", "edge") {
		if !names[n] {
			t.Errorf("%s was acknowledged and is gone", n)
		}
	}
	if len(acknowledged) == 0 {
		t.Error("no write was acknowledged")
	}
	for n := range names {
		if n != "edge" {
			c.ok(from, "service", "rm", n)
		}
	}
	c.lab("start", leader)
	c.unlock(leader)
}

// unlock opens a manager with the lab's key and waits until it answers.
func (c *cluster) unlock(name string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		r := c.onIn(name, c.key(), "unlock")
		if r.code != 0 && !strings.Contains(r.stderr, "not locked") {
			return r.String()
		}
		return ""
	})
	eventually(c.t, time.Minute, func() string {
		if r := c.on(name, "node", "ls"); r.code != 0 {
			return r.String()
		}
		return ""
	})
}

func managersStop(t *testing.T, c *cluster) {
	for _, m := range []string{"manager-1", "manager-2", "manager-3"} {
		c.lab("stop", m)
	}
	for _, w := range []string{"worker-1", "worker-2"} {
		answers(t, c, w)
	}
	for _, m := range []string{"manager-1", "manager-2", "manager-3"} {
		c.lab("start", m)
	}
	for _, m := range []string{"manager-1", "manager-2", "manager-3"} {
		eventually(t, time.Minute, func() string {
			if r := c.onIn(m, c.key(), "unlock"); r.code != 0 && !strings.Contains(r.stderr, "not locked") {
				return r.String()
			}
			return ""
		})
	}
	for _, w := range []string{"worker-1", "worker-2"} {
		answers(t, c, w)
	}
	eventually(t, time.Minute, func() string {
		r := c.on("manager-1", "service", "ps", "edge", "--format", "json")
		if r.code != 0 {
			return r.String()
		}
		return ""
	})
	if n := len(c.running("manager-1", "edge")); n != 2 {
		t.Errorf("edge runs on %d nodes after the managers came back", n)
	}
}

func workerDies(t *testing.T, c *cluster) {
	c.ok("manager-1", "service", "create", "--name", "crowd", "--replicas", "20", image)
	spread := c.running("manager-1", "crowd")
	if spread["worker-1"] != 10 || spread["worker-2"] != 10 {
		t.Errorf("20 tasks are spread as %v", spread)
	}
	start := time.Now()
	c.lab("kill", "worker-1", "--containers")
	eventually(t, 90*time.Second, func() string {
		if n := c.running("manager-1", "crowd"); n["worker-2"] != 20 || n["worker-1"] != 0 {
			return fmt.Sprintf("running: %v", n)
		}
		return ""
	})
	t.Logf("20 tasks run elsewhere %v after their worker was killed", time.Since(start).Round(100*time.Millisecond))
	c.lab("start", "worker-1")
	eventually(t, time.Minute, func() string {
		for _, n := range c.nodes("manager-1") {
			if n.State != "ready" {
				return n.Hostname + " is " + n.State
			}
		}
		return ""
	})
	answers(t, c, "worker-1")
	c.ok("manager-1", "service", "rm", "crowd")
}

// processes are the pids in a task's container on a host.
func (c *cluster) processes(h host, task string) map[string]bool {
	out := map[string]bool{}
	all, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, p := range all {
		b, _ := os.ReadFile(p)
		if strings.Contains(string(b), "/redoubt-lab/"+c.name+"/"+h.Name+"/"+task) {
			out[filepath.Base(filepath.Dir(p))] = true
		}
	}
	return out
}

func daemonsDie(t *testing.T, c *cluster) {
	h := c.host("worker-2")
	var task string
	for _, tk := range c.tasks("manager-1", "edge") {
		if tk.Node == h.Name && tk.State == "running" {
			task = tk.ID
		}
	}
	before := c.processes(h, task)
	if task == "" || len(before) == 0 {
		t.Fatal("no container of edge runs on worker-2")
	}
	for _, name := range []string{"redoubtd", "redoubt-rund", "redoubt-netd", "redoubt-named", "redoubt-keyd"} {
		old := c.daemons(h)[name]
		proc, err := os.FindProcess(old)
		if err != nil || old == 0 {
			t.Fatalf("%s: pid %d, %v", name, old, err)
		}
		proc.Kill()
		eventually(t, time.Minute, func() string {
			if pid := c.daemons(h)[name]; pid == old || pid == 0 {
				return name + " did not come back"
			}
			return ""
		})
		answers(t, c, "worker-2")
	}
	after := c.processes(h, task)
	for pid := range before {
		if !after[pid] {
			t.Errorf("process %s of a container is gone", pid)
		}
	}
	eventually(t, time.Minute, func() string {
		for _, n := range c.nodes("manager-1") {
			if n.State != "ready" {
				return n.Hostname + " is " + n.State
			}
		}
		return ""
	})
	c.ok("manager-1", "service", "create", "--name", "after-the-crashes", "--replicas", "4", image)
	c.ok("manager-1", "service", "rm", "after-the-crashes")
}

func lockedManager(t *testing.T, c *cluster) {
	c.lab("stop", "manager-2")
	c.lab("start", "manager-2")
	c.refused("manager-2", 4, "locked", nil, "service", "ls")
	if out := c.ok("manager-1", "status"); !strings.Contains(out, "manager manager-2 is locked: `redoubt unlock` on it") {
		t.Errorf("the others do not say that it is locked:\n%s", out)
	}
	c.refused("manager-2", 4, "key", []byte("RDTKEY-AAAAAAAA"), "unlock")
	wrong := newKey(t)
	c.refused("manager-2", 4, "nothing was changed", []byte(wrong), "unlock")
	c.refused("manager-2", 4, "locked", nil, "service", "ls")
	start := time.Now()
	if r := c.onIn("manager-2", c.key(), "unlock"); r.code != 0 {
		t.Fatalf("the right key: %v", r)
	}
	t.Logf("active %v after the key was given", time.Since(start).Round(10*time.Millisecond))
	c.ok("manager-2", "service", "ls")
	c.refused("manager-2", 1, "not locked", c.key(), "unlock")
}

func rotation(t *testing.T, c *cluster) {
	old := c.key()
	var out string
	eventually(t, time.Minute, func() string {
		// Refused until the manager that was unlocked just now has its session.
		r := c.on("manager-3", "unlock-key", "rotate")
		if out = r.stdout; r.code != 0 {
			return r.String()
		}
		return ""
	})
	i := strings.Index(out, "RDTKEY-")
	if i < 0 {
		t.Fatalf("no key was shown: %s", out)
	}
	fresh := []byte(strings.Fields(out[i:])[0])
	c.lab("stop", "manager-2")
	c.refused("manager-1", 1, "away", nil, "unlock-key", "rotate")
	c.lab("start", "manager-2")
	c.refused("manager-2", 4, "nothing was changed", old, "unlock")
	if r := c.onIn("manager-2", fresh, "unlock"); r.code != 0 {
		t.Fatalf("the new key: %v", r)
	}
	c.ok("manager-2", "node", "ls")
}
