package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/cmd/internal/meshload"
)

// In a sandbox's network this test binary asks a service, see package meshload.
func init() {
	if args := os.Getenv("REDOUBT_E2E_LOAD"); args != "" {
		os.Exit(meshload.Main(strings.Fields(args), os.Stdout, os.Stderr))
	}
}

// asking is a load that goes on.
type asking struct {
	t           *testing.T
	cmd         *exec.Cmd
	out, errOut bytes.Buffer
}

// ask begins a load from within a task's network, or with no task from outside of
// the cluster, until end or its own -for.
func (c *cluster) ask(from *taskJSON, args ...string) *asking {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	a := &asking{t: c.t, cmd: exec.Command(self)}
	if from != nil {
		a.cmd = exec.Command(filepath.Join(binDir, "redoubt"), "lab", "exec", "--name", c.name, from.Node, "--",
			"nsenter", "--net="+filepath.Join(c.host(from.Node).RunDir, "netns", from.ID), "--", self)
	}
	a.cmd.Env = append(os.Environ(), "REDOUBT_E2E_LOAD="+strings.Join(args, " "))
	a.cmd.Stdout, a.cmd.Stderr = &a.out, &a.errOut
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := a.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { syscall.Kill(-a.cmd.Process.Pid, syscall.SIGKILL) })
	return a
}

// end stops the load and returns what became of it.
func (a *asking) end() *meshload.Report {
	a.t.Helper()
	syscall.Kill(-a.cmd.Process.Pid, syscall.SIGTERM)
	return a.wait()
}

func (a *asking) wait() *meshload.Report {
	a.t.Helper()
	err := a.cmd.Wait()
	r := &meshload.Report{}
	if jerr := json.Unmarshal(a.out.Bytes(), r); jerr != nil {
		a.t.Fatalf("the load said nothing: %v, %v: %s", err, jerr, a.errOut.String())
	}
	return r
}

// loadStory asks service web, which is on worker-2 and worker-3, in two ways: by its
// virtual address from a task on worker-1, and from outside by the port that it
// publishes on worker-1, too.
type loadStory struct {
	*cluster
	ways []way
	rate int // of all ways
	// kills is how many containers are killed, one after another.
	kills int
}

type way struct {
	name, url string
	from      *taskJSON
}

// TestMeshLoad: what runs is not disturbed by what is stopped, replaced, moved or
// killed beside it. REDOUBT_MESHLOAD is the rate of the requests; at 2000, tasks
// are ten and each part says its figures for docs/performance.md.
// REDOUBT_MESHLOAD_WAY is vip or published: that way alone. REDOUBT_MESHLOAD_KILLS is
// how many containers are killed, one after another. REDOUBT_MESHRATE is how
// often, instead of all that, the rate of requests by a published port is compared with
// that of requests to the same container across the overlay.
func TestMeshLoad(t *testing.T) {
	t.Parallel()
	rate, replicas, kills := 60, 3, 1
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_MESHLOAD")); err == nil && n > 0 {
		rate, replicas, kills = n, 10, 5
	}
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_MESHLOAD_KILLS")); err == nil && n > 0 {
		kills = n
	}
	c := up(t, "meshload", 1, 3)
	c.load()
	const m = "manager-1"
	c.ok(m, "network", "create", "back")
	c.ok(m, "service", "create", "--name", "web", "--restart-delay", "1s", "--replicas", strconv.Itoa(replicas), "--network", "back", "--publish", "8080:80",
		"--constraint", "node.hostname!=worker-1", image)
	c.ok(m, "service", "create", "--name", "client", "--network", "back", "--constraint", "node.hostname==worker-1", image)
	client := c.tasks(m, "client")[0]
	s := &loadStory{cluster: c, rate: rate, kills: kills, ways: []way{
		{"vip", "http://" + c.vip("web") + "/", &client},
		{"published", "http://" + c.host("worker-1").Address + ":8080/", nil},
	}}
	if only := os.Getenv("REDOUBT_MESHLOAD_WAY"); only != "" {
		s.ways = slices.DeleteFunc(s.ways, func(w way) bool { return w.name != only })
	}
	// A second's worth of connections that end are kept by the kernel for a minute.
	net := "--net=" + filepath.Join(c.host("worker-1").RunDir, "netns", client.ID)
	c.inHost("worker-1", "nsenter", net, "--", "sh", "-c", "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range")
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_MESHRATE")); err == nil && n > 0 {
		s.rates(client, n)
		return
	}
	for _, part := range []struct {
		name string
		tell func(*loadStory)
	}{
		{"nothing happens", (*loadStory).quiet},
		{"a rolling update", (*loadStory).update},
		{"a container is killed", (*loadStory).killed},
	} {
		if !t.Run(part.name, func(t *testing.T) {
			sub, inner := *c, *s
			sub.t = t
			inner.cluster = &sub
			part.tell(&inner)
		}) {
			return
		}
	}
}

// vip is a service's only virtual address.
func (c *cluster) vip(service string) string {
	c.t.Helper()
	var views []struct {
		Service struct {
			VIPs []struct{ Addresses []string }
		}
	}
	c.decode(c.ok("manager-1", "service", "inspect", "--format", "json", service), &views)
	return views[0].Service.VIPs[0].Addresses[0]
}

// begin asks by every way; end says what became of it, by the ways' names.
func (s *loadStory) begin(howLong string) (end func() map[string]*meshload.Report) {
	s.t.Helper()
	loads, before, at := map[string]*asking{}, s.spent(), time.Now()
	for _, w := range s.ways {
		loads[w.name] = s.ask(w.from, "-url", w.url, "-rate", strconv.Itoa(s.rate/len(s.ways)), "-for", howLong, "-timeout", "20s")
	}
	return func() map[string]*meshload.Report {
		out := map[string]*meshload.Report{}
		var had time.Duration
		for name, a := range loads {
			out[name] = a.end()
			had += out[name].ProcessorTime
		}
		s.tellSpent(before, at, had)
		return out
	}
}

// tell logs a report; times are since at.
func (s *loadStory) tell(way string, r *meshload.Report, at time.Time) {
	s.t.Helper()
	s.t.Logf("%s: %d requests, %d failed, %d sent again by the client, %d slow; p50 %v, p99 %v, longest %v; %d answered",
		way, r.Sent, r.Failed, r.Retried, r.Slow, r.P50.Round(10*time.Microsecond), r.P99.Round(100*time.Microsecond), r.Max.Round(time.Millisecond), len(r.Answered))
	for _, cause := range slices.Sorted(maps.Keys(r.Causes)) {
		s.t.Logf("  %d × %s", r.Causes[cause], cause)
	}
	for _, f := range r.Failures[:min(12, len(r.Failures))] {
		s.tellFailure(r, f, at)
	}
}

func (s *loadStory) quiet() {
	at := time.Now()
	end := s.begin("5m")
	s.during(3 * time.Second)
	for way, r := range end() {
		s.tell(way, r, at)
		if r.Failed > 0 || r.Sent < s.rate {
			s.t.Errorf("%s: %d of %d requests failed while nothing happened: %v", way, r.Failed, r.Sent, r.Causes)
		}
	}
}

// during lets time pass in which nothing is done.
func (s *loadStory) during(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

func (s *loadStory) update() {
	end := s.begin("5m")
	at := time.Now()
	s.ok("manager-1", "service", "update", "--env-add", "ROUND=2", "web")
	took := time.Since(at)
	for way, r := range end() {
		s.tell(way, r, at)
		if r.Failed > 0 {
			s.t.Errorf("%s: %d of %d requests failed during a rolling update: %v", way, r.Failed, r.Sent, r.Causes)
		}
	}
	s.t.Logf("  the update took %v", took.Round(100*time.Millisecond))
}

// killed ends containers of web by SIGKILL, as out of memory would. Only what was
// sent before they were dead may fail.
func (s *loadStory) killed() {
	for range s.kills {
		s.killOne()
	}
}

func (s *loadStory) killOne() {
	end := s.begin("5m")
	running := func(t taskJSON) bool { return t.State == "running" && t.Desired == "running" }
	all := s.tasks("manager-1", "web")
	victim := all[slices.IndexFunc(all, running)]
	var pids []int
	for pid := range s.processes(s.host(victim.Node), victim.ID) {
		n, _ := strconv.Atoi(pid)
		pids = append(pids, n)
	}
	if len(pids) == 0 {
		s.t.Fatalf("%s has no process", victim.Name)
	}
	s.during(time.Second)
	at := time.Now()
	dead := kill(s.t, pids)
	s.t.Logf("%s died %v after it was killed", victim.Name, dead.Sub(at).Round(100*time.Microsecond))
	eventually(s.t, time.Minute, func() string {
		all := s.tasks("manager-1", "web")
		if slices.ContainsFunc(all, func(t taskJSON) bool { return t.Name == victim.Name && t.ID != victim.ID && running(t) }) {
			return ""
		}
		return fmt.Sprintf("nothing runs in the place of %s: %v", victim.Name, all)
	})
	for way, r := range end() {
		s.tell(way, r, at)
		if span := r.Answered[victim.ID[:12]]; span == nil {
			s.t.Errorf("%s: %s was never asked: %v", way, victim.Name, slices.Sorted(maps.Keys(r.Answered)))
		}
		for _, f := range r.Failures {
			if f.Began > dead.UnixNano() {
				s.t.Errorf("%s: a request failed that was sent %v after the container was dead: %s", way, time.Duration(f.Began-dead.UnixNano()), f.Cause)
			}
		}
	}
}
