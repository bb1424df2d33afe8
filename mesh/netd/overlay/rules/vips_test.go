package rules

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A task that calls its own service may get itself, and then sees the gateway.
func TestHairpin(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	a := l.nodes[0].box("a")
	v4, v6 := l.service("a")
	for _, deny := range []bool{false, true} {
		l.net.DefaultDeny = deny
		l.set()
		a.serve(map[bool]int{false: 80, true: 81}[deny])
		for vip, gateway := range map[netip.Addr]netip.Addr{v4: gateway4, v6: gateway6} {
			for _, network := range []string{"tcp", "udp"} {
				f := a.reaches(network, vip, map[bool]int{false: 80, true: 81}[deny])
				if f.server != a.task || f.client != gateway.String() {
					t.Errorf("%s %s: %s answered and saw %s, want the gateway", network, vip, f.server, f.client)
				}
				if network == "tcp" {
					if err := f.works(deadline); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
}

// Nobody serves, or not that protocol: the answer comes at once and is counted.
func TestNobodyServes(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	a, b := l.nodes[0].box("a"), l.nodes[0].box("b")
	v4, v6 := l.service("b")
	b.serving = false
	b.serve(80)
	l.set()
	for _, vip := range []netip.Addr{v4, v6} {
		a.refused("tcp", vip, 80)
		a.refused("udp", vip, 80)
		if !a.echoes(vip, deadline) {
			t.Errorf("%s does not answer echo", vip)
		}
	}
	_, dropped := l.nodes[0].counters()
	if dropped[refusedVIP] < 4 {
		t.Errorf("not counted: %v", dropped)
	}
	// Other protocols are not balanced.
	sctp := []byte{0x1b, 0x59, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, // INIT
		1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1}
	binary.LittleEndian.PutUint32(sctp[8:], crc32.Checksum(sctp, crc32.MakeTable(crc32.Castagnoli)))
	ear := a.ear()
	a.sends(frame(a.mac, portMAC, unix.ETH_P_IP, ip(a.addr4, v4, unix.IPPROTO_SCTP, sctp)))
	if n := ear.hears(1, deadline, func(f []byte) bool { return len(f) > 35 && f[23] == unix.IPPROTO_ICMP && f[34] == 3 }); n != 1 {
		t.Error("SCTP is not refused")
	}
	b.serving = true
	l.set()
	a.reaches("tcp", v4, 80)
	a.reaches("udp", v6, 80)
}

// Backends of every number of them are chosen about equally often.
func TestBalance(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a := l.nodes[0].box("a")
	v4, _ := l.service("b")
	var backends []*box
	for i := range 5 {
		b := l.nodes[i%2].box("b")
		b.serve(80)
		backends = append(backends, b)
		l.set()
		const each = 60
		got := map[string]int{}
		for range each * len(backends) {
			f := a.reaches("udp", v4, 80)
			got[f.server]++
			f.Close()
		}
		for _, b := range backends {
			// Five standard deviations: one run in a million is outside.
			if n := got[b.task]; n < each-36 || n > each+36 {
				t.Errorf("%d backends: %v, want about %d of each", len(backends), got, each)
			}
		}
	}
}

// A flow stays where it is while backends come and go around it.
func TestFlowsStay(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a := l.nodes[0].box("a")
	v4, v6 := l.service("b")
	first := l.nodes[1].box("b")
	first.serve(80)
	l.set()
	var flows []*flow
	for _, vip := range []netip.Addr{v4, v6} {
		flows = append(flows, a.reaches("tcp", vip, 80), a.reaches("udp", vip, 80))
	}
	still := func(when string) {
		t.Helper()
		for i, f := range flows {
			var err error
			if i%2 == 0 {
				err = f.works(deadline)
			} else if err = f.ask(deadline); f.server != first.task {
				t.Errorf("%s: %s answered", when, f.server)
			}
			if err != nil {
				t.Errorf("%s: flow %d: %v", when, i, err)
			}
		}
	}
	var more []*box
	for i := range 3 {
		b := l.nodes[i%2].box("b")
		b.serve(80)
		more = append(more, b)
		l.set()
		still("a backend came")
	}
	for _, b := range more {
		b.serving = false
		l.set()
		still("a backend stopped")
		b.gone = true
		l.set()
		still("a backend went")
	}
	for _, n := range l.nodes {
		n.table.gen = 0
		n.set()
	}
	still("the table was replaced")
	for _, n := range l.nodes {
		n.table = New(n.table.nf)
		n.set()
	}
	still("another process began")
}

// A backend that stops serving keeps its connections of TCP until it is gone;
// flows of UDP go elsewhere at once, and so does everything once it is gone.
func TestABackendLeaves(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a := l.nodes[0].box("a")
	v4, v6 := l.service("b")
	leaving := l.nodes[1].box("b")
	leaving.serve(80)
	l.set()
	vips := []netip.Addr{v4, v6}
	var tcp, udp []*flow
	for _, vip := range vips {
		tcp, udp = append(tcp, a.reaches("tcp", vip, 80)), append(udp, a.reaches("udp", vip, 80))
	}
	direct := a.reaches("udp", leaving.addr4, 80)
	other := l.nodes[0].box("b")
	other.serve(80)
	leaving.serving = false
	l.set()
	for i := range vips {
		if err := udp[i].ask(deadline); err != nil || udp[i].server != other.task {
			t.Errorf("UDP: %s answered (%v), want the one that serves", udp[i].server, err)
		}
		if err := tcp[i].works(deadline); err != nil {
			t.Errorf("TCP ended while the backend is there: %v", err)
		}
		for range 10 {
			if f := a.reaches("tcp", vips[i], 80); f.server != other.task {
				t.Errorf("a new flow to %s, which has stopped", f.server)
			}
		}
	}
	if err := direct.ask(deadline); err != nil {
		t.Errorf("to the backend itself: %v", err)
	}
	leaving.gone = true
	l.set()
	for i := range vips {
		if err := tcp[i].works(deadline); err == nil || isTimeout(err) {
			t.Errorf("TCP to a backend that is gone: %v, want a reset", err)
		}
	}
	if err := direct.ask(silence); err == nil {
		t.Error("a backend that is gone answers")
	}
}

// An address that another task has now does not inherit flows.
func TestAnAddressMovesToAnotherTask(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	a, b := l.nodes[0].box("a"), l.nodes[0].box("b")
	b.serve(80)
	l.set()
	f := a.reaches("tcp", b.addr4, 80)
	b.task = "another"
	before := l.flows(l.nodes[0], b.addr4)
	l.set()
	if after := l.flows(l.nodes[0], b.addr4); before == 0 || after != 0 {
		t.Errorf("%d flows before, %d after", before, after)
	}
	f.Close()
}

// Of a connection that was closed before its backend went, the trace stays, as it
// hinders nobody; and it ends when the address becomes another task's.
func TestTheTraceOfAClosedConnection(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	a, b := n.box("a"), n.box("b")
	b.serve(80)
	l.set()
	a.reaches("tcp", b.addr4, 80).Close()
	for until := time.Now().Add(deadline); ; {
		closed := false
		within(t, n.ns, func() error {
			return n.table.nf.End(func(c kernel.Connection) bool { closed = closed || c.Server == b.addr4 && c.Closed; return false })
		})
		if closed {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the connection was not closed")
		}
	}
	b.gone = true
	l.set()
	if l.flows(n, b.addr4) == 0 {
		t.Error("the trace ended with its backend")
	}
	b.gone, b.task = false, "another"
	l.set()
	if l.flows(n, b.addr4) != 0 {
		t.Error("the trace is another task's now")
	}
}
