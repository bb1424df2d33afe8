package ingress

import (
	"net"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

// Whatever is taken away or changed comes back, is counted, and clients are
// answered.
func TestChangesByHandArePutBack(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	p := newPublished(a.task(1), b.task(2))
	l.publish(l.nodes, p)
	at := net.JoinHostPort(a.under(), "8080")
	nft := func(harm func(c *nftables.Conn)) func() error {
		return func() error {
			return kernel.WithNFT(func(c *nftables.Conn) error { harm(c); return c.Flush() })
		}
	}
	link := func(name string, harm func(h *netlink.Handle, l netlink.Link) error) func() error {
		return func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			l, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			return harm(h, l)
		}
	}
	deleteLink := func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) }
	up := uplinkName(p.vni)
	for _, c := range []struct {
		name   string
		node   *node
		inside bool
		harm   func() error
	}{
		{"the node's table", a, false, nft(func(c *nftables.Conn) { c.DelTable(outsideTables[0]) })},
		{"a port's chain", a, false, nft(func(c *nftables.Conn) {
			c.FlushChain(&nftables.Chain{Table: outsideTables[0], Name: "tcp_8080"})
		})},
		{"an element", a, false, nft(func(c *nftables.Conn) {
			c.SetDeleteElements(&nftables.Set{Table: outsideTables[0], Name: setPublished, IsMap: true, KeyType: typeService, DataType: nftables.TypeVerdict, Concatenation: true},
				[]nftables.SetElement{{Key: serviceKey(unix.IPPROTO_TCP, 8080), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: "tcp_8080"}}})
		})},
		{"a verdict", a, false, nft(func(c *nftables.Conn) {
			s := &nftables.Set{Table: outsideTables[0], Name: setPublished, IsMap: true, KeyType: typeService, DataType: nftables.TypeVerdict, Concatenation: true}
			key := serviceKey(unix.IPPROTO_TCP, 8080)
			c.SetDeleteElements(s, []nftables.SetElement{{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: "tcp_8080"}}})
			c.SetAddElements(s, []nftables.SetElement{{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: "udp_5353"}}})
		})},
		{"the way in", a, false, link(NodeLink, deleteLink)},
		{"the tables inside", b, true, nft(func(c *nftables.Conn) { c.DelTable(insideTables[0]); c.DelTable(insideTables[1]) })},
		{"the hook at the exit", b, true, nft(func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: insideTables[1], Name: up}) })},
		{"an open door", b, true, nft(func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: insideTables[0], Chain: &nftables.Chain{Table: insideTables[0], Name: "forward"}, Exprs: accept})
		})},
		{"the VXLAN device", b, true, link(up, deleteLink)},
		{"the VXLAN device down", b, true, link(up, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) })},
		{"a task's interface", b, true, link(portName(p.tasks[1].id), deleteLink)},
		{"the route to a task", b, true, link(portName(p.tasks[1].id), func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: kernel.IPNet(single(b.in.plan.services[p.id].endpoints[p.tasks[1].id].addrs[0])), Scope: netlink.SCOPE_LINK})
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, ns := c.node.in.State().GetRepairs(), c.node.ns
			if c.inside {
				ns = c.node.inside
			}
			netlab.Within(t, ns, c.harm)
			c.node.waitFor("put back", func() bool { s := c.node.in.State(); return s.GetRepairs() > before && s.GetError() == "" })
			if first, second := l.mustAsk("tcp", at), l.mustAsk("tcp", at); first == second {
				t.Errorf("%s answered twice", first)
			}
		})
	}
	for _, n := range l.nodes {
		if s := n.in.State(); len(s.GetResults()) > 0 {
			t.Errorf("node %d: %v", n.i, s)
		}
	}
}

// A connection lives through the end of netd on the node of its task, and through
// what is declared to the next one. What nobody wants any more leaves nothing.
func TestRestartAndRemoval(t *testing.T) {
	l := newLab(t, 3)
	a, b := l.nodes[0], l.nodes[1]
	p := newPublished(b.task(2))
	l.publish(l.nodes, p)
	var flows []net.Conn
	for _, n := range l.nodes {
		var c net.Conn
		netlab.Within(t, l.client, func() (err error) { c, err = net.Dial("tcp", net.JoinHostPort(n.under(), "8080")); return err })
		defer c.Close()
		flows = append(flows, c)
	}
	alive := func() {
		t.Helper()
		for n, c := range flows {
			if who, err := askOn(c, deadline); err != nil || who != "10.255.0.2 sees "+clientAddr {
				t.Errorf("by node %d: %q, %v", n+1, who, err)
			}
		}
	}
	alive()
	numbers := b.in.marks.nodes.of
	b.stop()
	alive()
	b.start()
	// Another service comes first, which must not take the numbers that stand.
	other := newPublished(b.task(3))
	other.vni, other.ports = 4999, nil
	b.declare(b.request(l.nodes, other, p))
	for node, n := range b.in.marks.nodes.of {
		if numbers[node] != n {
			t.Errorf("entry %s has number %d, had %d", node, n, numbers[node])
		}
	}
	alive()
	l.mustAsk("tcp", net.JoinHostPort(a.under(), "8080"))

	for _, n := range l.nodes {
		n.declare(n.request(l.nodes))
		n.halt()
		left := func(ns string, h *netlink.Handle) error {
			links, err := h.LinkList()
			for _, x := range links {
				if name := x.Attrs().Name; ours(name) && ns != "node" || Owns(name) {
					t.Errorf("node %d: %s is still there", n.i, name)
				}
			}
			return err
		}
		netlab.Links(t, n.ns, func(h *netlink.Handle) error { return left("node", h) })
		netlab.Links(t, n.inside, func(h *netlink.Handle) error { return left("inside", h) })
		for _, ns := range []struct {
			in     func(fn func() error)
			tables []*nftables.Table
		}{{func(fn func() error) { netlab.Within(t, n.ns, fn) }, outsideTables}, {func(fn func() error) { netlab.Within(t, n.inside, fn) }, insideTables}} {
			ns.in(func() error {
				return kernel.WithNFT(func(c *nftables.Conn) error {
					there, err := kernel.Exists(c, ns.tables[0])
					if there {
						t.Errorf("node %d: a table is still there", n.i)
					}
					return err
				})
			})
		}
	}
	netlab.Links(t, p.tasks[0].ns, func(h *netlink.Handle) error {
		rules, err := h.RuleList(unix.AF_INET)
		for _, r := range rules {
			if r.Table == sandboxTable {
				t.Errorf("%v is still there", r)
			}
		}
		return err
	})
	// What a stopped netd left, cleanup takes.
	a.declare(a.request(l.nodes, newPublished(a.task(5))))
	a.stop()
	if err := Cleanup(a.dir, a.ns); err != nil {
		t.Fatal(err)
	}
	netlab.Links(t, a.ns, func(h *netlink.Handle) error {
		x, err := kernel.FindLink(h, NodeLink)
		if x != nil {
			t.Error("the way in is still there")
		}
		return err
	})
}
