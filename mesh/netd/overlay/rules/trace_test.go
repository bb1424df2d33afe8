package rules

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

func segment(from, to netip.AddrPort, flags byte, text string) []byte {
	b := make([]byte, 20, 20+len(text))
	binary.BigEndian.PutUint16(b, from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	b[12], b[13], b[14] = 5<<4, flags, 0x20
	return ip(from.Addr(), to.Addr(), unix.IPPROTO_TCP, transportSum(from.Addr(), to.Addr(), unix.IPPROTO_TCP, 16, append(b, text...)))
}

// Two who were allowed to talk have nothing of a closed connection that they kept: it
// ends with the rule that allowed it, and where the address of one may become another
// task's, whatever netd remembers.
func TestAKeptTraceServesNobody(t *testing.T) {
	t.Parallel()
	l, a, b, c := policyLab(t)
	n := l.nodes[0]
	within(t, n.ns, func() error {
		_, err := kernel.SetSysctl("1", "netfilter/nf_conntrack_tcp_be_liberal") // as if they knew the numbers
		return err
	})
	rule := []Rule{{ID: "p/0", From: []string{"a"}, To: []string{"c"}, Proto: unix.IPPROTO_TCP, First: 80, Last: 80}}
	var from netip.AddrPort
	to := netip.AddrPortFrom(c.addr4, 80)
	const ack, push = 1 << 4, 1 << 3
	hear, back := a.ear(), c.ear()
	answers := func() bool {
		c.sends(frame(c.mac, portMAC, unix.ETH_P_IP, segment(to, from, ack|push, canary)))
		return hear.hears(1, silence, endsIn(canary)) > 0
	}
	asks := func() bool {
		a.sends(frame(a.mac, portMAC, unix.ETH_P_IP, segment(from, to, ack|push, canary)))
		return back.hears(1, silence, endsIn(canary)) > 0
	}
	closed := func() {
		t.Helper()
		l.net.Rules, c.gone = rule, false
		l.set()
		f := a.reaches("tcp", c.addr4, 80)
		from = netip.MustParseAddrPort(f.LocalAddr().String())
		f.Close()
		for end := time.Now().Add(deadline); ; {
			closed := false
			within(t, n.ns, func() error {
				return n.table.nf.End(func(x kernel.Connection) bool { closed = closed || x.Server == c.addr4 && x.Closed; return false })
			})
			if closed {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the connection was not closed")
			}
		}
		if !answers() || !asks() {
			t.Fatal("nothing passes in the trace of a connection that was allowed")
		}
	}
	none := func(what string) {
		t.Helper()
		if k := l.flows(n, c.addr4); k != 0 || answers() || asks() {
			t.Errorf("%s: %d traces are there, or something passes", what, k)
		}
	}
	closed()
	l.net.Rules = nil
	l.set()
	none("the rule went")

	closed()
	c.gone = true
	l.set()
	if l.flows(n, c.addr4) == 0 || answers() || asks() {
		t.Error("an end went: no trace stays, or something passes in it")
	}
	for x, d := range n.table.departed {
		d.until = time.Now().Add(-time.Second)
		n.table.departed[x] = d
	}
	b.gone = true
	l.set()
	none("an end went long ago")
	if len(n.table.departed) != 2 { // b's
		t.Errorf("departures are not forgotten: %v", n.table.departed)
	}

	closed()
	c.gone = true
	l.set()
	n.table = newTable(t, n.ns)
	l.set()
	none("another process began")
}

// A backend resets a connection and goes. Its client takes the same port again at once,
// and is led to one that is there: the kernel goes on in a flow that a server reset.
func TestTheSamePortAfterAReset(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a := l.nodes[0].box("a")
	v4, v6 := l.service("b")
	gone := l.nodes[1].box("b")
	l.set()
	for i, vip := range []netip.Addr{v4, v6} {
		to, from := netip.AddrPortFrom(vip, 80), uint16(40000+i)
		var ln net.Listener
		within(t, gone.ns, func() (err error) { ln, err = net.Listen("tcp", ":80"); return err })
		c, err := a.dialFrom(from, to, deadline)
		if err != nil {
			t.Fatal(err)
		}
		served, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		served.(*net.TCPConn).SetLinger(0)
		served.Close()
		ln.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("reading: %v, want a reset", err)
		}
		c.Close()
		gone.gone = true
		next := l.nodes[1].box("b")
		next.serve(80)
		l.set()
		if _, err := a.dialFrom(from, to, 3*time.Second); err != nil {
			t.Errorf("from the port of a connection that was reset: %v", err)
		}
		gone = l.nodes[1].box("b")
		next.gone = true
		l.set()
	}
}
