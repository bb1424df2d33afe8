package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The service of the kill stories: several tasks, one of which has a published
// port on the node.
const killed = "killed"

// TestKillMatrix kills each helper of a worker once, at several moments of a
// service's start, and expects the same end every time: every task runs once,
// the port answers, and after the service is removed nothing of it is left.
func TestKillMatrix(t *testing.T) {
	t.Parallel()
	c := up(t, "killmatrix", 1, 1)
	c.load()
	c.ok("manager-1", "service", "create", "--name", "old", image)
	old := c.tasks("manager-1", "old")[0].ID
	pid := c.taskPID(old)
	for _, daemon := range []string{"redoubt-rund", "redoubt-netd", "redoubt-keyd", "redoubtd", "containerd"} {
		for _, after := range []time.Duration{0, 120 * time.Millisecond, 350 * time.Millisecond} {
			ok := t.Run(fmt.Sprintf("%s after %v", daemon, after), func(t *testing.T) {
				sub := *c
				sub.t = t
				sub.killDuringStart(daemon, after)
			})
			if !ok {
				return
			}
		}
	}
	t.Run("the table is deleted during a start", func(t *testing.T) {
		sub := *c
		sub.t = t
		sub.duringStart(func() {
			sub.lab("exec", "worker-1", "--", "nft", "delete", "table", "inet", "redoubt")
		})
	})
	t.Run("forwarding is turned off and on", func(t *testing.T) {
		sub := *c
		sub.t = t
		sub.duringStart(func() {
			for _, v := range []string{"1", "0"} {
				sub.lab("exec", "worker-1", "--", "sysctl", "-qw", "net.ipv4.ip_forward="+v)
			}
		})
	})
	t.Run("two services want one port", func(t *testing.T) {
		sub := *c
		sub.t = t
		sub.samePort()
	})
	if now := c.taskPID(old); now != pid || c.tasks("manager-1", "old")[0].ID != old {
		t.Errorf("a container that ran all along was restarted: pid %d, then %d", pid, now)
	}
	t.Run("a rebooted worker starts nothing by itself", func(t *testing.T) {
		sub := *c
		sub.t = t
		sub.reboot()
	})
}

func (c *cluster) killDuringStart(daemon string, after time.Duration) {
	c.duringStart(func() {
		<-time.After(after) // the moment is what is varied
		h := c.host("worker-1")
		if daemon == "containerd" {
			c.killContainerd(h)
			return
		}
		pid := c.daemons(h)[daemon]
		if pid == 0 {
			c.t.Fatalf("%s does not run", daemon)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			c.t.Fatal(err)
		}
	})
}

// killContainerd ends the worker's containerd; its shims stay. Starting the
// host starts it again, as the machine's service manager would.
func (c *cluster) killContainerd(h host) {
	c.t.Helper()
	pid := c.containerdPID(h)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.containerdBack(h, pid)
}

// containerdPID is the process id of the host's containerd.
func (c *cluster) containerdPID(h host) int {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(h.DataDir), "containerd.pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	var file struct {
		PID int `json:"pid"`
	}
	c.decode(string(b), &file)
	if file.PID < 2 {
		c.t.Fatalf("no pid in %s", b)
	}
	return file.PID
}

// containerdBack starts containerd again once it has ended.
func (c *cluster) containerdBack(h host, pid int) {
	c.t.Helper()
	eventually(c.t, 10*time.Second, func() string {
		if err := syscall.Kill(pid, 0); err == nil {
			return "containerd is still there"
		}
		return ""
	})
	c.lab("start", h.Name)
}

// duringStart creates the service, disturbs its start and sees it converge and
// go.
func (c *cluster) duringStart(disturb func()) {
	t := c.t
	t.Helper()
	before := c.residue()
	c.createKilled()
	disturb()
	eventually(t, 60*time.Second, c.killedRuns)
	for _, s := range []string{killed, killed + "-port"} {
		for _, task := range c.tasks("manager-1", s) {
			if task.State == "rejected" {
				t.Errorf("a task was rejected although nothing is wrong with it: %s", task.Error)
			}
		}
	}
	eventually(t, 30*time.Second, func() string { return c.noneTwice(before) })
	c.removeKilled()
	eventually(t, 60*time.Second, func() string { return c.residueIs(before) })
}

// createKilled makes the services whose start and end are disturbed.
func (c *cluster) createKilled() {
	c.t.Helper()
	c.ok("manager-1", "service", "create", "--detach", "--name", killed, "--replicas", "4", image)
	c.ok("manager-1", "service", "create", "--detach", "--name", killed+"-port", "--publish", "mode=host,published=8090,target=80", image)
}

func (c *cluster) removeKilled() {
	c.t.Helper()
	c.ok("manager-1", "service", "rm", killed)
	c.ok("manager-1", "service", "rm", killed+"-port")
}

// killedRuns says what those services lack.
func (c *cluster) killedRuns() string {
	if n := c.running("manager-1", killed)["worker-1"]; n != 4 {
		return fmt.Sprintf("%d tasks run: %s", n, c.on("manager-1", "service", "ps", killed))
	}
	url := "http://" + c.host("worker-1").Address + ":8090/"
	if code, err := get(url); err != nil || code != 200 {
		return fmt.Sprintf("%s: %d %v: %s", url, code, err, c.on("manager-1", "service", "ps", killed+"-port"))
	}
	return ""
}

// noneTwice: every container is a task that runs, or one that was cut off in the
// moment of its start and has failed: none twice, none left over.
func (c *cluster) noneTwice(before residue) string {
	want, failed := before.containers+5, 0
	for _, s := range []string{killed, killed + "-port"} {
		for _, task := range c.tasks("manager-1", s) {
			if task.State == "failed" {
				failed++
			}
		}
	}
	now := c.residue()
	if now.containers < want || now.containers > want+failed || now.processes != before.processes+5 {
		return fmt.Sprintf("%d containers, want %d, or up to %d more that failed; %d processes, want %d",
			now.containers, want, failed, now.processes, before.processes+5)
	}
	return ""
}

func (c *cluster) residueIs(before residue) string {
	if now := c.residue(); now != before {
		return fmt.Sprintf("something is left: %+v, before: %+v", now, before)
	}
	return ""
}

// inside runs a command on the worker.
func (c *cluster) inside(args ...string) string {
	c.t.Helper()
	return c.lab("exec", append([]string{"worker-1", "--"}, args...)...)
}

// containers are the worker's containers.
func (c *cluster) containers() []string {
	c.t.Helper()
	return strings.Fields(c.inside("ctr", "-n", "redoubt", "containers", "ls", "-q"))
}

// taskPID is the pid of a task's first process.
func (c *cluster) taskPID(task string) int {
	c.t.Helper()
	for line := range strings.Lines(c.inside("ctr", "-n", "redoubt", "tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == task {
			pid, err := strconv.Atoi(f[1])
			if err != nil {
				c.t.Fatal(err)
			}
			return pid
		}
	}
	c.t.Fatalf("task %s does not run on worker-1", task)
	return 0
}

// residue counts what tasks are made of on the worker.
type residue struct {
	containers, processes, shims, snapshots, pins, mounts, dirs, links, cgroups, dnat int
}

func (c *cluster) residue() (r residue) {
	c.t.Helper()
	h := c.host("worker-1")
	count := func(text, part string) (n int) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, part) {
				n++
			}
		}
		return n
	}
	glob := func(parts ...string) int {
		m, _ := filepath.Glob(filepath.Join(parts...))
		return len(m)
	}
	r.containers = len(c.containers())
	tasks := c.inside("ctr", "-n", "redoubt", "tasks", "ls")
	// CREATED: containerd was killed when it had let the process go.
	r.processes = count(tasks, "RUNNING") + count(tasks, "CREATED")
	r.snapshots = count(c.inside("ctr", "-n", "redoubt", "snapshots", "ls"), "Active")
	r.links = count(c.inside("ip", "-br", "link"), "rdtv")
	r.dnat = count(c.inside("nft", "list", "ruleset"), ". 8090 :")
	r.pins, r.dirs = glob(h.RunDir, "netns", "*"), glob(h.RunDir, "rund", "*")
	group := filepath.Join("redoubt-lab", c.name, "worker-1")
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		r.cgroups += glob(root, group, strings.Repeat("?", 26)+"*")
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		r.mounts = count(string(b), filepath.Join(h.RunDir, "netns")+"/")
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		if strings.Contains(string(cmdline), "containerd-shim") && strings.Contains(string(groups), "/"+group+"/") {
			r.shims++
		}
	}
	return r
}

// samePort: the second service waits for the port and says why; it gets it when
// the first one goes.
func (c *cluster) samePort() {
	t := c.t
	c.ok("manager-1", "service", "create", "--name", "first", "--publish", "mode=host,published=8091,target=80", image)
	c.ok("manager-1", "service", "create", "--detach", "--name", "second", "--publish", "mode=host,published=8091,target=80", image)
	eventually(t, 20*time.Second, func() string {
		if r := c.on("manager-1", "service", "ps", "second"); !strings.Contains(r.stdout, "8091") {
			return "the conflict is not told: " + r.String()
		}
		return ""
	})
	if n := c.running("manager-1", "second")["worker-1"]; n != 0 {
		t.Errorf("both run")
	}
	c.ok("manager-1", "service", "rm", "first")
	eventually(t, 30*time.Second, func() string {
		if n := c.running("manager-1", "second")["worker-1"]; n != 1 {
			return c.on("manager-1", "service", "ps", "second").String()
		}
		return ""
	})
	c.ok("manager-1", "service", "rm", "second")
}

// reboot: the worker loses its power and comes back while no manager answers.
func (c *cluster) reboot() {
	t := c.t
	c.lab("stop", "manager-1")
	c.lab("kill", "worker-1", "--containers")
	c.lab("start", "worker-1")
	// What was left of before is recorded as lost, and nothing runs.
	if r := c.residue(); r.processes != 0 || r.shims != 0 || r.links != 0 {
		t.Errorf("something runs without a manager's word: %+v", r)
	}
	c.lab("start", "manager-1")
	if r := c.onIn("manager-1", c.key(), "unlock"); r.code != 0 {
		t.Fatal(r)
	}
	eventually(t, 60*time.Second, func() string {
		r := c.on("manager-1", "service", "ps", "--format", "json", "old")
		if r.code != 0 {
			return r.String()
		}
		if c.running("manager-1", "old")["worker-1"] != 1 {
			return r.String()
		}
		return ""
	})
	eventually(t, 30*time.Second, func() string {
		if r := c.residue(); r.processes != 1 || r.links != 1 || r.shims != 1 {
			return fmt.Sprintf("want one task, have %+v", r)
		}
		return ""
	})
}
