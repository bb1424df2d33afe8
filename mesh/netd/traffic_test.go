package netd

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
)

// The frames of a bridge pass the rules of routed packets too when br_netfilter
// is loaded and on, as it is beside Docker. Everything holds both ways.
func TestTraffic(t *testing.T) {
	t.Parallel()
	for _, brNetfilter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+brNetfilter, func(t *testing.T) {
			w := newWorld(t)
			err := kernel.InNetns(w.node, func() error {
				return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(brNetfilter), 0)
			})
			if errors.Is(err, os.ErrNotExist) && brNetfilter == "0" {
				err = nil // the module is not loaded: that is off
			}
			if err != nil {
				t.Fatal(err)
			}
			testTraffic(t, w)
		})
	}
}

func testTraffic(t *testing.T, w *world) {
	a := w.box(1, tcpPort(8080, 80), udpPort(5353, 53))
	b := w.box(2, tcpPort(8081, 80, "127.0.0.1"), tcpPort(8082, 80, nodeIP))
	w.apply(a, b)
	for _, x := range []box{a, b} {
		w.serve(x.ns, "tcp", "0.0.0.0:80")
		w.serve(x.ns, "udp", "0.0.0.0:53")
	}
	for _, ns := range []*os.File{w.outside, w.other, w.node} {
		for _, port := range []string{"7000", "2377"} {
			w.serve(ns, "tcp", "0.0.0.0:"+port)
		}
		w.serve(ns, "udp", "0.0.0.0:7000")
	}

	// Out.
	w.reaches(a.ns, "tcp", outsideIP+":7000", nodeIP)
	w.reaches(a.ns, "udp", outsideIP+":7000", nodeIP)
	w.reaches(b.ns, "tcp", otherIP+":7000", "198.51.100.1")
	// In, by the published ports. The client's address is kept.
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	w.reaches(w.outside, "udp", nodeIP+":5353", outsideIP)
	w.reaches(w.outside, "tcp", nodeIP+":8082", outsideIP)
	w.reaches(w.other, "tcp", "198.51.100.1:8080", otherIP)
	w.reaches(w.node, "tcp", nodeIP+":8080", nodeIP)
	w.reaches(w.node, "tcp", "127.0.0.1:8080", gatewayIP)
	w.reaches(w.node, "udp", "127.0.0.1:5353", gatewayIP)
	w.reaches(w.node, "tcp", "127.0.0.1:8081", gatewayIP)
	// One container to another's published port, and to its own.
	w.reaches(b.ns, "tcp", nodeIP+":8080", gatewayIP)
	w.reaches(a.ns, "tcp", nodeIP+":8080", gatewayIP)
	w.reaches(b.ns, "tcp", gatewayIP+":8080", gatewayIP)

	// Published on one address only.
	w.cannotReach(w.outside, "tcp", nodeIP+":8081")
	w.cannotReach(a.ns, "tcp", nodeIP+":8081")
	w.cannotReach(w.other, "tcp", "198.51.100.1:8082")
	// Between containers, and what is not published.
	w.cannotReach(a.ns, "tcp", b.ip+":80")
	w.cannotReach(a.ns, "udp", b.ip+":53")
	w.cannotReach(w.node, "tcp", a.ip+":80")
	w.cannotReach(w.outside, "tcp", a.ip+":80") // routed to the node
	w.cannotReach(w.outside, "udp", nodeIP+":53")
	// The node's own sockets, the management port, the cloud's credentials.
	w.cannotReach(a.ns, "tcp", gatewayIP+":7000")
	w.cannotReach(a.ns, "udp", gatewayIP+":7000")
	w.cannotReach(a.ns, "tcp", nodeIP+":7000")
	w.cannotReach(a.ns, "tcp", nodeIP+":2377")
	w.cannotReach(a.ns, "tcp", outsideIP+":2377")
	// The node has not become a router.
	w.cannotReach(w.outside, "tcp", otherIP+":7000")
	w.in(w.node, func() error {
		if router, err := isRouter(); err != nil || router {
			t.Errorf("ip_forward is on (%v)", err)
		}
		return nil
	})
	w.reaches(w.node, "tcp", otherIP+":7000", "") // it would be reachable
}

func TestLinkLocal(t *testing.T) {
	w := newWorld(t)
	a := w.box(1)
	w.routes(w.outside, func(h *netlink.Handle) error {
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.AddrAdd(l, &netlink.Addr{IPNet: mustIPNet("169.254.169.254/32")})
	})
	w.routes(w.node, func(h *netlink.Handle) error {
		l, err := h.LinkByName("up0")
		if err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: mustIPNet("169.254.169.254/32")})
	})
	w.serve(w.outside, "tcp", "169.254.169.254:80")
	w.apply(a)
	w.cannotReach(a.ns, "tcp", "169.254.169.254:80")
	w.n.config.AllowLinkLocal = true
	w.apply(a)
	w.reaches(a.ns, "tcp", "169.254.169.254:80", nodeIP)
}

// A node that is a router already stays one, and netd opens nothing.
func TestRouterStays(t *testing.T) {
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	w.in(w.node, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	w.serve(w.other, "tcp", "0.0.0.0:7000")
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	w.apply(a)
	w.reaches(w.outside, "tcp", otherIP+":7000", outsideIP)
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	w.reaches(a.ns, "tcp", otherIP+":7000", "")
	w.cannotReach(w.outside, "tcp", a.ip+":80")
	if len(w.n.opened) > 0 {
		t.Errorf("opened %v", w.n.opened)
	}
}
