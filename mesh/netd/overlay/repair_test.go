package overlay

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// waitFor looks until it is so.
func (n *node) waitFor(what string, so func() bool) {
	n.lab.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); !so(); <-tick.C {
		if time.Now().After(end) {
			n.lab.t.Fatalf("node %d: not %s: %v", n.i, what, n.state())
		}
	}
}

func (n *node) state() *netdpb.OverlayStateResponse {
	n.lab.t.Helper()
	s, err := n.o.State(true)
	if err != nil {
		n.lab.t.Fatal(err)
	}
	return s
}

// quiet waits until what the node did itself is not looked at any more.
func (n *node) quiet() {
	n.waitFor("quiet", func() bool {
		n.o.mu.Lock()
		defer n.o.mu.Unlock()
		for _, r := range n.o.realms {
			if r.news.Load() != 0 {
				return false
			}
		}
		return len(n.o.kick) == 0
	})
}

func with(name string, fn func(h *netlink.Handle, l netlink.Link) error) func(h *netlink.Handle) error {
	return func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return fn(h, l)
	}
}

// Whatever is taken away, changed or added in a network's namespace is put back,
// is counted, and traffic goes on.
func TestChangesByHandArePutBack(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2)
	a, b := l.nodes[0], l.nodes[1]
	w := l.network(1)
	from, to := w.box(a, 2), w.box(b, 3)
	w.services = []*netdpb.OverlayService{{ServiceId: to.service, Vips: []string{w.four(200), w.six(200)}}}
	to.serve()
	l.declare(w)
	from.reaches(to)
	ns, port := w.ns[a], portName(from.task)
	four, six := net.ParseIP(w.four(3)).To4(), net.ParseIP(w.six(3))
	mac := routerMAC(b.mesh())
	neighbour := func(ip net.IP, mac []byte) *netlink.Neigh {
		return &netlink.Neigh{Family: int(familyOf(netip.MustParseAddr(ip.String()))), State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac}
	}
	elsewhere := net.HardwareAddr{2, 0x52, 9, 9, 9, 9}
	for name, harm := range map[string]func(h *netlink.Handle) error{
		"uplink deleted": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) }),
		"uplink down":    with(uplinkName, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) }),
		"uplink down and up": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.LinkSetDown(l), h.LinkSetUp(l))
		}),
		"uplink hears ARP": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetARPOn(l) }),
		"uplink's MAC":     with(uplinkName, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetHardwareAddr(l, elsewhere) }),
		"uplink's MTU":     with(uplinkName, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1300) }),
		"port deleted":     with(port, func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) }),
		"port down":        with(port, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) }),
		"port's MAC":       with(port, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetHardwareAddr(l, elsewhere) }),
		"another port": func(h *netlink.Handle) error {
			return h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: portPrefix + "x", TxQLen: -1}, PeerName: portPrefix + "y"})
		},
		"route deleted": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: hostNet(netip.MustParseAddr(w.four(3))), Scope: netlink.SCOPE_LINK})
		}),
		"IPv6 route deleted": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: hostNet(netip.MustParseAddr(w.six(3)))})
		}),
		"route added": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: netOf(netip.MustParsePrefix("10.9.0.0/16"))})
		}),
		"route by a gateway": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: hostNet(netip.MustParseAddr(w.four(3))), Gw: net.IPv4(10, 200, 1, 99).To4(), Flags: int(netlink.FLAG_ONLINK)})
		}),
		"route elsewhere": with(port, func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: hostNet(netip.MustParseAddr(w.four(3))), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol})
		}),
		"neighbour deleted": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			n := neighbour(four, nil)
			n.LinkIndex = l.Attrs().Index
			return h.NeighDel(n)
		}),
		"IPv6 neighbour": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			n := neighbour(six, elsewhere)
			n.LinkIndex = l.Attrs().Index
			return h.NeighSet(n)
		}),
		"neighbour added": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			n := neighbour(net.IPv4(10, 200, 1, 77).To4(), elsewhere)
			n.LinkIndex = l.Attrs().Index
			return h.NeighSet(n)
		}),
		"node behind a MAC": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: net.IPv4(198, 18, 0, 9).To4(), HardwareAddr: mac[:]})
		}),
		"node forgotten": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: b.mesh().AsSlice(), HardwareAddr: mac[:]})
		}),
		"another behind it": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.NeighAppend(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: net.IPv4(198, 18, 0, 9).To4(), HardwareAddr: elsewhere})
		}),
		"flooding": with(uplinkName, func(h *netlink.Handle, l netlink.Link) error {
			return h.NeighAppend(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: net.IPv4(198, 18, 0, 9).To4(), HardwareAddr: make([]byte, 6)})
		}),
		"gateway taken": with("lo", func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrDel(l, &netlink.Addr{IPNet: hostNet(netip.MustParseAddr(w.four(1)))})
		}),
		"address added": with("lo", func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrAdd(l, &netlink.Addr{IPNet: hostNet(netip.MustParseAddr("10.9.9.9"))})
		}),
		"virtual address": func(h *netlink.Handle) error {
			return h.RouteDel(&netlink.Route{LinkIndex: loopback, Dst: hostNet(netip.MustParseAddr(w.four(200))), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST})
		},
		"lo down": with("lo", func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) }),
		"forwarding off": func(*netlink.Handle) error {
			_, err := kernel.SetSysctl("0", "ipv4/ip_forward")
			return err
		},
		"IPv6 forwarding off": func(*netlink.Handle) error {
			_, err := kernel.SetSysctl("0", "ipv6/conf/all/forwarding")
			return err
		},
		"rp_filter of the uplink": func(*netlink.Handle) error {
			_, err := kernel.SetSysctl("1", "ipv4/conf", uplinkName, "rp_filter")
			return err
		},
		"table deleted": func(*netlink.Handle) error {
			return kernel.WithNFT(func(c *nftables.Conn) error {
				c.DelTable(&nftables.Table{Name: "redoubt_overlay", Family: nftables.TableFamilyINet})
				return c.Flush()
			})
		},
		"rules flushed": func(*netlink.Handle) error {
			return kernel.WithNFT(func(c *nftables.Conn) error { c.FlushRuleset(); return c.Flush() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			a.quiet()
			before := a.state().GetRepairs()
			began := time.Now()
			links(t, ns, harm)
			a.waitFor("put back", func() bool { return a.state().GetRepairs() > before && a.state().GetNetworks()[0].GetError() == "" })
			t.Logf("put back after %v", time.Since(began).Round(time.Millisecond))
			for _, addr := range []string{w.four(3), w.six(3), w.four(200), w.six(200), w.four(1)} {
				if err := from.ping(addr, deadline); err != nil {
					t.Error(err)
				}
			}
			if _, err := from.ask("tcp", w.four(200), deadline); err != nil {
				t.Error(err)
			}
		})
	}
	a.quiet()
	if left := a.state().GetRepairs(); left == 0 {
		t.Error("nothing was counted")
	}
}

// What rund makes anew under the same name is taken for what it is: empty. What
// is gone makes its network degraded, and it is tried again.
func TestNamespaceMadeAnew(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	w := l.network(1)
	from, to := w.box(n, 2), w.box(n, 3)
	to.serve()
	n.declare(n.request(w))
	from.reaches(to)
	n.unpin(w.netns())
	req := n.request(w)
	if got := n.results(req); len(got) == 0 || got[0].GetNetworkId() != w.id || got[0].GetTaskId() != "" || got[0].GetError() == "" {
		t.Errorf("a network without a namespace: %v", got)
	}
	from.cannotReach(w.four(3))
	w.ns[n] = n.pin(w.netns())
	n.waitFor("whole again", func() bool { return n.state().GetNetworks()[0].GetError() == "" })
	from.reaches(to)
}

// What is wrong with one sandbox concerns its task.
func TestSandboxes(t *testing.T) {
	t.Parallel()
	l := newLab(t, 1)
	n := l.nodes[0]
	w := l.network(1)
	from, to, lost, late := w.box(n, 2), w.box(n, 3), w.box(n, 4), w.box(n, 5)
	n.unpin(lost.netns)
	n.unpin(late.netns)
	if err := os.Symlink(n.netns(to.netns), n.netns(lost.netns)); err != nil {
		t.Fatal(err)
	}
	to.serve()
	bad := map[string]bool{}
	for _, r := range n.results(n.request(w)) {
		if r.GetError() != "" {
			bad[r.GetTaskId()] = true
		}
	}
	if len(bad) != 2 || !bad[lost.task] || !bad[late.task] {
		t.Errorf("failing are %v", bad)
	}
	if s := n.state().GetNetworks()[0]; s.GetError() != "" || len(s.GetEndpoints()) != 2 {
		t.Errorf("state %v", s)
	}
	from.reaches(to)
	late.ns = n.pin(late.netns)
	n.waitFor("there", func() bool { return len(n.state().GetNetworks()[0].GetEndpoints()) == 1 })
	late.reaches(to)
}
