package ingress

import (
	"net/netip"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// traces says on which sides there is a trace of a closed connection to the address.
func (n *node) traces(to string) (node, inside bool) {
	n.lab.t.Helper()
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	for nf, found := range map[*kernel.Netfilter]*bool{n.in.nf: &node, n.in.inside: &inside} {
		if err := nf.End(func(c kernel.Connection) bool {
			*found = *found || c.Closed && c.Server == netip.MustParseAddr(to)
			return false
		}); err != nil {
			n.lab.t.Fatal(err)
		}
	}
	return node, inside
}

// The trace of a closed connection stays when its task goes, as it hinders nobody. It
// ends where another task has the address, or the task is there and its port is not
// published any more, and when its task went long ago: an entry node that was stolen
// could keep it, and begin a connection in it that nobody judges.
func TestTheTraceOfAClosedConnection(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	service := func(i uint32, x *task) *published {
		p := newPublished(x)
		p.vni, p.ports = 5000+i, []*netdpb.IngressPort{{Published: 8080 + i, Target: 80}}
		return p
	}
	const addr = "10.255.0.1"
	other := service(9, n.task(9))
	closed := func(p *published, port string) {
		t.Helper()
		l.publish(l.nodes, p, other)
		l.mustAsk("tcp", n.under()+":"+port)
		n.waitFor("closed", func() bool { a, b := n.traces(addr); return a && b })
	}
	want := func(what string, stays bool) {
		t.Helper()
		if a, b := n.traces(addr); a != stays || b != stays {
			t.Errorf("%s: a trace on the node's side %v, inside %v, want %v", what, a, b, stays)
		}
	}
	one, two := service(1, n.task(1)), service(2, n.task(1))
	closed(one, "8081")
	l.publish(l.nodes, other)
	want("its task went", true)
	l.publish(l.nodes, other, two)
	want("another task came", false)

	closed(two, "8082")
	l.publish(l.nodes, one, other)
	want("one task in another's place", false)

	closed(one, "8081")
	one.ports[0] = &netdpb.IngressPort{Published: 8081, Target: 81}
	l.publish(l.nodes, one, other)
	want("another port of the task", false)

	one.ports[0].Target = 80
	closed(one, "8081")
	third := service(7, n.task(7))
	l.publish(l.nodes, other, third)
	want("its task went", true)
	n.in.mu.Lock()
	for a, d := range n.in.departed {
		d.at = d.at.Add(-2 * traceFor)
		n.in.departed[a] = d
	}
	n.in.mu.Unlock()
	l.publish(l.nodes, other) // connections are looked through as another goes
	want("its task went long ago", false)
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	if _, ok := n.in.departed[netip.MustParseAddr(addr)]; ok {
		t.Errorf("departures are not forgotten: %v", n.in.departed)
	}
}
