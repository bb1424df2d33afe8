package ingress

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

const canary = "CANARY-5be0c1aa"

// datagram is an Ethernet frame with UDP in it.
func datagram(from, to [6]byte, src, dst string, port uint16) []byte {
	if netip.MustParseAddr(src).Is6() {
		return datagram6(from, to, src, dst, port)
	}
	p := append(append(append([]byte{}, to[:]...), from[:]...), 8, 0)
	ip := make([]byte, 28)
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte(len(ip)+len(canary)), 64, unix.IPPROTO_UDP
	copy(ip[12:], netip.MustParseAddr(src).AsSlice())
	copy(ip[16:], netip.MustParseAddr(dst).AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], 7001)
	binary.BigEndian.PutUint16(ip[22:], port)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(canary)))
	return append(append(p, ip...), canary...)
}

func datagram6(from, to [6]byte, src, dst string, port uint16) []byte {
	p := append(append(append([]byte{}, to[:]...), from[:]...), 0x86, 0xdd)
	udp := append([]byte{7001 >> 8, 7001 & 0xff, byte(port >> 8), byte(port), 0, byte(8 + len(canary)), 0, 0}, canary...)
	ip := make([]byte, 40)
	ip[0], ip[5], ip[6], ip[7] = 0x60, byte(len(udp)), unix.IPPROTO_UDP, 64
	copy(ip[8:], netip.MustParseAddr(src).AsSlice())
	copy(ip[24:], netip.MustParseAddr(dst).AsSlice())
	sum := uint32(unix.IPPROTO_UDP) + uint32(len(udp))
	for _, b := range [][]byte{ip[8:], append(udp[:len(udp):len(udp)], 0)} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	for sum>>16 > 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], ^uint16(sum))
	return append(append(p, ip...), udp...)
}

func etherType(frame []byte) uint16 { return binary.BigEndian.Uint16(frame[12:]) }

// inject sends a frame out of an interface of the node's ingress namespace.
func (n *node) inject(link string, frame []byte) {
	t := n.lab.t
	t.Helper()
	netlab.Within(t, n.inside, func() error { return send(link, frame) })
}

// send puts a frame on an interface of the calling thread's namespace.
func send(link string, frame []byte) error {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: htons(etherType(frame)), Halen: 6})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// An ear hears the canary on any interface of a sandbox.
type ear struct{ fd int }

func (x *task) ear() *ear {
	t := x.node.lab.t
	t.Helper()
	e := &ear{}
	netlab.Within(t, x.ns, func() (err error) {
		e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// hears listens until the time is over, or something is heard.
func (e *ear) hears(patience time.Duration) bool { return e.hearsThat(canary, patience) }

func (e *ear) hearsThat(ending string, patience time.Duration) bool {
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(patience); ; {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		k, _, err := unix.Recvfrom(e.fd, buf, 0)
		if err == nil && strings.HasSuffix(string(buf[:k]), ending) {
			return true
		}
	}
}

// A node that has tasks of a service, and is taken over by an attacker, sends what
// it likes into the service's network.
func TestStolenNodeIsNotBelieved(t *testing.T) {
	l := newLab(t, 3)
	target, stolen, entry := l.nodes[0], l.nodes[1], l.nodes[2]
	p := newPublished(target.task(1), stolen.task(2))
	l.publish([]*node{target, entry}, p)
	for range 2 { // sessions are there; a datagram that is lost before is not sent again
		l.mustAsk("tcp", net.JoinHostPort(entry.under(), "8080"))
	}
	// The attacker has no rules, and lets itself be answered by whom it likes.
	stolen.halt()
	netlab.Within(t, stolen.inside, func() error { return removeTables(insideTables...) })
	e, link := p.tasks[0].ear(), uplinkName(p.vni)
	to, own := routerMAC(target.addr()), routerMAC(stolen.addr())
	for name, frame := range map[string][]byte{
		"from a client":           datagram(own, to, clientAddr, "10.255.0.1", 53),
		"from its own task":       datagram(own, to, "10.255.0.2", "10.255.0.1", 53),
		"from its own end":        datagram(own, to, nodeEnd(netip.MustParsePrefix("10.255.0.0/16"), stolen.addr()).String(), "10.255.0.1", 53),
		"from another task":       datagram(own, to, "10.255.0.7", "10.255.0.1", 53),
		"as the entry":            datagram(routerMAC(entry.addr()), to, clientAddr, "10.255.0.1", 53),
		"as the target itself":    datagram(to, to, clientAddr, "10.255.0.1", 53),
		"to the node's processes": datagram(own, to, "10.255.0.2", target.under(), 53),
		"6 from a client":         datagram(own, to, clientAddr6, "fd00:9::1", 53),
		"6 from its own task":     datagram(own, to, "fd00:9::2", "fd00:9::1", 53),
		"6 from its own end":      datagram(own, to, nodeEnd(netip.MustParsePrefix("fd00:9::/64"), stolen.addr()).String(), "fd00:9::1", 53),
		"6 as the entry":          datagram(routerMAC(entry.addr()), to, clientAddr6, "fd00:9::1", 53),
	} {
		stolen.inject(link, frame)
		if e.hears(silence / 3) {
			t.Errorf("a datagram %s arrived", name)
		}
	}
	if d := target.in.State().GetDropped(); d[droppedSpoofed] == 0 || d[droppedRefused] == 0 {
		t.Errorf("dropped: %v", d)
	}
	// The control: an entry node speaks for clients, to the published target alone.
	entry.halt()
	netlab.Within(t, entry.inside, func() error { return removeTables(insideTables...) })
	from := routerMAC(entry.addr())
	entry.inject(link, datagram(from, to, clientAddr, "10.255.0.1", 54))
	if e.hears(silence / 3) {
		t.Error("a datagram to a port that is not published arrived")
	}
	entry.inject(link, datagram(from, to, clientAddr, "10.255.0.1", 53))
	if !e.hears(deadline) {
		t.Error("the control did not arrive")
	}
	entry.inject(link, datagram(from, to, clientAddr6, "fd00:9::1", 53))
	if !e.hears(deadline) {
		t.Error("the control of IPv6 did not arrive")
	}
}

// A flow is the entry node's that opened it: another one, taken over by an attacker,
// says nothing in it, and is not told what the client of another is.
func TestFlowsAreOfOneEntry(t *testing.T) {
	l := newLab(t, 3)
	target, stolen, entry := l.nodes[0], l.nodes[1], l.nodes[2]
	p := newPublished(target.task(1))
	l.publish(l.nodes, p)
	l.mustAsk("udp", net.JoinHostPort(entry.under(), "5353")) // sessions are there
	l.mustAsk("udp", net.JoinHostPort(stolen.under(), "5353"))
	for _, n := range l.nodes[1:] {
		n.halt()
		netlab.Within(t, n.inside, func() error { return removeTables(insideTables...) })
	}
	e, link, to := p.tasks[0].ear(), uplinkName(p.vni), routerMAC(target.addr())
	for _, x := range []struct {
		name, client, task string
		first, second      *node
	}{
		{"in a flow of another", clientAddr, "10.255.0.1", entry, stolen},
		{"in a flow of another, IPv6", clientAddr6, "fd00:9::1", entry, stolen},
		{"where a flow was opened for its client", "192.0.2.101", "10.255.0.1", stolen, entry},
		{"in a flow of the node itself", "192.0.2.102", "10.255.0.1", target, stolen},
	} {
		switch x.first {
		case target:
			frame := datagram([6]byte(gatewayMAC), [6]byte(entranceMAC), x.client, x.task, 53)
			netlab.Within(t, target.ns, func() error { return send(NodeLink, frame) })
		default:
			x.first.inject(link, datagram(routerMAC(x.first.addr()), to, x.client, x.task, 53))
		}
		if !e.hears(deadline) {
			t.Fatalf("%s: what opens the flow did not arrive", x.name)
		}
		x.second.inject(link, datagram(routerMAC(x.second.addr()), to, x.client, x.task, 53))
		if e.hears(silence / 3) {
			t.Errorf("a datagram %s arrived", x.name)
		}
	}
}

// A task sends what it likes out of its interface, and opens nothing.
func TestTasksOpenNothing(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	p := newPublished(a.task(1), b.task(2), a.task(3))
	l.publish([]*node{a, b}, p)
	var ears []*ear
	for _, x := range p.tasks[1:] {
		ears = append(ears, x.ear())
	}
	x := p.tasks[0]
	four, six := []string{"10.255.0.2", "10.255.0.3", a.under(), b.under(), clientAddr}, []string{"fd00:9::2", "fd00:9::3", a.under6(), b.under6(), clientAddr6}
	for src, all := range map[string][]string{x.addr: four, "10.255.0.3": four, clientAddr: four, x.six: six, "fd00:9::3": six, clientAddr6: six} {
		for _, dst := range all {
			netlab.Within(t, x.ns, func() error {
				i, err := net.InterfaceByName(sandboxLink)
				if err != nil {
					return err
				}
				return send(sandboxLink, datagram([6]byte(i.HardwareAddr), [6]byte(gatewayMAC), src, dst, 53))
			})
		}
	}
	for n, e := range ears {
		if e.hears(silence / 3) {
			t.Errorf("task %d heard of it", n+2)
		}
	}
	d := a.in.State().GetDropped()
	if d[droppedSpoofed] < 20 || d[droppedRefused] < 10 {
		t.Errorf("dropped: %v", d)
	}
	if d := b.in.State().GetDropped(); d[droppedRefused]+d[droppedSpoofed] > 0 {
		t.Errorf("it came to the other node: %v", d)
	}
}

// The mesh lets in only who shares the service's network.
func TestAdmissions(t *testing.T) {
	l := newLab(t, 1)
	a := l.nodes[0]
	here, there := &task{id: ident.New(), node: a, addr: "10.255.0.1"}, &node{lab: l, i: 7}
	away := &task{id: ident.New(), node: there, addr: "10.255.0.2"}
	entry := &node{lab: l, i: 9}
	of := func(entries []*node, tasks ...*task) map[fabric.Admission]bool {
		p, err := emptyPlan().merge(a.request(entries, newPublished(tasks...)))
		if err != nil {
			t.Fatal(err)
		}
		all := map[fabric.Admission]bool{}
		for _, x := range p.admissions() {
			all[x] = true
		}
		return all
	}
	x := func(n *node) fabric.Admission {
		return fabric.Admission{Node: n.addr(), VNI: 5001, MAC: routerMAC(n.addr())}
	}
	if got := of([]*node{a, entry}, here, away); len(got) != 2 || !got[x(there)] || !got[x(entry)] {
		t.Errorf("entry with a task: %v", got)
	}
	if got := of([]*node{entry}, here, away); len(got) != 1 || !got[x(entry)] {
		t.Errorf("no entry, with a task: %v", got)
	}
	if got := of([]*node{a, entry}, away); len(got) != 1 || !got[x(there)] {
		t.Errorf("entry without a task: %v", got)
	}
	if got := of([]*node{entry}, away); len(got) != 0 {
		t.Errorf("neither: %v", got)
	}
}
