package rules

import (
	"maps"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func policyLab(t *testing.T) (l *lab, a, b, c *box) {
	l = newLab(t, 2)
	l.net.DefaultDeny = true
	a, b, c = l.nodes[0].box("a"), l.nodes[1].box("b"), l.nodes[0].box("c")
	for _, x := range []*box{a, b, c} {
		l.service(x.service)
		x.serve(80)
		x.serve(81)
	}
	return l, a, b, c
}

func (l *lab) vips(service string) []netip.Addr {
	for _, s := range l.net.Services {
		if s.ID == service {
			return s.VIPs
		}
	}
	return nil
}

// Denied by default means: nothing but between tasks of one service, and what a
// rule says, to addresses and virtual ones, in both families.
func TestDefaultDeny(t *testing.T) {
	t.Parallel()
	l, a, b, c := policyLab(t)
	sister := l.nodes[1].box("a")
	sister.serve(80)
	l.net.Rules = []Rule{
		{ID: "p/0", From: []string{"a", "none"}, To: []string{"b"}, Proto: unix.IPPROTO_TCP, First: 80, Last: 80},
		{ID: "p/1", From: []string{"c"}, To: []string{"b"}, Proto: unix.IPPROTO_UDP, First: 70, Last: 90},
		{ID: "q/0", From: []string{"c"}, To: []string{"a"}, Proto: unix.IPPROTO_ICMP},
	}
	l.set()
	to := func(x *box) []netip.Addr { return append([]netip.Addr{x.addr4, x.addr6}, l.vips(x.service)...) }
	var silences sync.WaitGroup
	silent := func(from *box, network string, to netip.Addr, port int) {
		silences.Go(func() { from.silent(network, to, port) })
	}
	for _, addr := range to(b) {
		a.reaches("tcp", addr, 80)
		silent(a, "tcp", addr, 81)
		silent(a, "udp", addr, 80)
		c.reaches("udp", addr, 80)
		c.reaches("udp", addr, 81)
		silent(c, "tcp", addr, 80)
	}
	for _, addr := range to(a) {
		silent(b, "tcp", addr, 80) // the other way round
		silent(c, "udp", addr, 80)
	}
	for _, addr := range []netip.Addr{a.addr4, a.addr6} {
		if !c.echoes(addr, deadline) {
			t.Errorf("ICMP to %s is allowed and does not pass", addr)
		}
		silences.Go(func() {
			if b.echoes(addr, silence) {
				t.Errorf("ICMP from b to %s passes", addr)
			}
		})
		sister.reaches("tcp", addr, 80) // the same service
	}
	silences.Wait()
	for _, n := range l.nodes {
		if _, dropped := n.counters(); dropped[droppedPolicy] == 0 {
			t.Errorf("node %d counted nothing: %v", n.i, dropped)
		}
	}
	// Flows, not packets: 4 of TCP, 8 of UDP, 2 of ICMP at node 1.
	f := a.reaches("tcp", b.addr4, 80)
	for range 5 {
		if err := f.works(deadline); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]uint64{"p/0": 5, "p/1": 8, "q/0": 2}
	if got, _ := l.nodes[0].counters(); !maps.Equal(got, want) {
		t.Errorf("allowed at the sender: %v, want %v", got, want)
	}
	delete(want, "q/0")
	if got, _ := l.nodes[1].counters(); got["p/0"] != 5 || got["p/1"] != 8 || got["q/0"] != 0 {
		t.Errorf("allowed at the receiver: %v, want %v", got, want)
	}
}

// Each node enforces alone: the receiver when the sender was taken over.
func TestTheReceiverEnforcesToo(t *testing.T) {
	t.Parallel()
	l, a, b, _ := policyLab(t)
	l.set()
	open := l.nodes[0].network()
	open.DefaultDeny = false
	within(t, l.nodes[0].ns, func() error { _, err := l.nodes[0].table.Set(t.Context(), open); return err })
	a.silent("tcp", b.addr4, 80)
	a.silent("tcp", l.vips("b")[1], 80)
	if _, dropped := l.nodes[1].counters(); dropped[droppedPolicy] < 2 {
		t.Errorf("%v", dropped)
	}
}

// Flows end with the rule that let them in, in both directions, and others do
// not.
func TestPolicyEndsFlows(t *testing.T) {
	t.Parallel()
	l, a, b, _ := policyLab(t)
	both := []Rule{
		{ID: "p/0", From: []string{"a"}, To: []string{"b"}, First: 80, Last: 80, Proto: unix.IPPROTO_TCP},
		{ID: "p/1", From: []string{"a"}, To: []string{"b"}, First: 81, Last: 81, Proto: unix.IPPROTO_TCP},
		{ID: "p/2", From: []string{"a"}, To: []string{"b"}, Proto: unix.IPPROTO_UDP},
	}
	l.net.Rules = both
	l.set()
	vip := l.vips("b")
	ends := []*flow{a.reaches("tcp", b.addr4, 80), a.reaches("tcp", vip[1], 80)}
	goes := []*flow{a.reaches("tcp", b.addr6, 81), a.reaches("tcp", vip[0], 81)}
	datagrams := a.reaches("udp", vip[0], 80)
	l.net.Rules = both[1:2]
	l.set()
	for i, f := range ends {
		if err := f.works(silence); err == nil {
			t.Errorf("flow %d goes on without its rule", i)
		}
	}
	if err := datagrams.ask(silence); err == nil {
		t.Error("datagrams pass without their rule")
	}
	for i, f := range goes {
		if err := f.works(deadline); err != nil {
			t.Errorf("flow %d ended with its rule in force: %v", i, err)
		}
	}
	// What the server has to say in a flow that ended does not get out either.
	e := a.ear()
	from := netip.MustParseAddrPort(datagrams.LocalAddr().String()).Port()
	for range 5 {
		b.sends(frame(b.mac, portMAC, unix.ETH_P_IP, udp(b.addr4, a.addr4, 80, from, canary)))
	}
	if n := e.hears(1, silence, endsIn(canary)); n != 0 {
		t.Error("answers pass in a flow that ended")
	}
	l.net.DefaultDeny = false
	l.set()
	if err := datagrams.ask(deadline); err != nil {
		t.Errorf("nothing is denied: %v", err)
	}
	l.net.DefaultDeny, l.net.Rules = true, nil
	l.set()
	for i, f := range goes {
		if err := f.works(silence); err == nil {
			t.Errorf("flow %d goes on where all is denied", i)
		}
	}
	if err := datagrams.ask(silence); err == nil {
		t.Error("datagrams pass where all is denied")
	}
}

// Rules follow tasks: another one of the service has what the first one had.
func TestRulesFollowTasks(t *testing.T) {
	t.Parallel()
	l, a, b, _ := policyLab(t)
	l.net.Rules = []Rule{{ID: "p/0", From: []string{"a"}, To: []string{"b"}}}
	l.set()
	a.reaches("tcp", b.addr4, 80)
	moved := l.nodes[0].box("b")
	moved.serve(80)
	a.silent("tcp", moved.addr4, 80) // not declared yet
	b.gone = true
	l.set()
	a.reaches("tcp", moved.addr6, 80)
	if f := a.reaches("tcp", l.vips("b")[0], 80); f.server != moved.task {
		t.Errorf("%s answered", f.server)
	}
	// No service is nobody's: such an endpoint talks to none, not even its like.
	x, y := l.nodes[0].box(""), l.nodes[1].box("")
	y.serve(80)
	l.set()
	x.silent("tcp", y.addr4, 80)
	x.silent("tcp", moved.addr4, 80)
	a.silent("tcp", y.addr4, 80)
}

// Counters survive what is put in the table's place.
func TestCountersSurvive(t *testing.T) {
	t.Parallel()
	l, a, b, _ := policyLab(t)
	l.net.Rules = []Rule{{ID: "p/0", From: []string{"a"}, To: []string{"b"}}, {ID: "p/1", From: []string{"c"}, To: []string{"b"}}}
	l.set()
	n := l.nodes[0]
	a.reaches("tcp", b.addr4, 80)
	a.silent("tcp", l.boxes[2].addr4, 80)
	allowed, dropped := n.counters()
	if allowed["p/0"] != 1 || dropped[droppedPolicy] == 0 {
		t.Fatalf("%v %v", allowed, dropped)
	}
	n.deleteTable() // what was counted in it is lost
	n.ensure(true)
	n.table.gen = 0
	n.set()
	l.net.Uplink = "other"
	n.set()
	l.net.Uplink = "vx0"
	n.set()
	a.reaches("tcp", b.addr4, 80)
	if again, _ := n.counters(); again["p/0"] != 1 && again["p/0"] != 2 {
		t.Errorf("%v", again)
	}
	before, _ := n.counters()
	l.net.Rules = l.net.Rules[:1]
	n.table.gen = 0
	n.set()
	if again, now := n.counters(); again["p/0"] != before["p/0"] || len(again) != 1 || now[droppedARP] != dropped[droppedARP] {
		t.Errorf("%v, before %v", again, before)
	}
}
