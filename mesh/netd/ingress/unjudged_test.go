package ingress

import (
	"errors"
	"net"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// netd is dead, and somebody flushes the ruleset of an entry node: no address of a
// task leads to it, and nothing of one comes out. The next netd puts all of it back.
func TestNothingPassesWithoutRules(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	p := newPublished(a.task(1), b.task(2))
	l.publish([]*node{a}, p)
	at := net.JoinHostPort(a.under(), "8080")
	if first, second := l.mustAsk("tcp", at), l.mustAsk("tcp", at); first == second {
		t.Fatalf("%s answered twice", first)
	}
	// A neighbour on the wire takes the node for the way to tasks.
	netlab.Links(t, l.client, func(h *netlink.Handle) error {
		var errs []error
		for to, via := range map[string]string{"10.255.0.0/16": a.under(), "fd00:9::/64": a.under6()} {
			_, dst, _ := net.ParseCIDR(to)
			errs = append(errs, h.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}))
		}
		return errors.Join(errs...)
	})
	var ears []*ear
	for _, x := range p.tasks {
		ears = append(ears, x.ear())
	}
	// heard says which of them hear of what the neighbour sends to each.
	heard := func() (n int) {
		for i, x := range p.tasks {
			for _, addr := range []string{x.addr, x.six} {
				netlab.Within(t, l.client, func() error {
					c, err := net.Dial("udp", net.JoinHostPort(addr, "53"))
					if err == nil {
						_, err = c.Write([]byte(canary))
						c.Close()
					}
					return err
				})
				if ears[i].hears(silence / 2) {
					n++
				}
			}
		}
		return n
	}
	a.stop()
	netlab.Within(t, a.ns, func() error {
		return kernel.WithNFT(func(c *nftables.Conn) error { c.FlushRuleset(); return c.Flush() })
	})
	if n := heard(); n > 0 {
		t.Errorf("%d of 4 datagrams arrived", n)
	}
	if who, err := ask(l.client, "tcp", at, silence); err == nil {
		t.Errorf("the published port answers without rules: %s", who)
	}
	// The control: with nothing in their place, the way is open.
	netlab.Within(t, a.ns, allowUnjudged)
	if n := heard(); n != 4 {
		t.Errorf("%d of 4 datagrams arrived where nothing stops them", n)
	}
	a.start()
	if bad := a.declare(a.request([]*node{a}, p)); len(bad) > 0 {
		t.Fatal(bad)
	}
	if n := heard(); n > 0 {
		t.Errorf("%d of 4 datagrams arrived with the rules", n)
	}
	if first, second := l.mustAsk("tcp", at), l.mustAsk("tcp", at); first == second {
		t.Errorf("%s answered twice", first)
	}
}
