package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMeshAttacks: strangers on the wire, a rooted worker, a container and any
// other process of a node send what is not theirs to send. Each shot carries a
// mark, and ears in every host, network and sandbox say how far it got.
//
//	network back, IPv4 and IPv6: web and pal on worker-1, db on worker-2
//	network other, internal:     in on worker-1, far on worker-3
func TestMeshAttacks(t *testing.T) {
	t.Parallel()
	c := up(t, "meshattack", 1, 3)
	c.load()
	begun := time.Now()
	f := besiege(c)
	for _, story := range []struct {
		name string
		tell func(*siege)
	}{
		{"a stranger forges what is not his", (*siege).strangerForges},
		{"a stranger stands in the middle", (*siege).inTheMiddle},
		{"a stranger floods", (*siege).flood},
		{"a stranger floods with handshakes", (*siege).floodOfHandshakes},
		{"a rooted worker sends for others", (*siege).rootedWorker},
		{"a container sends for others", (*siege).container},
		{"a published port is one port", (*siege).published},
		{"any process of a node is no container", (*siege).process},
		{"a liar among the peers", (*siege).peersPort},
	} {
		at := time.Now()
		t.Run(story.name, func(t *testing.T) {
			inner := *f
			sub := *c
			sub.t = t
			inner.cluster = &sub
			for _, e := range f.ears {
				e.t = t
			}
			story.tell(&inner)
			f.tunnelPort = inner.tunnelPort
		})
		t.Logf("%s: %v", story.name, time.Since(at).Round(100*time.Millisecond))
	}
	t.Logf("the story took %v", time.Since(begun).Round(100*time.Millisecond))
}

// elsewhere is a network's subnet that lies in no pool.
const elsewhere = "172.20.9.0"

// A siege is a cluster with everything that an attacker may know of it.
type siege struct {
	*cluster
	stranger              *stranger
	back, other           *overlayNet
	web, pal, db, in, far *inhabitant
	w1, w2, w3            *meshHost
	ears                  map[string]*ear
	tunnelPort            uint16 // of worker-1's WireGuard; 0: not known yet
	sources               uint16 // ports of connections that were begun
	sounds                int
}

type overlayNet struct {
	name, id string
	vni      uint32
	gateway4 netip.Addr
	gateway6 netip.Addr // invalid: none
	vip      map[string]netip.Addr
}

// An inhabitant is the only task of a service.
type inhabitant struct {
	name, task     string
	host           *meshHost
	net            *overlayNet
	a4, a6, bridge netip.Addr // bridge: on eth0; invalid: none
	mac            net.HardwareAddr
	ns             string
}

type meshHost struct {
	host
	mesh, under netip.Addr
	mac         net.HardwareAddr // of eth0
	ns, link    string           // link: the WireGuard interface
	pinned      string           // where the namespaces of networks and tasks are
}

func (m *meshHost) networkNS(id string) string { return m.pinned + "/net-" + id }
func (m *meshHost) taskNS(id string) string    { return m.pinned + "/" + id }

type networkJSON struct {
	Network struct {
		ID      string `json:"id"`
		VNI     uint32 `json:"vni"`
		Subnets []struct {
			Gateway netip.Addr `json:"gateway"`
		} `json:"subnets"`
	} `json:"network"`
	Endpoints []struct {
		Addresses []netip.Addr `json:"addresses"`
		Node      string       `json:"node_name"`
		TaskID    string       `json:"task_id"`
		TaskName  string       `json:"task_name"`
	} `json:"endpoints"`
	UsedBy []struct {
		Name string       `json:"name"`
		VIPs []netip.Addr `json:"vips"`
	} `json:"used_by"`
}

func (c *cluster) inspectNetwork(name string) networkJSON {
	c.t.Helper()
	var all []networkJSON
	c.decode(c.ok("manager-1", "network", "inspect", "--format", "json", name), &all)
	if len(all) != 1 {
		c.t.Fatalf("there are %d networks %s", len(all), name)
	}
	return all[0]
}

// populate makes services of one task each, "name network host flags…", and waits
// for all of them.
func (c *cluster) populate(list ...string) {
	c.t.Helper()
	for _, text := range list {
		s := strings.Fields(text)
		args := append([]string{"service", "create", "--detach", "--name", s[0], "--network", s[1], "--constraint", "node.hostname==" + s[2]}, s[3:]...)
		c.ok("manager-1", append(args, image)...)
	}
	eventually(c.t, time.Minute, func() string {
		for _, text := range list {
			if s := strings.Fields(text); c.running("manager-1", s[0])[s[2]] != 1 {
				return s[0] + " does not run"
			}
		}
		return ""
	})
}

// meshHost is a host as its neighbours see it.
func (c *cluster) meshHost(name string) *meshHost {
	c.t.Helper()
	m := &meshHost{host: c.host(name), ns: c.hostNS(name), link: c.meshLink(name)}
	m.under = netip.MustParseAddr(m.Address)
	m.mac = macOf(c.t, m.ns, "eth0")
	m.pinned = fmt.Sprintf("/proc/%d/root%s/netns", c.daemons(m.host)["redoubt-node"], m.RunDir)
	m.mesh = netip.MustParseAddr(wordAfter(c.ok("manager-1", "node", "inspect", name), "Mesh address:"))
	return m
}

func (c *cluster) overlay(name string, machines ...*meshHost) (*overlayNet, map[string]*inhabitant) {
	c.t.Helper()
	x := c.inspectNetwork(name)
	n := &overlayNet{name: name, id: x.Network.ID, vni: x.Network.VNI, vip: map[string]netip.Addr{}}
	for _, s := range x.Network.Subnets {
		if s.Gateway.Is4() {
			n.gateway4 = s.Gateway
		} else {
			n.gateway6 = s.Gateway
		}
	}
	for _, s := range x.UsedBy {
		n.vip[s.Name] = s.VIPs[0]
	}
	people := map[string]*inhabitant{}
	for _, e := range x.Endpoints {
		i := slices.IndexFunc(machines, func(m *meshHost) bool { return m.Name == e.Node })
		if i < 0 {
			continue
		}
		p := &inhabitant{task: e.TaskID, host: machines[i], net: n, a4: e.Addresses[0], ns: machines[i].taskNS(e.TaskID)}
		p.name, _, _ = strings.Cut(e.TaskName, ".")
		if len(e.Addresses) > 1 {
			p.a6 = e.Addresses[1]
		}
		p.mac = macOf(c.t, p.ns, "ov0")
		within(c.t, p.ns, func() error {
			l, err := net.InterfaceByName("eth0")
			if err != nil {
				return nil // an internal network
			}
			addrs, err := l.Addrs()
			for _, a := range addrs {
				if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is4() {
					p.bridge = prefix.Addr()
				}
			}
			return err
		})
		people[p.name] = p
	}
	return n, people
}

func besiege(c *cluster) *siege {
	t := c.t
	t.Helper()
	const m = "manager-1"
	c.ok(m, "network", "create", "--ipv6", "back")
	c.ok(m, "network", "create", "--internal", "other")
	c.ok(m, "network", "create", "--subnet", elsewhere+"/24", "elsewhere")
	c.populate("web back worker-1 --publish published=8099,target=80", "pal back worker-1", "db back worker-2", "in other worker-1", "far other worker-3")
	f := &siege{cluster: c, stranger: c.stranger(250), w1: c.meshHost("worker-1"), w2: c.meshHost("worker-2"), w3: c.meshHost("worker-3"), ears: map[string]*ear{}, sources: 20000}
	var back, other map[string]*inhabitant
	f.back, back = c.overlay("back", f.w1, f.w2, f.w3)
	f.other, other = c.overlay("other", f.w1, f.w2, f.w3)
	f.web, f.pal, f.db, f.in, f.far = back["web"], back["pal"], back["db"], other["in"], other["far"]
	for _, p := range []*inhabitant{f.web, f.pal, f.db, f.in, f.far} {
		if p == nil || f.back.gateway6.Is4() || !f.web.a6.IsValid() {
			t.Fatal("the cluster is not what was asked for")
		}
		f.ears[p.name] = listen(t, p.name, p.ns)
		p.silence(t)
	}
	for _, h := range c.hosts() {
		f.ears[h.Name] = listen(t, h.Name, c.hostNS(h.Name))
	}
	f.ears["stranger"] = listen(t, "stranger", f.stranger.ns)
	for _, x := range []struct {
		m *meshHost
		n *overlayNet
	}{{f.w1, f.back}, {f.w1, f.other}, {f.w2, f.back}, {f.w3, f.other}} {
		name := x.m.Name + "/" + x.n.name
		f.ears[name] = listen(t, name, x.m.networkNS(x.n.id))
	}
	return f
}

// A shot is sent with its name as its mark, and arrives exactly where it says.
type shot struct {
	name string
	send func(mark []byte)
	at   []string // ears
	// may are ears to which an ICMP error that quotes it comes, as often as the
	// kernel makes one: those of its sender.
	may []string
}

// fire sends all shots and then, the same way, what is sound; when that has
// arrived the shots have as well, if they do.
func (f *siege) fire(shots []shot, sound func(mark []byte), arrives string) {
	t := f.t
	t.Helper()
	for _, s := range shots {
		s.send(mark(s.name))
	}
	f.sounds++
	name := t.Name() + " sound"
	f.ears[arrives].waits(name, 1, func() { sound(mark(name)) })
	for _, e := range f.ears {
		e.hear()
	}
	for _, s := range shots {
		for name, e := range f.ears {
			switch want := slices.Contains(s.at, name); {
			case want && e.seen[s.name] == 0:
				t.Errorf("%s: it did not even get to %s: this test shows nothing", s.name, name)
			case !want && e.seen[s.name] > 0 && !slices.Contains(s.may, name):
				t.Errorf("%s: it arrived %d times at %s", s.name, e.seen[s.name], name)
			}
		}
	}
	t.Logf("%d shots; what was sound arrived at %s", len(shots), arrives)
}

// silence has somebody take what datagram makes, so that nobody answers that
// there is nobody.
func (p *inhabitant) silence(t *testing.T) {
	t.Helper()
	var fd int
	within(t, p.ns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet6{Port: 7001})
		}
		return err
	})
	t.Cleanup(func() { unix.Close(fd) })
}

// datagram is a marked one of one inhabitant to another, as its own kernel would
// send it.
func datagram(from, to *inhabitant, mark []byte) []byte {
	return udp(from.a4, to.a4, 7001, 7001, mark)
}

// speaks is what sends from p to another in the proper way.
func (f *siege) speaks(p, to *inhabitant) func(mark []byte) {
	out := openWire(f.t, p.ns, "ov0")
	return func(mark []byte) { out.send(ipFrame(gatewayMAC, p.mac, datagram(p, to, mark))) }
}

// carried is a frame of one network in VXLAN, from one node's router MAC to
// another's.
func carried(n *overlayNet, from, to netip.Addr, p []byte) []byte {
	return vxlan(n.vni, ipFrame(routerMAC(to), routerMAC(from), p))
}

const vxlanPort = 4789

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// strangerForges: from the wire, to worker-1.
func (f *siege) strangerForges() {
	w1, w2, me := f.w1, f.w2, f.stranger
	out := me.out
	plain := func(dst net.HardwareAddr, p []byte) { out.send(ipFrame(dst, out.mac, p)) }
	forged := func(m []byte) []byte { return carried(f.back, w2.mesh, w1.mesh, datagram(f.db, f.web, m)) }
	outer := func(src, dst netip.Addr, port uint16, p []byte) []byte { return udp(src, dst, 5555, port, p) }
	shots := []shot{
		{name: "vxlan as himself", send: func(m []byte) { plain(w1.mac, outer(me.addr, w1.under, vxlanPort, forged(m))) }},
		{name: "vxlan as a node", send: func(m []byte) { plain(w1.mac, outer(w2.under, w1.under, vxlanPort, forged(m))) }},
		{name: "vxlan as a node, with its MAC", send: func(m []byte) {
			out.send(ipFrame(w1.mac, w2.mac, outer(w2.under, w1.under, vxlanPort, forged(m))))
		}},
		{name: "vxlan as a node in the mesh", send: func(m []byte) { plain(w1.mac, outer(w2.mesh, w1.under, vxlanPort, forged(m))) }},
		{name: "vxlan to the mesh address", send: func(m []byte) { plain(w1.mac, outer(me.addr, w1.mesh, vxlanPort, forged(m))) }},
		{name: "vxlan from mesh to mesh address", send: func(m []byte) { plain(w1.mac, outer(w2.mesh, w1.mesh, vxlanPort, forged(m))) }},
		{name: "vxlan as the node itself", send: func(m []byte) { plain(w1.mac, outer(w1.under, w1.under, vxlanPort, forged(m))) }},
		{name: "vxlan from 127.0.0.1", send: func(m []byte) {
			plain(w1.mac, outer(netip.MustParseAddr("127.0.0.1"), w1.under, vxlanPort, forged(m)))
		}},
		{name: "vxlan of a network that nobody has", send: func(m []byte) {
			n := *f.back
			n.vni = 1 << 23
			plain(w1.mac, outer(w2.mesh, w1.mesh, vxlanPort, carried(&n, w2.mesh, w1.mesh, datagram(f.db, f.web, m))))
		}},
		{name: "vxlan with a MAC of nobody", send: func(m []byte) {
			plain(w1.mac, outer(w2.mesh, w1.under, vxlanPort, vxlan(f.back.vni, ipFrame(everybody, everybody, datagram(f.db, f.web, m)))))
		}},
		{name: "vxlan in fragments", send: func(m []byte) {
			d := outer(w2.mesh, w1.under, vxlanPort, forged(m))[20:]
			for i, part := range [][]byte{d[:32], d[32:]} {
				plain(w1.mac, fragment(w2.mesh, w1.under, unix.IPPROTO_UDP, 77, 32*i|1-i, part))
			}
		}},
		{name: "the container's address on the wire", send: func(m []byte) { plain(w1.mac, datagram(f.db, f.web, m)) }},
		{name: "the same in IPv6", send: func(m []byte) { plain(w1.mac, udp(f.db.a6, f.web.a6, 7001, 7001, m)) }},
		{name: "an internal network's address on the wire", send: func(m []byte) { plain(w1.mac, udp(me.addr, f.in.a4, 7001, 7001, m)) }},
		{name: "the bridge's address on the wire", send: func(m []byte) { plain(w1.mac, udp(me.addr, f.web.bridge, 7001, 7001, m)) }},
		{name: "a virtual address on the wire", send: func(m []byte) { plain(w1.mac, tcp(me.addr, f.back.vip["web"], 7001, 80, 2, m)) }},
		{name: "from a container to a container's bridge address", send: func(m []byte) { plain(w1.mac, udp(f.pal.bridge, f.web.bridge, 7001, 7001, m)) }},
		{name: "the resolver on the wire", send: func(m []byte) { plain(w1.mac, udp(me.addr, netip.MustParseAddr("127.0.0.11"), 7001, 53, m)) }},
	}
	for _, other := range []struct {
		name  string
		proto byte
		head  []byte
	}{{"IP in IP", unix.IPPROTO_IPIP, nil}, {"GRE", unix.IPPROTO_GRE, []byte{0, 0, 8, 0}}, {"an SRv6 of sorts", unix.IPPROTO_IPV6, nil}} {
		shots = append(shots, shot{name: other.name, send: func(m []byte) {
			plain(w1.mac, packet(me.addr, w1.under, other.proto, append(other.head, datagram(f.db, f.web, m)...)))
		}})
	}
	for _, port := range []uint16{4790, 6081, 8472} {
		shots = append(shots, shot{name: "VXLAN at port " + netip.AddrPortFrom(w1.under, port).String(), send: func(m []byte) {
			plain(w1.mac, outer(w2.mesh, w1.under, port, forged(m)))
		}})
	}
	for i := range shots {
		shots[i].at = []string{"worker-1"}
	}
	all := []string{"manager-1", "worker-1", "worker-2", "worker-3"}
	shots = append(shots,
		shot{name: "vxlan to everybody", at: all, send: func(m []byte) { plain(everybody, outer(w2.mesh, broadcast4, vxlanPort, forged(m))) }},
		shot{name: "vxlan to everybody's link", at: all, send: func(m []byte) { plain(everybody, outer(w2.mesh, w1.under, vxlanPort, forged(m))) }},
		shot{name: "ARP for a container", at: all, send: func(m []byte) {
			out.send(ethernet(everybody, out.mac, unix.ETH_P_ARP, arp(1, out.mac, me.addr, make([]byte, 6), f.web.a4, m)))
		}},
		shot{name: "ARP that says a container is here", at: all, send: func(m []byte) {
			out.send(ethernet(everybody, out.mac, unix.ETH_P_ARP, arp(2, out.mac, f.db.a4, everybody, f.db.a4, m)))
		}},
	)
	f.fire(shots, f.speaks(f.db, f.web), "web")
}
