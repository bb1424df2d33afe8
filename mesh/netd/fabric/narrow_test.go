package fabric

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// A narrow way is two routers between a node and the wire, with a link of 1400
// bytes between them that no node sees.
//
//	wire ── 0.200 near 1.1 ──1400── 1.2 far 2.1 ── 2.2 node
type narrow struct {
	lab    *lab
	prefix string // of an address, by network and host
	bits   int
	mute   bool // drops what is too large and says nothing, as many a firewall has it
}

var (
	narrow4     = narrow{prefix: "10.99.%d.%d", bits: 24}
	narrow4Mute = narrow{prefix: "10.99.%d.%d", bits: 24, mute: true}
	narrow6     = narrow{prefix: "fd99:0:0:%d::%d", bits: 64}
)

func (w narrow) addr(net, host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(w.prefix, net, host))
}

// device gives an interface of a namespace an address.
func (w narrow) device(ns *os.File, link string, a netip.Addr) {
	routes(w.lab.t, ns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(link)
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: kernel.IPNet(netip.PrefixFrom(a, w.bits))}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		return errors.Join(h.LinkSetUp(l), h.AddrAdd(l, addr))
	})
}

func (w narrow) route(ns *os.File, net int, via netip.Addr) {
	routes(w.lab.t, ns, func(h *netlink.Handle) error {
		return h.RouteReplace(&netlink.Route{Dst: kernel.IPNet(netip.PrefixFrom(w.addr(net, 0), w.bits)), Gw: via.AsSlice()})
	})
}

// between puts the way between the second node and the wire. Both nodes have other
// addresses then.
func (w narrow) between(a, b *node) {
	w.lab = a.lab
	t := w.lab.t
	t.Helper()
	near, far := newNetns(t), newNetns(t)
	port := fmt.Sprintf("p%d", b.i)
	plug := func(ns *os.File, mtu int, name, peer string, to *os.File) {
		routes(t, ns, func(h *netlink.Handle) error {
			return h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1, MTU: mtu}, PeerName: peer, PeerNamespace: netlink.NsFd(int(to.Fd())), PeerMTU: uint32(mtu)})
		})
	}
	routes(t, w.lab.wire.NS, func(h *netlink.Handle) error {
		p, err := h.LinkByName(port)
		if err != nil {
			return err
		}
		return h.LinkDel(p) // and u0 with it
	})
	plug(w.lab.wire.NS, 1500, port, "out", near)
	routes(t, w.lab.wire.NS, func(h *netlink.Handle) error {
		br, err := h.LinkByName("br0")
		if err != nil {
			return err
		}
		p, err := h.LinkByName(port)
		if err != nil {
			return err
		}
		return errors.Join(h.LinkSetMaster(p, br), h.LinkSetUp(p))
	})
	plug(near, 1400, "on", "back", far)
	plug(far, 1500, "in", "u0", b.ns)
	w.device(a.ns, "u0", w.addr(0, 1))
	w.device(near, "out", w.addr(0, 200))
	w.device(near, "on", w.addr(1, 1))
	w.device(far, "back", w.addr(1, 2))
	w.device(far, "in", w.addr(2, 1))
	w.device(b.ns, "u0", w.addr(2, 2))
	w.route(a.ns, 2, w.addr(0, 200))
	w.route(near, 2, w.addr(1, 2))
	w.route(far, 0, w.addr(1, 1))
	w.route(b.ns, 0, w.addr(2, 1))
	for _, ns := range []*os.File{near, far} {
		within(t, ns, func() error {
			_, err4 := kernel.SetSysctl("1", "ipv4", "ip_forward")
			_, err6 := kernel.SetSysctl("1", "ipv6/conf", "all", "forwarding")
			if !w.mute {
				return errors.Join(err4, err6)
			}
			out, err := exec.Command("nft", "add table ip mute; add chain ip mute out { type filter hook output priority 0; }; add rule ip mute out ip protocol icmp drop").CombinedOutput()
			if err != nil {
				err = fmt.Errorf("nft: %w: %s", err, out)
			}
			return errors.Join(err4, err6, err)
		})
	}
}

// meets returns when a datagram outside the tunnel has come to the other node.
func (n *node) meets(o *node, at netip.Addr) {
	t := n.lab.t
	t.Helper()
	var in net.PacketConn
	var out net.Conn
	within(t, o.ns, func() (err error) { in, err = net.ListenPacket("udp", ":9"); return err })
	defer in.Close()
	within(t, n.ns, func() (err error) { out, err = net.Dial("udp", netip.AddrPortFrom(at, 9).String()); return err })
	defer out.Close()
	for end := time.Now().Add(deadline); ; {
		out.Write([]byte("there?"))
		in.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, _, err := in.ReadFrom(make([]byte, 10)); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// The way between two nodes takes less than the links of both, and whoever drops
// what is too large says so, or does not: large datagrams and a transfer pass all
// the same. IPv6's routers divide nothing, so there they have to speak.
func TestNarrowWay(t *testing.T) {
	large := make([]byte, 1<<20)
	rand.Read(large)
	for name, w := range map[string]narrow{"IPv4": narrow4, "IPv4, and nobody says so": narrow4Mute, "IPv6": narrow6} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, 2)
			a, b := l.nodes[0], l.nodes[1]
			w.between(a, b)
			a.meets(b, w.addr(2, 2)) // IPv6 takes a second to settle, and a handshake is not tried again before five
			for _, n := range l.nodes {
				req := n.request(l.others(n)...)
				req.Peers[0].Endpoint = netip.AddrPortFrom(map[*node]netip.Addr{a: w.addr(2, 2), b: w.addr(0, 1)}[n], 51820).String()
				n.declare(req)
			}
			l.overlays(4097)
			for _, n := range l.nodes {
				n.echo()
				n.datagrams()
			}
			for _, n := range l.nodes {
				to := l.others(n)[0]
				for _, size := range []int{1300, 40000} {
					if err := n.datagram(to, size); err != nil {
						t.Errorf("node %d: %v", n.i, err)
					}
				}
				at := time.Now()
				c, err := n.dial(to)
				if err != nil {
					t.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(deadline))
				sent := make(chan error, 1)
				go func() { _, err := c.Write(large); sent <- err }()
				got := make([]byte, len(large))
				k, err := io.ReadFull(c, got)
				c.Close()
				if e := <-sent; err != nil || e != nil || !bytes.Equal(got, large) {
					t.Errorf("node %d: %d bytes came back: %v, %v", n.i, k, err, e)
				}
				t.Logf("from node %d and back: %v", n.i, time.Since(at).Round(time.Millisecond))
			}
		})
	}
}
