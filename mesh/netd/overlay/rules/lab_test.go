package rules

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/netlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds what must happen; silence is how long a test listens for what
// must not.
const (
	deadline = 20 * time.Second
	silence  = 150 * time.Millisecond
)

// A lab is some nodes' namespaces of one network, on one wire in the place of
// VXLAN, and sandboxes at them.
//
//	sandbox ov0 ── p1 [node 1] vx0 ── wire ── vx0 [node 2] p1 ── ov0 sandbox
type lab struct {
	t     testing.TB
	wire  *os.File
	nodes []*node
	boxes []*box
	net   Network
}

type node struct {
	lab    *lab
	i      int
	ns     *os.File
	router net.HardwareAddr
	table  *Table
}

type box struct {
	node          *node
	ns            *os.File
	task, service string
	port          string
	mac           net.HardwareAddr
	addr4, addr6  netip.Addr
	serving, gone bool
}

var (
	gateway4, gateway6 = netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("fd00:1::1")
	subnet4, subnet6   = netip.MustParsePrefix("10.200.0.0/24"), netip.MustParsePrefix("fd00:1::/64")
	portMAC            = net.HardwareAddr{2, 0x52, 0, 0, 0, 1}
)

func vip4(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, 0, byte(192 + i)}) }
func vip6(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:1::c%02x", i)) }

var within, routes, up = netlab.Within, netlab.Links, netlab.Up

func newNetns(t testing.TB) *os.File {
	t.Helper()
	f := netlab.Netns(t, "")
	within(t, f, func() error {
		for _, path := range [][]string{{"ipv4/ip_forward", "1"}, {"ipv6/conf/all/forwarding", "1"}, {"ipv4/conf/all/rp_filter", "0"},
			{"ipv4/conf/default/rp_filter", "0"}, {"ipv6/conf/default/accept_dad", "0"}} {
			if _, err := kernel.SetSysctl(path[1], path[0]); err != nil {
				return err
			}
		}
		return nil
	})
	routes(t, f, func(h *netlink.Handle) error { return up(h, "lo") })
	return f
}

func newLab(t testing.TB, nodes int) *lab {
	t.Helper()
	l := &lab{t: t, wire: newNetns(t)}
	l.net = Network{Subnets: []netip.Prefix{subnet4, subnet6}, Gateways: []netip.Addr{gateway4, gateway6}, Uplink: "vx0"}
	routes(t, l.wire, func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}); err != nil {
			return err
		}
		return up(h, "br0")
	})
	for i := 1; i <= nodes; i++ {
		n := &node{lab: l, i: i, ns: newNetns(t), router: net.HardwareAddr{2, 0x52, 198, 18, 0, byte(i)}}
		n.table = newTable(t, n.ns)
		if err := Deny(n.table.nf); err != nil {
			t.Fatal(err)
		}
		routes(t, l.wire, func(h *netlink.Handle) error {
			br, err := h.LinkByName("br0")
			if err != nil {
				return err
			}
			name := fmt.Sprintf("w%d", i)
			if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1, MasterIndex: br.Attrs().Index},
				PeerName: "vx0", PeerHardwareAddr: n.router, PeerNamespace: netlink.NsFd(int(n.ns.Fd()))}); err != nil {
				return err
			}
			w, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			// As in VXLAN, nobody's place is learnt from what he sends.
			return errors.Join(h.LinkSetLearning(w, false), h.LinkSetUp(w))
		})
		within(t, n.ns, func() error {
			_, err := kernel.SetSysctl("1", "ipv4/conf/vx0/accept_local")
			return err
		})
		routes(t, n.ns, func(h *netlink.Handle) error {
			if err := up(h, "vx0"); err != nil {
				return err
			}
			return addAddr(h, "lo", gateway4, gateway6)
		})
		l.nodes = append(l.nodes, n)
	}
	return l
}

// newTable is one of the namespace, of which it knows nothing yet.
func newTable(t testing.TB, ns *os.File) *Table {
	t.Helper()
	var nf *kernel.Netfilter
	within(t, ns, func() (err error) { nf, err = kernel.OpenNetfilter(); return err })
	t.Cleanup(func() { nf.Close() })
	return New(nf)
}

func addAddr(h *netlink.Handle, link string, addrs ...netip.Addr) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: single(a), Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
	}
	return nil
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// box adds a sandbox of the service at the node.
func (n *node) box(service string) *box {
	l := n.lab
	l.t.Helper()
	k := len(l.boxes) + 1
	b := &box{node: n, ns: newNetns(l.t), task: fmt.Sprintf("task%d", k), service: service, port: fmt.Sprintf("p%d", k), serving: true,
		mac: net.HardwareAddr{2, 1, 0, 0, 0, byte(k)}, addr4: netip.AddrFrom4([4]byte{10, 200, 0, byte(1 + k)}), addr6: netip.MustParseAddr(fmt.Sprintf("fd00:1::1:%x", k))}
	routes(l.t, n.ns, func(h *netlink.Handle) error {
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: b.port, TxQLen: -1, HardwareAddr: portMAC},
			PeerName: "ov0", PeerHardwareAddr: b.mac, PeerNamespace: netlink.NsFd(int(b.ns.Fd()))}); err != nil {
			return err
		}
		return up(h, b.port)
	})
	routes(l.t, b.ns, func(h *netlink.Handle) error {
		if err := up(h, "ov0"); err != nil {
			return err
		}
		if err := addAddr(h, "ov0", b.addr4, b.addr6); err != nil {
			return err
		}
		for _, x := range []struct {
			gateway netip.Addr
			subnet  netip.Prefix
		}{{gateway4, subnet4}, {gateway6, subnet6}} {
			if err := direct(h, "ov0", x.gateway, portMAC); err != nil {
				return err
			}
			ov, _ := h.LinkByName("ov0")
			if err := h.RouteAdd(&netlink.Route{LinkIndex: ov.Attrs().Index, Dst: ipNet(x.subnet), Gw: x.gateway.AsSlice()}); err != nil {
				return fmt.Errorf("route to %s: %w", x.subnet, err)
			}
		}
		return nil
	})
	for _, o := range l.nodes {
		routes(l.t, o.ns, func(h *netlink.Handle) error {
			link, mac := b.port, b.mac
			if o != n {
				link, mac = "vx0", n.router
			}
			for _, a := range []netip.Addr{b.addr4, b.addr6} {
				if err := direct(h, link, a, mac); err != nil {
					return err
				}
			}
			return nil
		})
	}
	l.boxes = append(l.boxes, b)
	return b
}

// direct is a route to one address, and whom to send it to.
func direct(h *netlink.Handle, link string, a netip.Addr, mac net.HardwareAddr) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return err
	}
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: single(a), Scope: netlink.SCOPE_LINK}
	if link != "ov0" {
		r.Src = gateway4.AsSlice()
		if a.Is6() {
			r.Src = gateway6.AsSlice()
		}
	}
	if err := h.RouteReplace(r); err != nil {
		return fmt.Errorf("route to %s: %w", a, err)
	}
	return h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
}

// service gives a service its virtual addresses, which are some of every node.
func (l *lab) service(id string) (netip.Addr, netip.Addr) {
	l.t.Helper()
	k := len(l.net.Services)
	v4, v6 := vip4(k), vip6(k)
	l.net.Services = append(l.net.Services, Service{ID: id, VIPs: []netip.Addr{v4, v6}})
	for _, n := range l.nodes {
		routes(l.t, n.ns, func(h *netlink.Handle) error { return addAddr(h, "lo", v4, v6) })
	}
	return v4, v6
}

// network is the lab's as one node sees it.
func (n *node) network() *Network {
	x := n.lab.net
	x.Services, x.Rules = slices.Clone(x.Services), slices.Clone(x.Rules)
	for _, b := range n.lab.boxes {
		if b.gone {
			continue
		}
		e := Endpoint{Task: b.task, Service: b.service, Addrs: []netip.Addr{b.addr4, b.addr6}, MAC: b.node.router, Serving: b.serving}
		if b.node == n {
			e.Port, e.MAC = b.port, b.mac
		}
		x.Endpoints = append(x.Endpoints, e)
	}
	return &x
}

func (n *node) set() (changed bool) {
	n.lab.t.Helper()
	within(n.lab.t, n.ns, func() (err error) {
		if changed, err = n.table.Set(n.lab.t.Context(), n.network()); err == nil {
			err = n.table.Forget()
		}
		return err
	})
	return changed
}

// set makes all nodes' rulesets those of the lab.
func (l *lab) set() {
	l.t.Helper()
	for _, n := range l.nodes {
		n.set()
	}
}

func (n *node) counters() (allowed, dropped map[string]uint64) {
	n.lab.t.Helper()
	within(n.lab.t, n.ns, func() (err error) {
		allowed, dropped, err = n.table.Counters()
		return err
	})
	return allowed, dropped
}
