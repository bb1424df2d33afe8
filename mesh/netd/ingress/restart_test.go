package ingress

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Tasks go, and ports are taken back, while netd is away. The first declaration of the
// next one ends what led there, and nothing else: in it, as in one that has no services
// any more, the one before is not known.
func TestWhatWentWhileNetdWasAway(t *testing.T) {
	l := newLab(t, 1)
	n := l.nodes[0]
	service := func(i uint32, x *task) *published {
		p := newPublished(x)
		p.vni, p.ports = 5000+i, []*netdpb.IngressPort{{Published: 8080 + i, Target: 80}}
		return p
	}
	stays, gone, moved := service(1, n.task(1)), service(2, n.task(2)), service(3, n.task(3))
	l.publish(l.nodes, stays, gone, moved)
	dial := func(port string) net.Conn {
		t.Helper()
		var c net.Conn
		netlab.Within(t, l.client, func() (err error) { c, err = net.Dial("tcp", n.under()+":"+port); return err })
		t.Cleanup(func() { c.Close() })
		if _, err := askOn(c, deadline); err != nil {
			t.Fatal(err)
		}
		return c
	}
	goesOn := dial("8081")
	dial("8082")
	dial("8083")
	want := func(when string, p *published, stays bool, sides ...*os.File) {
		t.Helper()
		addr := netip.MustParseAddr(p.tasks[0].addr)
		for side, ns := range sides {
			there := false
			netlab.Within(t, ns, func() error {
				nf, err := kernel.OpenNetfilter()
				if err != nil {
					return err
				}
				defer nf.Close()
				return nf.End(func(c kernel.Connection) bool { there = there || c.Server == addr; return false })
			})
			if there != stays {
				t.Errorf("%s: a connection to %s on side %d: %v, want %v", when, addr, side, there, stays)
			}
		}
	}
	n.stop()
	n.start()
	want("nothing was declared yet", gone, true, n.ns, n.inside)
	moved.ports[0] = &netdpb.IngressPort{Published: 8083, Target: 81}
	n.declare(n.request(l.nodes, stays, moved))
	want("a task went", gone, false, n.ns, n.inside)
	want("a port went", moved, false, n.ns, n.inside)
	want("nothing of it changed", stays, true, n.ns, n.inside)
	if _, err := askOn(goesOn, deadline); err != nil {
		t.Errorf("a connection that has its place ended: %v", err)
	}
	n.stop()
	n.start()
	n.declare(n.request(nil))
	want("all services went", stays, false, n.ns) // inside no link is left
}
