package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest"
)

// TestManagersGone: without any manager, what runs goes on, and a task that fails is
// withdrawn by the nodes themselves.
func TestManagersGone(t *testing.T) {
	t.Parallel()
	managersGone(t, 1, 20*time.Second)
}

func managersGone(t *testing.T, managers int, away time.Duration) {
	c := up(t, "gone", managers, 3)
	c.lab("load", wellImage(t))
	c.load()
	const m = "manager-1"
	c.ok(m, "network", "create", "back")
	c.ok(m, "service", "create", "--name", "web", "--replicas", "3", "--network", "back", wellRef)
	c.ok(m, "service", "create", "--name", "client", "--mode", "global", "--network", "back", image)
	web, clients := c.upTasks("web", 3), c.upTasks("client", 3)
	var places []*place
	for _, task := range clients {
		places = append(places, c.place(task))
	}
	for _, p := range places {
		eventually(t, 30*time.Second, func() string { return p.has("tasks.web", 3) })
	}
	load := c.traffic("web", 25*time.Millisecond, places...)
	vip, err := places[0].names("web")
	if err != nil || len(vip) != 1 {
		t.Fatalf("web has the addresses %v, %v", vip, err)
	}

	c.each(managers, "kill")
	gone := time.Now()
	// Those who speak and listen are started anew, and nobody is there to tell them who
	// their peers are.
	for _, h := range []string{"worker-2", "worker-3"} {
		c.again(c.host(h), "redoubtd")
	}

	sick := web[slices.IndexFunc(web, func(t taskJSON) bool { return t.Node == "worker-2" })]
	address := c.ownAddress(sick, "tasks.web", places)
	if err := os.Remove(filepath.Join("/proc", c.process(sick), "root", "well")); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	var all sync.WaitGroup
	left := make([]time.Time, len(places))
	for i, p := range places {
		all.Go(func() { left[i] = p.loses("tasks.web", address) })
	}
	all.Wait()
	var own, last, asked time.Time
	for i, p := range places {
		if left[i].IsZero() {
			t.Fatalf("%s still names %s", p.node, address)
		}
		if p.node == sick.Node {
			own = left[i]
		}
		last = latest(last, left[i])
	}
	// Nobody is led there by the virtual address either, for a while.
	eventually(t, 30*time.Second, func() string {
		for _, p := range places {
			asked = latest(asked, load.answered(p.node, sick))
		}
		if time.Since(asked) < 3*time.Second {
			return "requests are still led to the task that failed"
		}
		return ""
	})
	if asked.IsZero() {
		t.Fatal("nobody was ever led to the task")
	}
	t.Logf("no manager; a task fails: its own node withdraws it after %v, the last node after %v; the last request that is led to it begins %v after it failed",
		own.Sub(begun).Round(time.Millisecond), last.Sub(begun).Round(time.Millisecond), asked.Sub(begun).Round(time.Millisecond))

	asks := load.stop()
	c.nodeGone(web, places)
	load = c.traffic("web", 25*time.Millisecond, places...)

	wait := time.NewTimer(time.Until(gone.Add(away)))
	<-wait.C
	for _, p := range places {
		if now, err := p.names("web"); err != nil || !slices.Equal(now, vip) {
			t.Errorf("%s: web has the addresses %v (%v), and had %v", p.node, now, err, vip)
		}
		if missing := p.has("tasks.web", 2); missing != "" {
			t.Errorf("%s: %s", p.node, missing)
		}
	}
	c.each(managers, "start", "--unlock")
	c.leader(m)
	eventually(t, time.Minute, func() string {
		for _, p := range places {
			if missing := p.has("tasks.web", 3); missing != "" {
				return p.node + ": " + missing
			}
		}
		return ""
	})
	if now := c.upTasks("web", 3); slices.ContainsFunc(now, func(t taskJSON) bool { return t.ID == sick.ID }) {
		t.Errorf("the task that failed runs: %v", now)
	}
	t.Logf("%d managers were away for %v: %d requests by name, none failed", managers, time.Since(gone).Round(time.Second), asks+load.stop())
}

// again kills a daemon of a worker and waits until it has peers as before.
func (c *cluster) again(h host, daemon string) {
	c.t.Helper()
	old := c.daemons(h)[daemon]
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	begun := time.Now()
	eventually(c.t, 30*time.Second, func() string {
		if pid := c.daemons(h)[daemon]; pid == old || pid == 0 {
			return daemon + " did not come back"
		}
		// A new process has a key of whomever it spoke with.
		if r := c.on(h.Name, "status"); strings.Count(r.stdout, "pre-shared key") < 2 {
			return fmt.Sprintf("%s does not know its peers: %v", h.Name, r)
		}
		return ""
	})
	c.t.Logf("%s of %s was killed and has its peers again after %v", daemon, h.Name, time.Since(begun).Round(time.Millisecond))
}

// nodeGone takes a node off the net: the others lead nobody to its tasks, and do so
// again once it is back. Itself it judges nobody. The kernel ends connections to it
// after 8 to 10 s, and 8 s later it has answered no question.
func (c *cluster) nodeGone(web []taskJSON, places []*place) {
	c.t.Helper()
	const off = "worker-3"
	there := c.ownAddress(web[slices.IndexFunc(web, func(t taskJSON) bool { return t.Node == off })], "tasks.web", places)
	c.lab("cut", off)
	begun := time.Now()
	var others []*place
	var all sync.WaitGroup
	left := make([]time.Time, len(places))
	for i, p := range places {
		if p.node != off {
			others = append(others, p)
			all.Go(func() { left[i] = p.loses("tasks.web", there) })
		} else if missing := p.has("tasks.web", 2); missing != "" {
			c.t.Errorf("%s was cut off a moment ago, and %s", off, missing)
		}
	}
	all.Wait()
	last := latest(left[0], latest(left[1], left[2]))
	for i, p := range places {
		switch {
		case p.node == off:
			if missing := p.has("tasks.web", 2); missing != "" {
				c.t.Errorf("%s is cut off, and judges others: %s", off, missing)
			}
		case left[i].IsZero():
			c.t.Fatalf("%s was cut off, and %s still names its task", off, p.node)
		}
	}
	load := c.traffic("web", 25*time.Millisecond, others...)
	after := time.NewTimer(2 * time.Second)
	<-after.C
	n := load.stop()
	c.lab("heal", off)
	back := time.Now()
	for _, p := range others {
		eventually(c.t, 40*time.Second, func() string { return p.has("tasks.web", 2) })
	}
	c.t.Logf("no manager; %s vanishes: the last of the others leads nobody there after %v, %d requests then, none failed; back again, the last leads there after %v",
		off, last.Sub(begun).Round(time.Millisecond), n, time.Since(back).Round(time.Millisecond))
}

// each does something with all managers of the lab at once.
func (c *cluster) each(managers int, verb string, flags ...string) {
	c.t.Helper()
	var all sync.WaitGroup
	results := make([]result, managers)
	for i := range results {
		all.Go(func() {
			results[i] = run(c.t, nil, slices.Concat([]string{"lab", verb, "--name", c.name}, flags, []string{fmt.Sprintf("manager-%d", i+1)})...)
		})
	}
	all.Wait()
	for i, r := range results {
		if r.code != 0 {
			c.t.Fatalf("lab %s manager-%d: %v", verb, i+1, r)
		}
	}
}

// upTasks are the tasks of a service, which are so many.
func (c *cluster) upTasks(service string, n int) (out []taskJSON) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		out = slices.DeleteFunc(c.tasks("manager-1", service), func(t taskJSON) bool { return t.State != "running" })
		if len(out) != n {
			return fmt.Sprintf("service %s has %d running tasks, not %d", service, len(out), n)
		}
		return ""
	})
	return out
}

// has says what is missing where the name has not so many addresses.
func (p *place) has(name string, n int) string {
	if addrs, err := p.names(name); err != nil || len(addrs) != n {
		return fmt.Sprintf("%s has %d addresses, not %d (%v)", name, len(addrs), n, err)
	}
	return ""
}

// loses is when the name has that address no more; zero: it keeps it.
func (p *place) loses(name, address string) time.Time {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		if addrs, err := p.names(name); err == nil && !slices.Contains(addrs, address) {
			return time.Now()
		}
	}
	return time.Time{}
}

// ownAddress is a task's, of those that the name has: the one that answers as it.
func (c *cluster) ownAddress(task taskJSON, name string, places []*place) (own string) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, func() string {
		addrs, err := places[0].names(name)
		if err != nil {
			return err.Error()
		}
		said := map[string]string{}
		for _, a := range addrs {
			body, err := places[0].page(a)
			if err == nil && strings.Contains(body, task.ID[:12]) {
				own = a
				return ""
			}
			said[a] = fmt.Sprintf("%q, %v", body, err)
		}
		return fmt.Sprintf("none is task %s: %v", task.Name, said)
	})
	return own
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

const wellRef = "redoubt.test/web:1"

// wellImage serves pages, and is healthy as long as it has its file /well.
func wellImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	probe, err := rundtest.BuildStatic(dir, "github.com/redoubt-cluster/redoubt/scheduler/rund/rundtest/probe")
	if err != nil {
		t.Fatal(err)
	}
	app, err := os.ReadFile(filepath.Join(binDir, "redoubt-demoapp"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := rundtest.BuildImage([]rundtest.File{{Name: "demoapp", Data: app, Mode: 0o755}, {Name: "probe", Data: probe, Mode: 0o755}, {Name: "well", Mode: 0o644}},
		v1.Config{Entrypoint: []string{"/demoapp"},
			Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "/probe", "test", "/well"}, Interval: 500 * time.Millisecond, Retries: 1}}, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "image.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := rundtest.SaveDocker(f, wellRef, img); err != nil {
		t.Fatal(err)
	}
	return path
}
