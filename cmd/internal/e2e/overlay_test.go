package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestOverlay: services on networks that span hosts find each other by name, and
// nobody else reaches or reads them, whoever is killed meanwhile.
func TestOverlay(t *testing.T) {
	t.Parallel()
	c := up(t, "overlay", 1, 2)
	c.load()
	begun := time.Now()
	// 7946 speaks TLS and refuses it.
	seen := capture(t, c.hosts(), overlayCanary)
	c.inHost("worker-1", "sh", "-c", "curl -s --max-time 2 -H 'X-Control: "+control+"' http://"+c.host("worker-2").Address+":7946/ || true")
	o := &overlayStory{cluster: c, capture: seen}
	for _, story := range []struct {
		name string
		tell func(*overlayStory)
	}{
		{"services find each other by name on other hosts", (*overlayStory).names},
		{"what the kernel has is what the cluster says", (*overlayStory).kernel},
		{"only what a policy allows passes", (*overlayStory).policy},
		{"daemons die and traffic goes on", (*overlayStory).daemonsDie},
		// It shows that the redoubtd that was killed has heard from managers again:
		// without that nobody is its peer when they stop.
		{"a service that is removed leaves nothing", (*overlayStory).removed},
		{"managers stop and traffic goes on", (*overlayStory).managersStop},
		{"a removed node is cut off", (*overlayStory).nodeRemoved},
		{"and comes back as a new one", (*overlayStory).nodeComesBack},
	} {
		at := time.Now()
		if !t.Run(story.name, func(t *testing.T) {
			sub, inner := *c, *o
			sub.t = t
			inner.cluster = &sub
			story.tell(&inner)
			o.web, o.db = inner.web, inner.db
		}) {
			return
		}
		t.Logf("%s: %v", story.name, time.Since(at).Round(100*time.Millisecond))
	}
	o.capture.check(t)
	t.Logf("the story took %v", time.Since(begun).Round(100*time.Millisecond))
}

// overlayStory has services web on worker-1 and db on worker-2, both on network
// back.
type overlayStory struct {
	*cluster
	web, db taskJSON
	capture *captured
}

const overlayCanary = "canary-across-the-overlay-9c1f"

// task is the only task of a service.
func (o *overlayStory) task(service string) taskJSON {
	o.t.Helper()
	all := slices.DeleteFunc(o.tasks("manager-1", service), func(t taskJSON) bool { return t.State != "running" })
	if len(all) != 1 {
		o.t.Fatalf("service %s has %d running tasks: %v", service, len(all), o.tasks("manager-1", service))
	}
	return all[0]
}

// in runs a shell in a task's network namespace, with its resolv.conf.
func (o *overlayStory) in(task taskJSON, script string) result {
	o.t.Helper()
	run_ := o.host(task.Node).RunDir
	return run(o.t, nil, "lab", "exec", "--name", o.name, task.Node, "--", "nsenter", "--net="+filepath.Join(run_, "netns", task.ID), "--",
		"unshare", "-m", "sh", "-c", fmt.Sprintf("mount --bind %s $(readlink -f /etc/resolv.conf) && { %s\n}", filepath.Join(run_, "rund", task.ID, "resolv.conf"), script))
}

// get asks a URL from a task, with the canary.
func (o *overlayStory) get(from taskJSON, url string) result {
	o.t.Helper()
	return o.in(from, "curl -sS -g --max-time 3 -H 'X-Canary: "+overlayCanary+"' "+url)
}

// answers fails unless the URL answers from the task.
func (o *overlayStory) answers(from taskJSON, url, want string) {
	o.t.Helper()
	if r := o.get(from, url); r.code != 0 || !strings.Contains(r.stdout, want) {
		o.t.Errorf("%s from %s: want %q, got %v", url, from.Name, want, r)
	}
}

func (o *overlayStory) names() {
	const m = "manager-1"
	o.ok(m, "network", "create", "--ipv6", "back")
	o.ok(m, "network", "create", "--internal", "hidden")
	o.ok(m, "service", "create", "--name", "web", "--network", "back,alias=www", "--constraint", "node.hostname==worker-1", image)
	o.ok(m, "service", "create", "--name", "db", "--network", "back", "--network", "hidden", "--constraint", "node.hostname==worker-2", image)
	o.web, o.db = o.task("web"), o.task("db")
	for _, name := range []string{"db", "tasks.db", "1.db"} {
		o.answers(o.web, "http://"+name+"/", o.db.ID[:12])
	}
	o.answers(o.db, "http://www/", o.web.ID[:12])
	o.answers(o.db, "-6 http://web/", o.web.ID[:12])
	o.answers(o.db, "-6 http://tasks.web/", o.web.ID[:12])
	o.answers(o.web, "http://web/", o.web.ID[:12]) // by its own virtual address
	// The network's own mesh, the node and its daemons are out of reach.
	urls := []string{"http://169.254.169.254/"}
	for _, h := range o.hosts() {
		urls = append(urls, "http://"+h.Address+":7946/", "http://"+h.Address+":2377/")
	}
	script := ""
	for _, url := range urls { // side by side: each waits for nothing; 7 is refused, 28 silence
		script += fmt.Sprintf("(curl -s --connect-timeout 1 %s; case $? in 7|28) ;; *) echo %s;; esac) & ", url, url)
	}
	if r := o.in(o.db, script+"wait"); r.code != 0 || r.stdout != "" {
		o.t.Errorf("they answer a container: %v", r)
	}
}

func (o *overlayStory) kill(h host, daemon string) {
	o.t.Helper()
	pid := o.daemons(h)[daemon]
	if pid <= 1 {
		o.t.Fatalf("%s: %s does not run", h.Name, daemon)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		o.t.Fatal(err)
	}
}

// kernel holds what the kernel has against what the cluster says.
func (o *overlayStory) kernel() {
	text := o.ok("manager-1", "network", "inspect", "back")
	for _, x := range []struct{ here, there taskJSON }{{o.web, o.db}, {o.db, o.web}} {
		h := o.host(x.here.Node)
		pins, err := filepath.Glob(filepath.Join(h.RunDir, "netns", "net-*"))
		if err != nil || len(pins) == 0 {
			o.t.Fatalf("%s has no namespaces of networks (%v)", h.Name, err)
		}
		id := wordAfter(text, "ID:")
		inside := func(args ...string) string {
			return o.inHost(h.Name, append([]string{"nsenter", "--net=" + filepath.Join(h.RunDir, "netns", "net-"+id), "--"}, args...)...)
		}
		links, fdb, routes, rules := inside("ip", "-d", "link"), inside("bridge", "fdb", "show"), inside("ip", "route"), inside("nft", "list", "ruleset")
		if !strings.Contains(links, "vxlan id "+wordAfter(text, "VNI:")+" ") {
			o.t.Errorf("%s: no VXLAN device of the network:\n%s", h.Name, links)
		}
		if strings.Count(fdb, " dst ") != 1 || strings.Contains(fdb, "00:00:00:00:00:00") {
			o.t.Errorf("%s: its forwarding table:\n%s", h.Name, fdb)
		}
		for _, a := range []string{o.address(x.here, "back"), o.address(x.there, "back")} {
			if !strings.Contains(routes, a+" ") || !strings.Contains(rules, a) || !strings.Contains(text, a) {
				o.t.Errorf("%s: %s is not everywhere:\n%s%s", h.Name, a, routes, text)
			}
		}
	}
	if status := o.ok("worker-1", "status"); !strings.Contains(status, "Mesh:") {
		o.t.Errorf("a worker's status says nothing of the mesh:\n%s", status)
	}
}

// wordAfter is the word behind a label.
func wordAfter(text, label string) string {
	_, rest, _ := strings.Cut(text, label)
	if f := strings.Fields(rest); len(f) > 0 {
		return f[0]
	}
	return ""
}

// daemonsDie kills what makes the networks, one after another.
func (o *overlayStory) daemonsDie() {
	h := o.host("worker-1")
	for _, daemon := range []string{"redoubt-netd", "redoubt-named", "redoubtd", "redoubt-rund"} {
		o.kill(h, daemon)
		eventually(o.t, 30*time.Second, func() string {
			for _, x := range []struct {
				from taskJSON
				url  string
			}{{o.web, "http://db/"}, {o.db, "http://web/"}} {
				if r := o.get(x.from, x.url); r.code != 0 {
					return fmt.Sprintf("%s killed, and %s from %s says %v", daemon, x.url, x.from.Name, r)
				}
			}
			return ""
		})
	}
}

func (o *overlayStory) managersStop() {
	// A redoubtd that was killed knows its peers again when a manager told it.
	for _, h := range []string{"worker-1", "worker-2"} {
		eventually(o.t, 30*time.Second, func() string {
			if text := o.ok(h, "status"); !strings.Contains(text, "Peer:") {
				return h + " knows no peer:\n" + text
			}
			return ""
		})
	}
	o.lab("stop", "manager-1")
	for range 3 {
		o.answers(o.web, "http://db/", o.db.ID[:12])
		o.answers(o.db, "http://web/", o.web.ID[:12])
	}
	o.kill(o.host("worker-2"), "redoubt-netd")
	eventually(o.t, 30*time.Second, func() string {
		if r := o.get(o.web, "http://db/"); r.code != 0 {
			return "netd was killed without a manager: " + r.String()
		}
		return ""
	})
	o.lab("start", "--unlock", "manager-1")
	o.leader("manager-1")
}

func (o *overlayStory) policy() {
	const m = "manager-1"
	o.ok(m, "network", "create", "--default-deny", "strict")
	o.ok(m, "service", "update", "--network-add", "strict", "web")
	o.ok(m, "service", "update", "--network-add", "strict", "db")
	o.web, o.db = o.task("web"), o.task("db")
	to := o.address(o.db, "strict")
	if r := o.get(o.web, "http://"+to+"/"); r.code == 0 {
		o.t.Errorf("nothing allows it, and it passes: %v", r)
	}
	o.ok(m, "policy", "create", "--network", "strict", "--allow", "service:web->service:db:tcp/80", "web-to-db")
	eventually(o.t, 15*time.Second, func() string {
		if r := o.get(o.web, "http://"+to+"/"); r.code != 0 {
			return "it is allowed, and does not pass: " + r.String()
		}
		return ""
	})
	if r := o.get(o.db, "http://"+o.address(o.web, "strict")+"/"); r.code == 0 {
		o.t.Errorf("the other way is not allowed, and passes: %v", r)
	}
	o.answers(o.db, "http://web/", o.web.ID[:12]) // by the network without a policy
}

func (o *overlayStory) removed() {
	o.ok("manager-1", "service", "create", "--name", "brief", "--network", "back", "--constraint", "node.hostname==worker-1", image)
	brief := o.task("brief")
	o.answers(o.db, "http://brief/", brief.ID[:12])
	o.ok("manager-1", "service", "rm", "brief")
	eventually(o.t, 15*time.Second, func() string {
		if r := o.in(o.db, "getent ahosts brief"); r.code == 0 {
			return "its name is still told: " + r.stdout
		}
		return ""
	})
}

// nodeRemoved takes worker-2 out of the cluster.
func (o *overlayStory) nodeRemoved() {
	o.answers(o.web, "http://db/", o.db.ID[:12])
	to := o.address(o.db, "back")
	o.ok("manager-1", "node", "rm", "--force", "worker-2")
	gone := time.Now()
	eventually(o.t, 15*time.Second, func() string {
		if r := o.get(o.web, "--connect-timeout 1 http://"+to+"/"); r.code == 0 {
			return "a removed node still answers: " + r.String()
		}
		return ""
	})
	o.t.Logf("cut off at the latest %v after it was removed", time.Since(gone).Round(100*time.Millisecond))
}

// nodeComesBack has worker-2 join again, while the processes that took part in the
// networks before still run.
func (o *overlayStory) nodeComesBack() {
	token := []byte(o.ok("manager-1", "join-token", "worker", "-q"))
	eventually(o.t, time.Minute, func() string {
		if r := o.onIn("worker-2", token, "join", o.host("manager-1").Address); r.code != 0 {
			return r.String() // it is still told that it was removed, and forgets
		}
		return ""
	})
	eventually(o.t, time.Minute, func() string {
		if r := o.get(o.web, "http://db/"); r.code != 0 {
			return fmt.Sprint(r, o.tasks("manager-1", "db"))
		}
		return ""
	})
	if now := o.task("db"); now.ID == o.db.ID {
		o.t.Errorf("%v is the task of before", now)
	}
}

// address is a task's IPv4 address on a network, from the kernel of its sandbox.
func (o *overlayStory) address(task taskJSON, network string) string {
	o.t.Helper()
	prefix := o.subnet(network)
	r := o.in(task, "ip -4 -o addr show")
	for _, f := range strings.Fields(r.stdout) {
		ip, _, err := net.ParseCIDR(f)
		if err == nil && prefix.Contains(ip) {
			return ip.String()
		}
	}
	o.t.Fatalf("%s has no address on %s: %v", task.Name, network, r)
	return ""
}

func (o *overlayStory) subnet(network string) *net.IPNet {
	o.t.Helper()
	text := o.ok("manager-1", "network", "inspect", network)
	for _, f := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\n,\"()", r) }) {
		if ip, n, err := net.ParseCIDR(f); err == nil && ip.To4() != nil {
			return n
		}
	}
	o.t.Fatalf("network %s has no subnet:\n%s", network, text)
	return nil
}
