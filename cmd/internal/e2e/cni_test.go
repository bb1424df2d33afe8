package e2e

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCNI: networks of Debian's CNI plugins, of several drivers on one node and
// on one task, beside overlays; what is wrong with a plugin is said and harms
// nobody else; nothing is left of what ended.
func TestCNI(t *testing.T) {
	t.Parallel()
	c := up(t, "cni", 1, 2, "--cni")
	c.load()
	s := &cniStory{overlayStory: &overlayStory{cluster: c}}
	s.prepare()
	for _, story := range []struct {
		name string
		tell func(*cniStory)
	}{
		{"drivers side by side", (*cniStory).sideBySide},
		{"each node has its own", (*cniStory).confined},
		{"networks come and go by rolling updates", (*cniStory).rolling},
		{"who runs plugins is killed", (*cniStory).killed},
		{"what a plugin cannot do is said", (*cniStory).broken},
		{"a machine that lost its power leaks no address", (*cniStory).powerCut},
		{"nothing is left", (*cniStory).gone},
	} {
		at := time.Now()
		if !t.Run(story.name, func(t *testing.T) {
			sub, inner, outer := *c, *s, *s.overlayStory
			sub.t = t
			outer.cluster = &sub
			inner.overlayStory = &outer
			story.tell(&inner)
		}) {
			return
		}
		t.Logf("%s: %v", story.name, time.Since(at).Round(100*time.Millisecond))
	}
}

type cniStory struct{ *overlayStory }

// dir is where a host has its plugins, conflists and addresses.
func (s *cniStory) dir(host string, elem ...string) string {
	return filepath.Join(append([]string{filepath.Dir(s.host(host).DataDir), "cni"}, elem...)...)
}

func (s *cniStory) write(path, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

// card gives worker-1 a card that nothing else uses, with its cable in.
func (s *cniStory) card() {
	s.inHost("worker-1", "sh", "-ec", "ip link add card0 type veth peer name cable0; ip link set card0 up; ip link set cable0 up")
}

// prepare is the administrator of worker-1: a macvlan network on a card of its
// own, two plugins that do not do what they should, and conflists that are refused.
func (s *cniStory) prepare() {
	const h = "worker-1"
	s.card()
	conflist := func(name, plugin string) {
		s.write(s.dir(h, "conflists", name+".conflist"), fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[%s]}`, name, plugin), 0o644)
	}
	conflist("segment", fmt.Sprintf(`{"type":"macvlan","master":"card0","mode":"bridge","ipam":{"type":"host-local","dataDir":%q,
	  "ranges":[[{"subnet":"172.28.1.0/24"}],[{"subnet":"fd28::/64"}]]}}`, s.dir(h, "addresses")))
	conflist("failing", `{"type":"failing"}`)
	conflist("outside", `{"type":"bridge","ipam":{"type":"host-local","dataDir":"/etc","ranges":[[{"subnet":"172.27.0.0/24"}]]}}`)
	conflist("unpinned", `{"type":"vlan"}`)
	script := "#!/bin/sh\n[ $CNI_COMMAND != VERSION ] || exec echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}'\n" +
		"[ $CNI_COMMAND = DEL -a -e " + s.dir(h, "mended") + " ] && exit 0\n" +
		"echo '{\"cniVersion\":\"1.0.0\",\"code\":7,\"msg\":\"the wire of '$CNI_COMMAND' is cut\"}'\nexit 1\n"
	s.write(s.dir(h, "plugins", "failing"), script, 0o755)
	config := filepath.Join(filepath.Dir(s.host(h).DataDir), "config.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(config, strings.TrimRight(string(text), "\n")+fmt.Sprintf("\n      failing: %x\n", sha256.Sum256([]byte(script))), 0o644)
	s.lab("stop", h)
	s.lab("start", h)
	for name, driver := range map[string]string{"lan": "lan", "segment": "segment", "failing": "failing", "outside": "outside", "nowhere": "nowhere"} {
		s.ok("manager-1", "network", "create", "--driver", "cni", "--opt", "conflist="+driver, name)
	}
	s.ok("manager-1", "network", "create", "--driver", "none", "off")
	s.ok("manager-1", "network", "create", "--driver", "bridge", "here")
	s.ok("manager-1", "network", "create", "back")
}

// said are a task's addresses as `service ps` says them, by network.
func (s *cniStory) said(service string) map[string][]string {
	s.t.Helper()
	var out []struct {
		State    string
		Networks map[string][]string
	}
	s.decode(s.ok("manager-1", "service", "ps", service, "--format", "json"), &out)
	for _, t := range out {
		if t.State == "running" {
			return t.Networks
		}
	}
	return nil
}

// agree fails unless the kernel has what is said of a task on a network, on an
// interface, and `network inspect` says it, too.
func (s *cniStory) agree(task taskJSON, service, network, link string, within string) {
	s.t.Helper()
	said := s.said(service)[network]
	has := s.in(task, "ip -o addr show dev "+link).stdout
	inspect := s.ok("manager-1", "network", "inspect", network)
	if len(said) == 0 {
		s.t.Errorf("nothing is said of %s on %s: %v", task.Name, network, s.said(service))
	}
	for i, a := range said {
		addr, err := netip.ParseAddr(a)
		if err != nil || !strings.Contains(has, " "+a+"/") || !strings.Contains(inspect, task.Name+" "+strings.Join(said, " ")) {
			s.t.Errorf("%s on %s: %q is said, %s has\n%s\nand network inspect says\n%s", task.Name, network, a, link, has, inspect)
		}
		if i == 0 && !netip.MustParsePrefix(within).Contains(addr) {
			s.t.Errorf("%s is not of %s", a, within)
		}
	}
}

func (s *cniStory) sideBySide() {
	const m = "manager-1"
	on1 := []string{"--constraint", "node.hostname==worker-1"}
	create := func(args ...string) {
		s.ok(m, append([]string{"service", "create", "--detach", "--restart-delay", "100ms"}, append(args, image)...)...)
	}
	create(append([]string{"--name", "lone", "--network", "lan,alias=friend"}, on1...)...)
	create("--name", "both", "--network", "lan", "--network", "segment", "--network", "back") // only worker-1 can
	create("--name", "wired", "--network", "segment")
	create("--name", "far", "--network", "back", "--constraint", "node.hostname==worker-2")
	create("--name", "off", "--network", "off")
	s.run("lone", "both", "wired", "far", "off")
	lone, both, wired, far, off := s.task("lone"), s.task("both"), s.task("wired"), s.task("far"), s.task("off")
	if both.Node != "worker-1" || wired.Node != "worker-1" {
		s.t.Errorf("a network that worker-1 alone has is on %s and %s", both.Node, wired.Node)
	}
	s.agree(lone, "lone", "lan", "cni0", "172.29.0.0/16")
	s.agree(both, "both", "lan", "cni0", "172.29.0.0/16")
	s.agree(both, "both", "segment", "cni1", "172.28.1.0/24")
	s.agree(both, "both", "back", "ov2", "10.200.0.0/13")
	if n := len(s.said("both")["segment"]); n != 2 {
		s.t.Errorf("both have %d addresses on the segment", n)
	}
	s.answers(lone, "http://both/", both.ID[:12])
	s.answers(both, "http://friend/", lone.ID[:12])
	s.answers(both, "http://1.lone/", lone.ID[:12])
	s.answers(wired, "http://both/", both.ID[:12])
	s.answers(both, "-6 http://wired/", wired.ID[:12])
	s.answers(both, "http://far/", far.ID[:12]) // across the overlay
	s.answers(far, "http://both/", both.ID[:12])
	// Names and addresses of one network are none of the other's, and there is no
	// other way to anything.
	s.closed(lone, "wired", "far", s.said("both")["segment"][0], s.host("worker-1").Address+":2377", s.host("worker-2").Address+":7946")
	s.closed(far, "lone", "wired")
	s.closed(off, "both", s.host("worker-1").Address+":2377")
	for task, want := range map[taskJSON]string{lone: "cni0 lo", wired: "cni0 lo", off: "lo"} {
		got := strings.Fields(s.in(task, "ip -br link | cut -d@ -f1 | cut -d' ' -f1").stdout)
		if slices.Sort(got); strings.Join(got, " ") != want {
			s.t.Errorf("%s has the interfaces %q, wanted %s", task.Name, got, want)
		}
	}
}

// run waits until a task of each service does.
func (s *cniStory) run(services ...string) {
	s.t.Helper()
	for _, service := range services {
		eventually(s.t, 30*time.Second, func() string {
			if tasks := s.tasks("manager-1", service); len(tasks) == 0 || slices.ContainsFunc(tasks, func(t taskJSON) bool { return t.State != "running" }) {
				return fmt.Sprintf("%s: %v", service, tasks)
			}
			return ""
		})
	}
}

// closed fails where a task reaches one of these.
func (s *cniStory) closed(from taskJSON, hosts ...string) {
	s.t.Helper()
	script := ""
	for _, h := range hosts { // side by side: each waits for nothing
		script += fmt.Sprintf("(curl -s -o /dev/null --connect-timeout 1 http://%s/; case $? in 6|7|28) ;; *) echo %s;; esac) & ", h, h)
	}
	if r := s.in(from, script+"wait"); r.code != 0 || r.stdout != "" {
		s.t.Errorf("they answer %s: %v", from.Name, r)
	}
}

// confined: a bridge is as an overlay, and ends at the node.
func (s *cniStory) confined() {
	const m = "manager-1"
	s.ok(m, "service", "create", "--detach", "--name", "shop", "--network", "here", "--replicas", "2", "--replicas-max-per-node", "1", "--constraint", "node.role==worker", image)
	s.ok(m, "service", "create", "--detach", "--name", "till", "--network", "here", "--constraint", "node.hostname==worker-1", image)
	s.run("shop", "till")
	till := s.task("till")
	addresses := map[string]string{}
	for _, t := range s.tasks(m, "shop") {
		addresses[t.Node] = t.ID
	}
	for range 4 { // of two tasks there is one here
		s.answers(till, "http://shop/", addresses["worker-1"][:12])
	}
	s.answers(till, "http://tasks.shop/", addresses["worker-1"][:12])
	inspect := s.ok(m, "network", "inspect", "here")
	if strings.Count(inspect, "shop.") != 2 {
		s.t.Errorf("both tasks should be on it:\n%s", inspect)
	}
	for _, line := range strings.Split(inspect, "\n") {
		f := strings.Fields(line)
		if len(f) > 2 && strings.HasPrefix(f[1], "shop.") {
			r := s.get(till, "--connect-timeout 1 http://"+f[2]+"/")
			if here := strings.Contains(line, "worker-1"); (r.code == 0) != here {
				s.t.Errorf("%s: %v", line, r)
			}
		}
	}
	s.ok(m, "service", "rm", "shop")
	s.ok(m, "service", "rm", "till")
}

func (s *cniStory) rolling() {
	const m = "manager-1"
	now := s.replaced("lone", "--network-add", "segment")
	s.agree(now, "lone", "lan", "cni0", "172.29.0.0/16")
	s.agree(now, "lone", "segment", "cni1", "172.28.1.0/24")
	s.answers(s.task("wired"), "http://lone/", now.ID[:12])
	now = s.replaced("lone", "--network-rm", "segment")
	if on := s.said("lone"); len(on) != 1 || len(on["lan"]) != 1 {
		s.t.Errorf("it is on %v", on)
	}
	s.answers(now, "http://both/", s.task("both").ID[:12])
	s.refused(m, 1, "in use by service", nil, "network", "rm", "lan")
	s.refused(m, 1, "is of driver none: a service on it is on no other", nil, "service", "update", "--network-add", "off", "lone")
	s.refused(m, 1, "policies have no effect on network lan", nil, "policy", "create", "--network", "lan", "--allow", "service:lone->service:both", "p")
}

// replaced is the task that an update made.
func (s *cniStory) replaced(service string, flags ...string) (now taskJSON) {
	s.t.Helper()
	was := s.task(service)
	s.ok("manager-1", append(append([]string{"service", "update", "--detach"}, flags...), service)...)
	eventually(s.t, 30*time.Second, func() string {
		all := s.tasks("manager-1", service)
		i := slices.IndexFunc(all, func(t taskJSON) bool { return t.State == "running" && t.ID != was.ID })
		if i < 0 {
			return fmt.Sprintf("it is not replaced: %v", all)
		}
		now = all[i]
		return ""
	})
	return now
}

// killed: containers and their addresses stay, and names go on.
func (s *cniStory) killed() {
	lone, both := s.task("lone"), s.task("both")
	for _, daemon := range []string{"redoubt-rund", "redoubt-netd", "redoubt-named", "redoubtd"} {
		s.kill(s.host("worker-1"), daemon)
		eventually(s.t, 30*time.Second, func() string {
			for url, from := range map[string]taskJSON{"http://both/": lone, "http://friend/": both} {
				if r := s.get(from, url); r.code != 0 {
					return fmt.Sprintf("%s killed, and %s says %v", daemon, url, r)
				}
			}
			return ""
		})
	}
	if s.task("lone").ID != lone.ID || s.task("both").ID != both.ID {
		s.t.Error("tasks were replaced")
	}
	s.agree(both, "both", "segment", "cni1", "172.28.1.0/24")
}

func (s *cniStory) broken() {
	const m = "manager-1"
	inspect := s.ok(m, "node", "inspect", "worker-1")
	for _, want := range []string{"none of the allowed directories", "vlan is not pinned", "plugins macvlan, host-local"} {
		if !strings.Contains(inspect, want) {
			s.t.Errorf("node inspect does not say %q:\n%s", want, inspect)
		}
	}
	for network, want := range map[string]string{
		"outside": "1 cannot use cni:outside (node inspect says why)",
		"nowhere": "lack the feature cni:nowhere",
		"failing": "the wire of ADD is cut",
	} {
		s.ok(m, "service", "create", "--detach", "--name", "on-"+network, "--network", network, "--restart-condition", "none", image)
		eventually(s.t, 30*time.Second, func() string {
			for _, t := range s.tasks(m, "on-"+network) {
				if strings.Contains(t.Message+t.Error, want) {
					return ""
				}
			}
			return fmt.Sprintf("nobody says %q of %v", want, s.tasks(m, "on-"+network))
		})
	}
	// Its DEL fails as well: it is recorded until it succeeds, and hinders nobody.
	held := func() int { return len(s.list(s.host("worker-1").DataDir, "cni/attachments/*.json")) }
	if held() != 5 {
		s.t.Errorf("%d attachments are recorded: of lone, wired and both there are 4, and one that cannot be taken away", held())
	}
	s.write(s.dir("worker-1", "mended"), "", 0o600)
	s.answers(s.task("lone"), "http://both/", s.task("both").ID[:12])
	for _, network := range []string{"outside", "nowhere", "failing"} {
		s.ok(m, "service", "rm", "on-"+network)
	}
	eventually(s.t, 30*time.Second, func() string {
		if n := held(); n != 4 {
			return fmt.Sprintf("%d attachments are recorded, of lone, wired and both there are 4", n)
		}
		return ""
	})
}

func (s *cniStory) list(dir, pattern string) []string {
	s.t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *cniStory) powerCut() {
	const m = "manager-1"
	s.lab("kill", "--containers", "worker-1")
	s.lab("start", "worker-1")
	s.card()
	eventually(s.t, 60*time.Second, func() string {
		for service, networks := range map[string]int{"lone": 1, "both": 3, "wired": 1} {
			running := slices.DeleteFunc(s.tasks(m, service), func(t taskJSON) bool { return t.State != "running" })
			if len(running) != 1 || len(s.said(service)) != networks {
				return fmt.Sprintf("%s after the power cut: %v", service, s.tasks(m, service))
			}
		}
		return ""
	})
	s.answers(s.task("wired"), "http://both/", s.task("both").ID[:12])
	eventually(s.t, 30*time.Second, func() string {
		if n := len(s.leases()); n != 6 { // four places, the segment has two families
			return fmt.Sprintf("%d addresses are held, 6 are in use: %q", n, s.leases())
		}
		return ""
	})
}

// leases are the addresses that host-local has given on worker-1.
func (s *cniStory) leases() (out []string) {
	for _, f := range s.list(s.dir("worker-1", "addresses"), "*/*") {
		if _, err := netip.ParseAddr(filepath.Base(f)); err == nil {
			out = append(out, filepath.Base(f))
		}
	}
	return out
}

func (s *cniStory) gone() {
	const m = "manager-1"
	for _, service := range []string{"lone", "both", "wired", "far", "off"} {
		s.ok(m, "service", "rm", service)
	}
	eventually(s.t, 30*time.Second, func() string {
		if l := s.leases(); len(l) > 0 {
			return fmt.Sprintf("addresses are still held: %q", l)
		}
		if l := s.list(s.host("worker-1").DataDir, "cni/attachments/*"); len(l) > 0 {
			return fmt.Sprintf("attachments are still recorded: %q", l)
		}
		if links := s.inHost("worker-1", "ip", "-br", "link", "show", "type", "veth"); strings.Contains(links, "\nveth") || strings.HasPrefix(links, "veth") {
			return "interfaces are left:\n" + links
		}
		for _, network := range []string{"lan", "segment", "failing", "outside", "nowhere", "off", "here", "back"} {
			if r := s.on(m, "network", "rm", network); r.code != 0 && !strings.Contains(r.stderr, "no network") {
				return r.String()
			}
		}
		return ""
	})
}
