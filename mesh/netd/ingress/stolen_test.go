package ingress

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/netd/fabric"
)

const canary = "CANARY-5be0c1aa"

// datagram is an Ethernet frame with UDP in it.
func datagram(from, to [6]byte, src, dst string, port uint16) []byte {
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

// inject sends a frame out of an interface of the node's ingress namespace.
func (n *node) inject(link string, frame []byte) {
	t := n.lab.t
	t.Helper()
	within(t, n.inside, func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: htons(unix.ETH_P_IP), Halen: 6})
	})
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// An ear hears the canary on any interface of a sandbox.
type ear struct{ fd int }

func (x *task) ear() *ear {
	t := x.node.lab.t
	t.Helper()
	e := &ear{}
	within(t, x.ns, func() (err error) {
		e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		return err
	})
	t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// hears counts until the time is over, or something is heard.
func (e *ear) hears(patience time.Duration) bool {
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(patience); ; {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		k, _, err := unix.Recvfrom(e.fd, buf, 0)
		if err == nil && k >= len(canary) && string(buf[k-len(canary):k]) == canary {
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
	l.mustAsk("udp", net.JoinHostPort(entry.under(), "5353")) // sessions are there
	l.mustAsk("udp", net.JoinHostPort(entry.under(), "5353"))
	// The attacker has no rules, and lets itself be answered by whom it likes.
	stolen.halt()
	within(t, stolen.inside, func() error { return removeTables(insideTables...) })
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
	within(t, entry.inside, func() error { return removeTables(insideTables...) })
	from := routerMAC(entry.addr())
	entry.inject(link, datagram(from, to, clientAddr, "10.255.0.1", 54))
	if e.hears(silence / 3) {
		t.Error("a datagram to a port that is not published arrived")
	}
	entry.inject(link, datagram(from, to, clientAddr, "10.255.0.1", 53))
	if !e.hears(deadline) {
		t.Error("the control did not arrive")
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
	for _, src := range []string{x.addr, "10.255.0.3", clientAddr} {
		for _, dst := range []string{"10.255.0.2", "10.255.0.3", a.under(), b.under(), clientAddr} {
			within(t, x.ns, func() error {
				i, err := net.InterfaceByName(sandboxLink)
				if err != nil {
					return err
				}
				fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				frame := datagram([6]byte(i.HardwareAddr), [6]byte(gatewayMAC), src, dst, 53)
				return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: htons(unix.ETH_P_IP), Halen: 6})
			})
		}
	}
	for n, e := range ears {
		if e.hears(silence / 3) {
			t.Errorf("task %d heard of it", n+2)
		}
	}
	d := a.in.State().GetDropped()
	if d[droppedSpoofed] < 10 || d[droppedRefused] < 5 {
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
