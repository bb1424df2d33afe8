package e2e

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestToolsAgree: what the cluster says of its networks is what Debian's own tools
// see of them on each host, no less and no more: wg, nft, ip, bridge, and the
// addresses that CNI's host-local keeps. It holds again after tasks went.
func TestToolsAgree(t *testing.T) {
	t.Parallel()
	c := up(t, "tools", 1, 2, "--cni")
	c.load()
	s := &toolsStory{cniStory{&overlayStory{cluster: c}}, map[string]netip.Addr{}}
	const m = "manager-1"
	c.ok(m, "network", "create", "--ipv6", "back")
	c.ok(m, "network", "create", "front")
	c.ok(m, "network", "create", "--driver", "cni", "--opt", "conflist=lan", "lan")
	c.ok(m, "service", "create", "--detach", "--name", "web", "--network", "back", "--network", "front", "--replicas", "3", "--constraint", "node.role==worker", image)
	c.ok(m, "service", "create", "--detach", "--name", "db", "--network", "back", "--network", "lan", "--constraint", "node.hostname==worker-2", image)
	c.ok(m, "service", "create", "--detach", "--name", "one", "--network", "lan", "--endpoint-mode", "dnsrr", "--constraint", "node.hostname==worker-2", image)
	s.run("web", "db", "one")
	s.agreeSoon("with all services")
	s.flushIsSeen("worker-2")
	c.ok(m, "service", "update", "--detach", "--replicas", "1", "web")
	c.ok(m, "service", "rm", "one")
	s.agreeSoon("with fewer tasks")
	c.ok(m, "service", "rm", "web", "db")
	s.agreeSoon("with none")
}

type toolsStory struct {
	cniStory
	meshOf map[string]netip.Addr
}

// agreeSoon gives what is told in increments the time to arrive, and the tools the
// last word.
func (s *toolsStory) agreeSoon(when string) {
	s.t.Helper()
	eventually(s.t, 45*time.Second, func() string {
		for _, h := range []string{"worker-1", "worker-2"} {
			if why := s.compare(h); why != "" {
				return when + ", " + h + ": " + why
			}
		}
		return ""
	})
}

type inspected struct {
	Network struct {
		ID   string
		VNI  uint32
		Spec struct{ Driver string }
	}
	Endpoints []struct {
		Addresses []string
		NodeName  string `json:"node_name"`
		TaskID    string `json:"task_id"`
		Serving   bool
	}
	UsedBy []struct{ Vips []string } `json:"used_by"`
}

// compare holds what `network inspect`, `node inspect` and `status` say against the
// tools on a host; empty: they agree.
func (s *toolsStory) compare(h string) string {
	s.t.Helper()
	var networks []inspected
	s.decode(s.ok("manager-1", "network", "inspect", "back", "front", "lan", "--format", "json"), &networks)
	peers, assigned := map[string]bool{}, []string{}
	for _, n := range networks {
		if n.Network.Spec.Driver == "cni" {
			if why := s.leased(h, n); why != "" {
				return why
			}
			continue
		}
		nodes := map[string]bool{}
		for _, e := range n.Endpoints {
			nodes[e.NodeName] = true
		}
		if !nodes[h] {
			if _, err := os.Stat(s.pin(h, n)); err == nil {
				return "the namespace of a network without tasks here is left"
			}
			continue
		}
		delete(nodes, h)
		for node := range nodes {
			vni := netip.AddrFrom4([4]byte{byte(n.Network.VNI >> 16), byte(n.Network.VNI >> 8), byte(n.Network.VNI)})
			assigned = append(assigned, fmt.Sprintf("%s %s %s", s.mesh(node), vni, router(s.mesh(node))))
		}
		maps.Copy(peers, nodes)
		if why := s.overlayAgrees(h, n, nodes); why != "" {
			return why
		}
	}
	if why := s.wireguard(h, peers); why != "" {
		return why
	}
	text, why := s.ask(h, "", "nft list ruleset >/dev/null; nft list set inet redoubt_mesh assigned")
	if why != "" {
		return why
	}
	slices.Sort(assigned)
	if got := matches(text[0], `([0-9.]+) \. ([0-9.]+) \. ([0-9a-f:]{17})`); !slices.Equal(got, assigned) {
		return fmt.Sprintf("nft lets (node, network, MAC) %q in, the cluster says %q", got, assigned)
	}
	return ""
}

func (s *toolsStory) pin(h string, n inspected) string {
	return filepath.Join(s.host(h).RunDir, "netns", "net-"+n.Network.ID)
}

// mesh is a node's address in the mesh, as `node inspect` says it.
func (s *toolsStory) mesh(node string) netip.Addr {
	s.t.Helper()
	if a, ok := s.meshOf[node]; ok { // for life
		return a
	}
	a, err := netip.ParseAddr(wordAfter(s.ok("manager-1", "node", "inspect", node), "Mesh address:"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.meshOf[node] = a
	return a
}

// router is the MAC of a node in the mesh.
func router(mesh netip.Addr) string {
	a := mesh.As4()
	b := binary.BigEndian.AppendUint16(nil, 0x0252)
	b = append(b, a[:]...)
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

// overlayAgrees compares what a network's namespace has. remote are the other
// nodes with tasks on it.
func (s *toolsStory) overlayAgrees(h string, n inspected, remote map[string]bool) string {
	nft := func(kind, name string) string {
		return fmt.Sprintf("nft list %[1]s inet redoubt_overlay %[2]s4; nft list %[1]s inet redoubt_overlay %[2]s6", kind, name)
	}
	text, why := s.ask(h, "nsenter --net="+s.pin(h, n)+" -- ", "nft list ruleset >/dev/null; ip -d link show vx0", "bridge fdb show dev vx0",
		"ip neigh show dev vx0; ip -6 neigh show dev vx0", "ip route; ip -6 route show proto 82", nft("set", "pins"), nft("map", "backends"), nft("set", "virtual"))
	switch {
	case why != "":
		return why
	case !strings.Contains(text[0], fmt.Sprintf("vxlan id %d ", n.Network.VNI)) || !strings.Contains(text[0], "nolearning"):
		return "another VXLAN device:\n" + text[0]
	}
	var fdb, neighbours, routes, pins, backends, vips []string
	routerOf := map[string]string{}
	for node := range remote {
		mesh := s.mesh(node)
		routerOf[node] = router(mesh)
		fdb = append(fdb, router(mesh)+" "+mesh.String())
	}
	for _, u := range n.UsedBy {
		vips = append(vips, u.Vips...)
	}
	for _, e := range n.Endpoints {
		for _, a := range e.Addresses {
			routes, pins = append(routes, a), append(pins, a)
			if mac := routerOf[e.NodeName]; mac != "" {
				neighbours = append(neighbours, a+" "+mac)
			}
			if e.Serving {
				backends = append(backends, a)
			}
		}
	}
	for _, x := range []struct {
		what      string
		want, got []string
	}{
		{"bridge fdb", fdb, matches(text[1], `(?m)^(\S+) .*?dst (\S+)`)},
		{"ip neigh", neighbours, matches(text[2], `(?m)^(\S+) lladdr (\S+) PERMANENT`)},
		{"ip route", routes, matches(text[3], `(?m)^([0-9a-f][0-9a-f.:]+) dev`)},
		{"nft's pins", pins, matches(text[4], `[0-9a-f:]{17} \. ([0-9a-f.:]+)`)},
		{"nft's backends", backends, matches(text[5], `0x[0-9a-f]+ : ([0-9a-f.:]+)`)},
		{"nft's virtual addresses", vips, matches(text[6], `[{ ]([0-9a-f]+[.:][0-9a-f.:]+)`)},
	} {
		slices.Sort(x.want)
		if want, got := slices.Compact(x.want), x.got; !slices.Equal(want, got) {
			return fmt.Sprintf("%s of network %s has %q, the cluster says %q", x.what, n.Network.ID, got, want)
		}
	}
	return ""
}

// ask runs scripts on a host, each of tools behind a prefix, and returns what each
// printed; why: one failed, as on a namespace that goes at that moment.
func (s *toolsStory) ask(h, prefix string, scripts ...string) (out []string, why string) {
	s.t.Helper()
	r := run(s.t, nil, "lab", "exec", "--name", s.name, h, "--", "sh", "-ec", prefix+"sh -ec '"+strings.Join(scripts, "\necho @@\n")+"'")
	if r.code != 0 {
		return nil, r.String()
	}
	return strings.Split(r.stdout, "@@\n"), ""
}

// matches are what an expression finds, its groups joined, each once.
func matches(text, expr string) (out []string) {
	for _, m := range regexp.MustCompile(expr).FindAllStringSubmatch(text, -1) {
		out = append(out, strings.Join(m[1:], " "))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// wireguard compares what wg shows with what the node says of its tunnels: a tunnel
// to each of these nodes and to no other.
func (s *toolsStory) wireguard(h string, peers map[string]bool) string {
	var status struct {
		Node struct {
			Mesh struct {
				Interface string
				Peers     []struct {
					Address, Endpoint string
					Received          string `json:"received_bytes"`
					Sent              string `json:"sent_bytes"`
				}
			}
		}
	}
	s.decode(s.ok(h, "status", "--format", "json"), &status)
	m := status.Node.Mesh
	if m.Interface == "" && len(peers) == 0 {
		return ""
	}
	// wg looks for the embedded WireGuard in /run/wireguard.
	text, why := s.ask(h, "unshare -m ", fmt.Sprintf("mount --rbind /run %[1]s; mount -t tmpfs t /run; mkdir /run/wireguard; "+
		"ln -s %[1]s/%[2]s /run/wireguard/%[3]s.sock; wg show %[3]s dump", s.t.TempDir(), strings.TrimPrefix(filepath.Join(s.host(h).RunDir, "wg.sock"), "/run/"), m.Interface))
	if why != "" {
		return why
	}
	lines := strings.Split(strings.TrimSpace(text[0]), "\n")
	if len(lines)-1 != len(peers) || len(m.Peers) != len(peers) {
		return fmt.Sprintf("wg shows %d peers, status says %d, networks are shared with %d", len(lines)-1, len(m.Peers), len(peers))
	}
	if f := strings.Fields(lines[0]); f[0] != "(none)" || f[1] != "(none)" {
		return "wg is told keys of the interface: " + lines[0]
	}
	for node := range peers {
		mesh := s.mesh(node).String()
		found := false
		for _, line := range lines[1:] { // key, PSK, endpoint, allowed, handshake, received, sent, keepalive
			f := strings.Fields(line)
			if len(f) != 8 || f[3] != mesh+"/32" {
				continue
			}
			found = true
			if f[1] != "(none)" {
				return "wg is told a pre-shared key"
			}
			at, _ := strconv.ParseInt(f[4], 10, 64)
			if age := time.Since(time.Unix(at, 0)); age < -time.Second || age > 10*time.Minute {
				return fmt.Sprintf("wg shows a handshake with %s %v ago", node, age)
			}
			for _, p := range m.Peers {
				// Read before wg's, so they are not more.
				if p.Address == mesh && (p.Endpoint != f[2] || more(p.Received, f[5]) || more(p.Sent, f[6])) {
					return fmt.Sprintf("status says %v, wg shows %s", p, line)
				}
			}
		}
		if !found {
			return fmt.Sprintf("wg shows no peer with %s of %s:\n%s", mesh, node, text[0])
		}
	}
	return ""
}

func more(a, b string) bool {
	x, _ := strconv.ParseUint(a, 10, 64)
	y, _ := strconv.ParseUint(b, 10, 64)
	return x > y
}

// leased compares what host-local has given with what is said of this host's
// tasks, and what the bridge carries with their interfaces.
func (s *toolsStory) leased(h string, n inspected) string {
	var want, got []string
	for _, e := range n.Endpoints {
		if e.NodeName == h {
			want = append(want, e.Addresses...)
		}
	}
	for _, f := range s.list(s.dir(h, "addresses", "lan"), "*") {
		if _, err := netip.ParseAddr(filepath.Base(f)); err == nil {
			got = append(got, filepath.Base(f))
		}
	}
	slices.Sort(want)
	if slices.Sort(got); !slices.Equal(want, got) {
		return fmt.Sprintf("host-local has given %q, network inspect says %q", got, want)
	}
	text, why := s.ask(h, "", "bridge link show")
	if why != "" {
		return why
	}
	if links := strings.Count(text[0], " master lan0 "); links != len(want) {
		return fmt.Sprintf("the bridge of CNI has %d links, network inspect says %d tasks", links, len(want))
	}
	return ""
}

// flushIsSeen: what somebody does to a node's rules is put back, and shown to whoever
// operates the cluster: with the node, with its networks, and as an event.
func (s *toolsStory) flushIsSeen(h string) {
	s.t.Helper()
	s.inHost(h, "nft", "flush", "ruleset")
	flushed := time.Now()
	eventually(s.t, 45*time.Second, func() string {
		for _, x := range []struct {
			want string
			args []string
		}{
			{"network rules        no  changed by somebody", []string{"node", "inspect", h}},
			{"rules on " + h + " were changed by somebody", []string{"network", "inspect", "back"}},
			{"rules-changed", []string{"events", "--since", "5m", "--until", "0s"}},
		} {
			if out := s.ok("manager-1", x.args...); !strings.Contains(out, x.want) {
				return fmt.Sprintf("after a flush, %v does not say %q:\n%s", x.args, x.want, out)
			}
		}
		if out := s.inHost(h, "nft", "list", "tables"); !strings.Contains(out, "redoubt_mesh") {
			return "the tables are not put back: " + out
		}
		return ""
	})
	s.t.Logf("a flush was seen and put back after %v", time.Since(flushed).Round(100*time.Millisecond))
	s.agreeSoon("after a flush")
}
