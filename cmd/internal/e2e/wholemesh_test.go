package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestWholeMesh: four services on three networks over five hosts, and a client
// outside: names, virtual addresses, published ports, TCP and UDP, IPv4 and IPv6.
func TestWholeMesh(t *testing.T) {
	t.Parallel()
	c := up(t, "whole", 1, 4)
	c.load()
	begun := time.Now()
	x := c.newClient()
	o := &overlayStory{cluster: c}
	const m = "manager-1"
	c.ok(m, "network", "create", "--ipv6", "front")
	c.ok(m, "network", "create", "--ipv6", "back")
	c.ok(m, "network", "create", "--internal", "data")
	var creating sync.WaitGroup
	for _, args := range [][]string{
		{"--name", "web", "--replicas", "2", "--replicas-max-per-node", "1", "--constraint", "node.role==worker", "--network", "front,alias=www", "--network", "back",
			"--publish", "published=8080,target=80", "--publish", "published=8080,target=80,protocol=udp"},
		{"--name", "api", "--constraint", "node.hostname==worker-3", "--network", "back"},
		{"--name", "db", "--constraint", "node.hostname==worker-4", "--network", "back", "--network", "data"},
		{"--name", "log", "--constraint", "node.hostname==worker-3", "--network", "data", "--network", "front", "--publish", "published=8090,target=80"},
	} {
		creating.Go(func() { c.ok(m, append(append([]string{"service", "create", "--quiet"}, args...), image)...) })
	}
	creating.Wait()
	eventually(t, time.Minute, func() string {
		if n := len(c.serving("web")) + len(c.serving("api")) + len(c.serving("db")) + len(c.serving("log")); n != 5 {
			return fmt.Sprintf("%d of 5 tasks run", n)
		}
		return ""
	})
	web, api, db, log := c.serving("web"), o.task("api"), o.task("db"), o.task("log")
	t.Logf("five tasks on four workers run after %v", time.Since(begun).Round(100*time.Millisecond))

	// Who shares a network is found by name, however it is called and over both.
	for _, from := range web {
		for _, url := range []string{"http://api/", "-6 http://api/", "http://tasks.api/", "http://1.api/"} {
			o.answers(from, url, api.ID[:12])
		}
		o.datagrams(from, "api", api.ID[:12])
		o.answers(from, "http://db/", db.ID[:12])
		o.answers(from, "http://log/", log.ID[:12]) // by front
	}
	o.answers(db, "http://log/", log.ID[:12]) // by data
	o.datagrams(log, "db", db.ID[:12])
	// A virtual address leads to each of a service's tasks.
	for _, url := range []string{"http://web/", "-6 http://web/", "http://www/"} {
		from := api
		if strings.HasSuffix(url, "www/") {
			from = log
		}
		seen := map[string]bool{}
		for i := 0; i < 60 && len(seen) < len(web); i++ { // each time one of them, by chance
			r := o.get(from, url)
			for _, w := range web {
				if strings.Contains(r.stdout, w.ID[:12]) {
					seen[w.ID] = true
				}
			}
		}
		if len(seen) < len(web) {
			t.Errorf("%s from %s came to %v, not to each of %s and %s", url, from.Name, seen, web[0].ID, web[1].ID)
		}
	}
	// Who shares none is not.
	if r := o.get(api, "http://log/"); r.code == 0 {
		t.Errorf("api is on no network of log, and gets %v", r)
	}
	if r := o.get(api, "http://"+o.address(db, "data")+"/"); r.code == 0 {
		t.Errorf("api is not on network data, and gets %v", r)
	}

	// Every node answers the client, which is seen.
	x.everywhere(c.hosts(), 8080, web...)
	for _, h := range c.hosts() {
		x.answers(askTCP, x.at(h, false, 8090), log)
		x.answers(askTCP, x.at(h, true, 8090), log)
	}
	t.Logf("the story took %v", time.Since(begun).Round(100*time.Millisecond))
	if os.Getenv("REDOUBT_MESHLOAD") != "" {
		o.compare(web[0], log, 8090)
	}
}

// compare asks a task on another node as fast as it can, from a task across their
// network and from outside by the port that is published on that task's node, in
// turn: for docs/performance.md.
func (o *overlayStory) compare(from, to taskJSON, port int) {
	urls := [2]string{"http://" + o.address(to, "front") + "/", fmt.Sprintf("http://%s:%d/", o.host(from.Node).Address, port)}
	var all [2][]float64
	for range 5 {
		for i, client := range []*taskJSON{&from, nil} {
			r := o.ask(client, "-clients", "16", "-kept", "-for", "3s", "-url", urls[i]).wait()
			if r.Failed > 0 {
				o.t.Errorf("%d of %d requests failed: %v", r.Failed, r.Sent, r.Causes)
			}
			all[i] = append(all[i], r.RequestsPerSecond)
		}
	}
	o.t.Logf("requests/s across the network: %.0f; by the published port: %.0f", all[0], all[1])
}

// datagrams asks a name by UDP from a task, over both families.
func (o *overlayStory) datagrams(from taskJSON, name, want string) {
	o.t.Helper()
	script := fmt.Sprintf("exec 3<>/dev/udp/%s/80 && echo '?' >&3 && timeout 3 head -n 1 <&3", name)
	if r := o.in(from, "bash -c \""+script+"\""); r.code != 0 || !strings.Contains(r.stdout, want) {
		o.t.Errorf("a datagram from %s to %s: want %q, got %v", from.Name, name, want, r)
	}
}
