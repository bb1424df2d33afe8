package netd

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/mesh/netd/internal/kernel"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// hardware is the MAC of an interface.
func (w *world) hardware(ns *os.File, link string) (mac net.HardwareAddr) {
	w.t.Helper()
	w.in(ns, func() error {
		l, err := net.InterfaceByName(link)
		if err == nil {
			mac = l.HardwareAddr
		}
		return err
	})
	return mac
}

// What comes by a wire and claims to be of the bridge, of a private network, the
// node itself or nobody gets to no container; nor does what is sent to the
// bridge's subnet by who is not on it.
func TestNobodyClaimsAnAddressFromTheWire(t *testing.T) {
	w := newWorld(t)
	a := w.box(1, udpPort(9999, 9999))
	req := w.request(a)
	req.Pools = &netdpb.Pools{Prefixes: []string{"10.200.0.0/13", "fd00:8::/48"}}
	w.mustApply(req)
	node, outside := w.hardware(w.node, "up0"), w.hardware(w.outside, "eth0")
	out, inside := w.raw(w.outside, "eth0"), w.raw(a.ns, "eth0")
	var names []string
	shoot := func(name, src, dst string, port uint16) {
		p := udp4(src, dst, name)
		binary.BigEndian.PutUint16(p[22:], port)
		if !strings.HasPrefix(name, "sound") {
			names = append(names, name)
		}
		out.send(t, ethernet(node, outside, unix.ETH_P_IP, p))
	}
	var gateway net.PacketConn
	w.in(w.node, func() (err error) { gateway, err = net.ListenPacket("udp4", ":7777"); return err })
	defer gateway.Close()
	for name, src := range map[string]string{
		"the container itself": a.ip, "another container": "172.29.0.77", "the bridge": gatewayIP, "a private network": "10.200.1.7",
		"loopback": "127.0.0.1", "the node": nodeIP, "the node elsewhere": "198.51.100.1", "the wire": "192.0.2.255", "everybody": "255.255.255.255",
		"a group": "224.0.0.5", "nobody": "0.0.0.0", "class E": "240.0.0.1",
	} {
		shoot("from "+name, src, nodeIP, 9999)
	}
	shoot("to the container", outsideIP, a.ip, 9999)
	shoot("to another address", outsideIP, "172.29.0.77", 9999)
	shoot("to the bridge", outsideIP, gatewayIP, 7777)
	shoot("to the bridge's port", outsideIP, gatewayIP, 9999)
	shoot("to the bridge as a container", a.ip, gatewayIP, 7777)
	shoot("to the node as a container", a.ip, nodeIP, 7777)
	shoot("to the node", outsideIP, nodeIP, 7777)
	shoot("sound", "203.0.113.9", nodeIP, 9999)
	if seen := inside.until(t, "sound", names...); len(seen) != 1 {
		t.Errorf("the container received %q", seen)
	}
	// The node's processes hear the control alone.
	gateway.SetReadDeadline(time.Now().Add(deadline))
	buf := make([]byte, 100)
	if k, _, err := gateway.ReadFrom(buf); err != nil || string(buf[:k]) != "<to the node>" {
		t.Errorf("the node heard %q (%v)", buf[:k], err)
	}
	// Pools stay where nothing is said of them.
	w.apply(a)
	shoot("from a private network, later", "10.200.1.8", nodeIP, 9999)
	shoot("sound again", "203.0.113.10", nodeIP, 9999)
	if seen := inside.until(t, "sound again", names...); len(seen) != 1 {
		t.Errorf("the container received %q", seen)
	}
}

// Hosts of a LAN in a pool are answered, as the node itself.
func TestLANInAPool(t *testing.T) {
	w := newWorld(t)
	a := w.box(1, tcpPort(8080, 80))
	w.serve(a.ns, "tcp", "0.0.0.0:80")
	w.serve(w.outside, "tcp", "0.0.0.0:7000")
	for ns, at := range map[*os.File][2]string{w.node: {"up0", "10.201.3.5/24"}, w.outside: {"eth0", "10.201.3.4/24"}} {
		w.routes(ns, func(h *netlink.Handle) error {
			l, err := h.LinkByName(at[0])
			if err != nil {
				return err
			}
			return h.AddrAdd(l, &netlink.Addr{IPNet: kernel.IPNet(netip.MustParsePrefix(at[1]))})
		})
	}
	req := w.request(a)
	req.Pools = &netdpb.Pools{Prefixes: []string{"10.200.0.0/13"}}
	w.mustApply(req)
	w.reaches(w.outside, "tcp", "10.201.3.5:8080", gatewayIP)
	w.reaches(w.node, "tcp", "10.201.3.5:8080", gatewayIP)
	w.reaches(w.outside, "tcp", nodeIP+":8080", outsideIP)
	w.reaches(a.ns, "tcp", "10.201.3.4:7000", "10.201.3.5") // and answer a container
}
