//go:build interop

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

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestInteropNAT: a worker joins from behind a router that masquerades, where nobody
// can call it; its containers and others' reach each other, and a connection lives
// through the router's giving the worker other ports.
func TestInteropNAT(t *testing.T) {
	t.Parallel()
	c := up(t, "nat", 1, 2)
	const m, w = "manager-1", "worker-2"
	was := c.nodeID(w)
	c.ok(w, "leave", "--force")
	eventually(t, time.Minute, func() string {
		if r := c.on(m, "node", "rm", "--force", was); r.code != 0 {
			return r.String()
		}
		return ""
	})
	c.lab("stop", w)
	r := c.behindNAT(w)
	c.lab("start", w)
	token, _ := c.token("worker")
	if r := c.onIn(w, []byte(token), "join", c.addr2377(m)); r.code != 0 {
		t.Fatalf("joining from behind a router: %v", r)
	}
	eventually(t, time.Minute, func() string { return c.memberReady(w) })
	c.load()
	o := &overlayStory{cluster: c}
	o.ok(m, "network", "create", "back")
	o.ok(m, "service", "create", "--name", "web", "--network", "back", "--constraint", "node.hostname==worker-1", image)
	o.ok(m, "service", "create", "--name", "db", "--network", "back", "--constraint", "node.hostname==worker-2", image)
	o.web, o.db = o.task("web"), o.task("db")
	asks := map[string]func(string) time.Duration{"to the worker": c.keeps(o.place(o.web), o.address(o.db, "back")), "from it": c.keeps(o.place(o.db), o.address(o.web, "back"))}
	for _, x := range []struct {
		from *place
		name string
	}{{o.place(o.web), "db"}, {o.place(o.db), "web"}} {
		if _, err := x.from.get(x.name); err != nil {
			t.Errorf("%s from %s: %v", x.name, x.from.node, err)
		}
	}
	if text := o.ok("worker-1", "status"); !strings.Contains(text, "at "+r.outside+":") || strings.Contains(text, "DEGRADED") {
		t.Errorf("worker-1 has no tunnel to the router:\n%s", text)
	}
	for i, change := range []string{"to other ports", "once more"} {
		r.masquerade(t, 40000+1000*i)
		for way, ask := range asks {
			t.Logf("the router goes over %s: %s answered after %v", change, way, ask(change).Round(time.Millisecond))
		}
	}
	// Nothing is sent for longer than the router remembers, and the worker keeps the way to
	// it open. No manager is there.
	o.lab("stop", m)
	idle := time.NewTimer(routerMemory + 3*time.Second)
	<-idle.C
	if !r.remembers(t, o.host("worker-1").Address) {
		t.Error("the router forgot the worker")
	}
	took := asks["to the worker"]("idle")
	t.Logf("without a manager, idle for longer than the router remembers: to the worker answered after %v", took.Round(time.Millisecond))
}

// routerMemory is how long the router knows a flow of UDP that nobody uses.
const routerMemory = 30 * time.Second

// A natRouter masquerades what is behind it, and lets nothing in by itself.
type natRouter struct{ name, outside string }

// behindNAT puts a router between a host and the lab, which takes the host's address.
func (c *cluster) behindNAT(host string) natRouter {
	t := c.t
	t.Helper()
	h := c.host(host)
	r := natRouter{fmt.Sprintf("nat-%d", os.Getpid()), h.Address}
	ip := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	end := regexp.MustCompile(`eth0@if(\d+):`).FindStringSubmatch(c.inHost(host, "ip", "-o", "link", "show", "eth0"))
	if end == nil {
		t.Fatalf("%s has no cable", host)
	}
	peer := end[1]
	cable := regexp.MustCompile(`(?m)^` + peer + `: ([^@:]+).* master (\S+)`).FindStringSubmatch(ip("-o", "link"))
	if cable == nil {
		t.Fatalf("%s has no cable %s:\n%s", host, peer, ip("-o", "link"))
	}
	gateway := h.Address[:strings.LastIndexByte(h.Address, '.')] + ".1"
	if got := c.inHost(host, "ip", "-4", "route", "show", "default"); !strings.Contains(got, "via "+gateway+" ") {
		gateway = wordAfter(got, "via ")
	}
	ip("netns", "add", r.name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", r.name).Run() })
	in := func(args ...string) { t.Helper(); ip(append([]string{"-n", r.name}, args...)...) }
	ip("link", "set", cable[1], "nomaster", "netns", r.name)
	in("link", "set", cable[1], "name", "inside", "up")
	in("addr", "add", "192.168.177.1/24", "dev", "inside")
	ip("link", "add", cable[1], "master", cable[2], "up", "type", "veth", "peer", "name", "outside", "netns", r.name)
	in("link", "set", "lo", "up")
	in("link", "set", "outside", "up")
	in("addr", "add", r.outside+"/24", "dev", "outside")
	in("route", "add", "default", "via", gateway)
	r.masquerade(t, 30000)
	seconds := fmt.Sprint(int(routerMemory / time.Second))
	if out, err := exec.Command("ip", "netns", "exec", r.name, "sysctl", "-qw", "net.ipv4.ip_forward=1",
		"net.netfilter.nf_conntrack_udp_timeout="+seconds, "net.netfilter.nf_conntrack_udp_timeout_stream="+seconds).CombinedOutput(); err != nil {
		t.Fatalf("the router: %v: %s", err, out)
	}
	c.inHost(host, "sh", "-ec", "ip addr flush dev eth0 scope global; ip addr add 192.168.177.2/24 dev eth0; ip route replace default via 192.168.177.1")
	config := filepath.Join(filepath.Dir(h.DataDir), "config.yaml")
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^  (listen|advertise): .*\n`).ReplaceAllString(string(b), "")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

// masquerade has the router begin anew, with other ports.
func (r natRouter) masquerade(t *testing.T, first int) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", r.name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`flush ruleset
table ip nat {
	chain out { type nat hook postrouting priority 100
		oifname outside meta l4proto { tcp, udp } masquerade to :%d-%d
		oifname outside masquerade
	}
	chain through { type filter hook forward priority 0
		iifname outside ct state new drop
	}
}
`, first, first+999))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	handle := r.conntrack(t)
	defer handle.Close()
	if err := handle.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		t.Fatal(err)
	}
}

// remembers says whether it knows a flow of UDP from what is behind it to that address.
func (r natRouter) remembers(t *testing.T, to string) bool {
	t.Helper()
	handle := r.conntrack(t)
	defer handle.Close()
	all, err := handle.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(f *netlink.ConntrackFlow) bool {
		return f.Forward.Protocol == unix.IPPROTO_UDP && f.Forward.DstIP.String() == to
	})
}

func (r natRouter) conntrack(t *testing.T) *netlink.Handle {
	t.Helper()
	ns, err := netns.GetFromName(r.name)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	return handle
}
