package fabric

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// cable gives a node's link, both ends of it, an MTU.
func (n *node) cable(mtu int) {
	t := n.lab.t
	t.Helper()
	set := func(name string) func(h *netlink.Handle) error {
		return func(h *netlink.Handle) error {
			l, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			return h.LinkSetMTU(l, mtu)
		}
	}
	routes(t, n.lab.wire.NS, set(fmt.Sprintf("p%d", n.i)))
	routes(t, n.ns, set("u0"))
}

// datagrams answers every datagram to port 7001 of the node's overlay with itself.
func (n *node) datagrams() {
	t := n.lab.t
	t.Helper()
	var c net.PacketConn
	within(t, n.overlay, func() (err error) { c, err = net.ListenPacket("udp4", n.inside()+":7001"); return err })
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:k], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
}

// datagram sends one of that size, again every half second, until it comes back.
func (n *node) datagram(to *node, size int) error {
	return kernel.InNetns(n.overlay, func() error {
		c, err := net.Dial("udp4", to.inside()+":7001")
		if err != nil {
			return err
		}
		defer c.Close()
		sent, got := make([]byte, size), make([]byte, 1<<16)
		rand.Read(sent)
		for end := time.Now().Add(deadline); ; {
			if _, err := c.Write(sent); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			k, err := c.Read(got)
			switch {
			case err == nil && !bytes.Equal(got[:k], sent):
				return fmt.Errorf("%d bytes came back as %d others", size, k)
			case err == nil:
				return nil
			case time.Now().After(end):
				return fmt.Errorf("%d bytes do not come back: %w", size, err)
			}
		}
	})
}

// A node with jumbo frames and one without are connected by something that drops
// what is too large and says nothing. Each has what its own link takes, and large
// TCP, datagrams and fragments pass between them all the same; a route that is
// taken away comes back, and goes with the reason for it.
func TestEachPairHasItsMTU(t *testing.T) {
	l := newLab(t, 3)
	wide, narrow, third := l.nodes[0], l.nodes[1], l.nodes[2]
	wide.cable(9000)
	third.cable(9000)
	l.connect()
	for _, n := range []*node{wide, third} {
		n.waitFor("jumbo", func() bool { return n.state().GetMtu() == 8920 })
	}
	declare := func() {
		for _, n := range l.nodes {
			req := n.request(l.others(n)...)
			for i, o := range l.others(n) {
				req.Peers[i].Mtu = o.state().GetMtu()
			}
			n.declare(req)
		}
	}
	declare()
	l.overlays(4097)
	for _, n := range l.nodes {
		n.echo()
		n.datagrams()
	}
	large := make([]byte, 300000)
	rand.Read(large)
	all := func() {
		t.Helper()
		for _, n := range l.nodes {
			for _, o := range l.others(n) {
				for _, size := range []int{1, 1342, 1343, 3000, 8842, 8843, 40000} {
					if err := n.datagram(o, size); err != nil {
						t.Errorf("%d to %d: %v", n.i, o.i, err)
					}
				}
				c, err := n.dial(o)
				if err != nil {
					t.Fatalf("%d to %d: %v", n.i, o.i, err)
				}
				c.SetDeadline(time.Now().Add(deadline))
				sent := make(chan error, 1)
				go func() { _, err := c.Write(large); sent <- err }()
				got := make([]byte, len(large))
				_, err = io.ReadFull(c, got)
				if err == nil && !bytes.Equal(got, large) {
					err = fmt.Errorf("other bytes came back")
				}
				c.Close()
				if e := <-sent; err != nil || e != nil {
					t.Errorf("TCP %d to %d: %v, %v", n.i, o.i, err, e)
				}
			}
		}
	}
	all()
	to := func(o *node) (mtu int, there bool) {
		routes(t, wide.ns, func(h *netlink.Handle) error {
			all, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: kernel.IPNet(netip.PrefixFrom(o.mesh(), 32))}, netlink.RT_FILTER_DST)
			for _, r := range all {
				mtu, there = r.MTU, true
			}
			return err
		})
		return mtu, there
	}
	if mtu, ok := to(narrow); !ok || mtu != 1420 {
		t.Errorf("the route to the narrow one: %d, %v", mtu, ok)
	}
	if _, ok := to(third); ok {
		t.Error("a route to the one that takes as much")
	}
	// Taken away by hand.
	routes(t, wide.ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(wide.f.link)
		if err != nil {
			return err
		}
		return h.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: kernel.IPNet(netip.PrefixFrom(narrow.mesh(), 32))})
	})
	wide.waitFor("put back", func() bool { mtu, _ := to(narrow); return mtu == 1420 })
	// The narrow one gets a better link.
	narrow.cable(9000)
	narrow.waitFor("jumbo", func() bool { return narrow.state().GetMtu() == 8920 })
	declare()
	wide.waitFor("without the route", func() bool { _, ok := to(narrow); return !ok })
	if err := wide.datagram(narrow, 8842); err != nil {
		t.Error(err)
	}
}

// readdress gives the node another address on its link and nothing else.
func (n *node) readdress(to netip.Prefix) {
	t := n.lab.t
	t.Helper()
	routes(t, n.ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err == nil {
			_, err = kernel.OnlyAddress(h, u, to)
		}
		return err
	})
}

// A node gets another address while connections are open. It has nothing to say;
// what others have for it comes, as it tells them at once where it is.
func TestANodeMoves(t *testing.T) {
	l := newLab(t, 3)
	l.connect()
	l.overlays(4097)
	moves := l.nodes[0]
	moves.echo()
	var open []net.Conn
	for _, o := range l.others(moves) {
		c, err := o.dial(moves)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := say(c, "before"); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	moves.readdress(netip.MustParsePrefix("192.0.2.101/24"))
	at := time.Now()
	moves.waitFor("there", func() bool {
		u := moves.state().GetUnderlay()
		return len(u) == 1 && u[0] == "192.0.2.101"
	})
	for i, c := range open {
		if err := say(c, "after"); err != nil {
			t.Errorf("a connection did not survive: %v", err)
		}
		t.Logf("connection %d: answered %v after the move", i, time.Since(at).Round(time.Millisecond))
	}
	for _, o := range l.others(moves) {
		for _, p := range o.state().GetPeers() {
			if p.GetNodeId() == moves.id && p.GetEndpoint() != "192.0.2.101:51820" {
				t.Errorf("node %d sends to %s", o.i, p.GetEndpoint())
			}
		}
	}
	if n := moves.state().GetRepairs(); n != 0 {
		t.Errorf("%d repairs", n)
	}
}

// behindNAT puts something between a node and the wire that translates its
// addresses and forgets a flow after a second. To others the node is at
// 192.0.2.200, where nobody reaches it who was not called.
func (n *node) behindNAT() {
	l := n.lab
	l.t.Helper()
	nat := newNetns(l.t)
	routes(l.t, l.wire.NS, func(h *netlink.Handle) error {
		p, err := h.LinkByName(fmt.Sprintf("p%d", n.i))
		if err != nil {
			return err
		}
		return h.LinkDel(p)
	})
	routes(l.t, l.wire.NS, func(h *netlink.Handle) error {
		br, err := h.LinkByName("br0")
		if err != nil {
			return err
		}
		name := fmt.Sprintf("p%d", n.i)
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1, MasterIndex: br.Attrs().Index}, PeerName: "out", PeerNamespace: netlink.NsFd(int(nat.Fd()))}); err != nil {
			return err
		}
		return up(h, name)
	})
	routes(l.t, nat, func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "in", TxQLen: -1}, PeerName: "u0", PeerNamespace: netlink.NsFd(int(n.ns.Fd()))}); err != nil {
			return err
		}
		for name, a := range map[string]string{"out": "192.0.2.200/24", "in": "10.99.0.1/24"} {
			i, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if _, err := kernel.OnlyAddress(h, i, netip.MustParsePrefix(a)); err != nil {
				return err
			}
			if err := h.LinkSetUp(i); err != nil {
				return err
			}
		}
		for _, s := range [][]string{{"ipv4", "ip_forward", "1"}, {"netfilter", "nf_conntrack_udp_timeout", "1"}, {"netfilter", "nf_conntrack_udp_timeout_stream", "1"}} {
			if _, err := kernel.SetSysctl(s[2], s[0], s[1]); err != nil {
				return err
			}
		}
		// Ports become others, as behind a translator of many.
		out, err := exec.Command("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; "+
			"add rule ip nat post oifname out ip protocol udp masquerade to :40000-40999; "+
			"add table ip closed; add chain ip closed way { type filter hook forward priority 0; }; add rule ip closed way iifname out ct state new drop").CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
	routes(l.t, n.ns, func(h *netlink.Handle) error {
		u, err := h.LinkByName("u0")
		if err != nil {
			return err
		}
		if _, err := kernel.OnlyAddress(h, u, netip.MustParsePrefix("10.99.0.2/24")); err != nil {
			return err
		}
		if err := h.LinkSetUp(u); err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{LinkIndex: u.Attrs().Index, Gw: net.IPv4(10, 99, 0, 1)})
	})
}

// A node behind a NAT calls, and its keepalive keeps the way back to it open;
// without one it is shut as soon as the NAT forgets.
func TestKeepaliveHoldsANATOpen(t *testing.T) {
	l := newLab(t, 2)
	hidden, open := l.nodes[0], l.nodes[1]
	hidden.behindNAT()
	declare := func(keepalive uint32) {
		req := open.request(hidden)
		req.Peers[0].Endpoint = "192.0.2.200:51820" // where it seems to be, and nobody answers
		open.declare(req)
		req = hidden.request(open) // which knows it by now
		req.Peers[0].KeepaliveSeconds = keepalive
		hidden.declare(req)
	}
	declare(0)
	l.overlays(4097)
	hidden.datagrams()
	open.datagrams()
	if err := hidden.datagram(open, 100); err != nil {
		t.Fatal(err)
	}
	quiet := func() bool { // after the NAT has forgotten
		<-time.After(2200 * time.Millisecond)
		reached := false
		if err := kernel.InNetns(open.overlay, func() error {
			c, err := net.Dial("udp4", hidden.inside()+":7001")
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte("there?")); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			_, err = c.Read(make([]byte, 16))
			reached = err == nil
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return reached
	}
	if quiet() {
		t.Fatal("the NAT lets everything in: this shows nothing")
	}
	declare(1)
	open.waitFor("called", func() bool { return open.datagram(hidden, 100) == nil })
	if !quiet() {
		t.Error("nobody reaches the node behind a NAT after a silence")
	}
	if p := open.state().GetPeers()[0]; p.GetEndpoint()[:len("192.0.2.200:4")] != "192.0.2.200:4" {
		t.Errorf("it is called at %s", p.GetEndpoint())
	}
}
