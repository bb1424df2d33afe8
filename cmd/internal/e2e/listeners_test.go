package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestListeners tries every port that something listens at on a manager, a locked
// manager and a worker, at every address of each, from the wire and out of a
// container: what answers is what the docs say, and nothing else. A node has
// listeners of its own beside ours, as a sshd on all addresses and a metrics
// exporter on 127.0.0.1.
func TestListeners(t *testing.T) {
	t.Parallel()
	c := up(t, "listeners", 1, 2)
	c.load()
	c.ok("manager-1", "network", "create", "back")
	c.populate("web back worker-1 --publish published=8100,target=80 --publish mode=host,published=8101,target=80", "db back worker-2")
	d := &doors{cluster: c, stranger: c.stranger(250), hosts: map[string]*door{}}
	onWire(t, d.stranger.ns, netip.MustParseAddr("fd77::1"))
	_, people := c.overlay("back", c.meshHost("worker-1"), c.meshHost("worker-2"))
	for i, h := range c.hosts() {
		d.open(h, netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: byte(10 + i)}))
	}
	check := func(state string, entry, peers bool) {
		t.Helper()
		// published: every node answers, by each address but those of the mesh.
		published := func(host string, a netip.Addr, port uint16) bool {
			x := d.hosts[host]
			return port == 8100 && (host != "manager-1" || entry) && (a == x.under || a == x.under6 || a == bridge) ||
				port == 8101 && host == "worker-1" && (a == x.under || a == bridge)
		}
		d.judge(state+", from the wire", d.stranger.ns, func(host, proto string, a netip.Addr, port uint16) bool {
			x := d.hosts[host]
			switch port {
			case sshd:
				return a == x.under || a == x.under6
			case 2377:
				return proto == "tcp" && host == "manager-1" && a == x.under
			case 7946:
				return proto == "tcp" && a == x.under && (host != "manager-1" || peers)
			}
			return proto == "tcp" && published(host, a, port)
		})
		// A container is a client of published ports as any; of nodes, its own or
		// others, it reaches nothing else.
		d.judge(state+", from a container", people["web"].ns, func(host, proto string, a netip.Addr, port uint16) bool {
			return proto == "tcp" && a.Is4() && published(host, a, port) && (a != bridge || host == "worker-1")
		})
	}
	check("all run", true, true)
	d.martians(people["web"])

	c.lab("stop", "manager-1")
	c.lab("start", "manager-1")
	d.hosts["manager-1"].listening = d.listening(c.host("manager-1"))
	check("the manager is locked", false, false)
	c.refused("manager-1", 4, "locked", nil, "node", "ls")

	// In the namespaces between, nobody listens but the resolver.
	for name, ns := range map[string]string{"network": people["web"].host.networkNS(people["web"].net.id), "ingress": people["web"].host.pinned + "/net-ingress"} {
		if is := sockets(t, ns); len(is) > 0 {
			t.Errorf("in the namespace of %s: %v", name, is)
		}
	}
}

// bridge is every node's address to its containers.
var bridge = netip.MustParseAddr("172.30.0.1")

// sshd is a port on all addresses of a node, metrics one on 127.0.0.1.
const sshd, metrics = 22022, 9100

type doors struct {
	*cluster
	stranger *stranger
	hosts    map[string]*door
}

type door struct {
	ns        string
	under     netip.Addr
	under6    netip.Addr
	all       []netip.Addr
	listening map[string]bool // "tcp 7946"
	exporter  int             // UDP, on 127.0.0.1
}

// open gives a host its own listeners, and notes what listens there.
func (d *doors) open(h host, six netip.Addr) {
	t := d.t
	t.Helper()
	x := &door{ns: d.hostNS(h.Name), under: netip.MustParseAddr(h.Address), under6: six}
	d.hosts[h.Name] = x
	onWire(t, x.ns, six)
	within(t, x.ns, func() error {
		for _, on := range []string{fmt.Sprintf(":%d", sshd), fmt.Sprintf("127.0.0.1:%d", metrics)} {
			l, err := net.Listen("tcp", on)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
		}
		udp, err := net.ListenPacket("udp", fmt.Sprintf(":%d", sshd))
		if err != nil {
			return err
		}
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			buf := make([]byte, 100)
			for {
				_, from, err := udp.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = udp.WriteTo(buf[:1], from)
			}
		}()
		t.Cleanup(func() { udp.Close(); <-answered })
		if x.exporter, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		fd := x.exporter
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: metrics, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		links, err := net.InterfaceAddrs()
		for _, a := range links {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				x.all = append(x.all, p.Addr())
			}
		}
		return err
	})
	x.listening = d.listening(h)
}

// listening are a host's ports, of whichever address.
func (d *doors) listening(h host) map[string]bool {
	d.t.Helper()
	is := sockets(d.t, d.hostNS(h.Name))
	want := []string{fmt.Sprintf("tcp %d", sshd), fmt.Sprintf("tcp %d", metrics), fmt.Sprintf("udp %d", sshd), fmt.Sprintf("udp %d", metrics)}
	if h.Role == "manager" {
		want = append(want, "tcp 2377")
	}
	for _, w := range want {
		if !is[w] {
			d.t.Errorf("%s does not listen at %s: %v", h.Name, w, is)
		}
	}
	return is
}

// judge tries all ports of all hosts at all their addresses: exactly those that
// should answer do.
func (d *doors) judge(state, from string, should func(host, proto string, a netip.Addr, port uint16) bool) {
	t := d.t
	t.Helper()
	ports := map[string]bool{}
	for _, x := range d.hosts {
		for p := range x.listening {
			ports[p] = true
		}
	}
	tried, answered := 0, 0
	for host, x := range d.hosts {
		addrs := x.all
		if from == d.stranger.ns {
			d.leads(x)
		}
		if from == d.stranger.ns || host != "worker-1" { // the bridge's leads to the container's own node
			addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a == bridge })
		}
		for k, is := range knock(t, from, addrs, ports) {
			tried++
			if is {
				answered++
			}
			if want := should(host, k.proto, k.to.Addr(), k.to.Port()); is != want {
				t.Errorf("%s: %s %s of %s answers: %v", state, k.proto, k.to, host, is)
			}
		}
	}
	t.Logf("%s: %d of %d answer", state, answered, tried)
}

// leads has the stranger send what is for any address of the host to it.
func (d *doors) leads(x *door) {
	d.t.Helper()
	within(d.t, d.stranger.ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, a := range x.all {
			via, bits := x.under, 32
			if a.Is6() {
				via, bits = x.under6, 128
			}
			if a == via || a.IsLoopback() {
				continue
			}
			r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Gw: via.AsSlice()}
			if err := netlink.RouteReplace(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// martians: packets to 127.0.0.1 from outside are nobody's, though netd has the
// kernel take such for published ports.
func (d *doors) martians(p *inhabitant) {
	t, x := d.t, d.hosts[p.host.Name]
	loop := netip.MustParseAddr("127.0.0.1")
	gateway := macOf(t, p.host.ns, "rdt0")
	box, over, me := openWire(t, p.ns, "eth0"), openWire(t, p.ns, "ov0"), d.stranger
	e := listen(t, p.host.Name, p.host.ns)
	send := map[string]func(m []byte){
		"the wire":               func(m []byte) { me.out.send(ipFrame(p.host.mac, me.out.mac, udp(me.addr, loop, 5000, metrics, m))) },
		"the wire, as 127.0.0.1": func(m []byte) { me.out.send(ipFrame(p.host.mac, me.out.mac, udp(loop, loop, 5000, metrics, m))) },
		"a container":            func(m []byte) { box.send(ipFrame(gateway, box.mac, udp(p.bridge, loop, 5000, metrics, m))) },
		"a container, as 127.0.0.1": func(m []byte) {
			box.send(ipFrame(gateway, box.mac, udp(loop, loop, 5000, metrics, m)))
		},
		"an overlay": func(m []byte) { over.send(ipFrame(gatewayMAC, p.mac, udp(p.a4, loop, 5000, metrics, m))) },
	}
	for name, f := range send {
		f(mark(name))
		if name != "an overlay" { // that ends in the network's namespace
			e.waits(name, 1, nil)
		}
	}
	buf := make([]byte, 200)
	if n, err := unix.Read(x.exporter, buf); err != unix.EAGAIN {
		t.Errorf("at 127.0.0.1 of %s there arrived %q (%v)", p.host.Name, buf[:max(n, 0)], err)
	}
	within(t, p.host.ns, func() error { // as a process of the node does
		fd, err := connectTo("udp", loop, metrics)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	eventually(t, 10*time.Second, func() string {
		if n, err := unix.Read(x.exporter, buf); err != nil || string(buf[:n]) != "anybody?" {
			return fmt.Sprintf("it does not even hear the node's own: %v", err)
		}
		return ""
	})
}
