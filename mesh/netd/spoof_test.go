package netd

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A rawSocket sends and receives whole frames on one interface.
type rawSocket struct {
	f     *os.File
	index int
}

func (w *world) raw(ns *os.File, link string) rawSocket {
	w.t.Helper()
	var s rawSocket
	w.in(ns, func() error {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL<<8) | unix.ETH_P_ALL>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		s = rawSocket{os.NewFile(uintptr(fd), link), l.Index}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index})
	})
	w.t.Cleanup(func() { s.f.Close() })
	return s
}

func (s rawSocket) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := s.f.Write(frame); err != nil {
		t.Fatal(err)
	}
}

// until returns the payload markers of our frames up to and including last.
func (s rawSocket) until(t *testing.T, last string, markers ...string) (seen []string) {
	t.Helper()
	s.f.SetReadDeadline(time.Now().Add(deadline))
	buf := make([]byte, 2048)
	for {
		k, err := s.f.Read(buf)
		if err != nil {
			t.Fatalf("waiting for frame %q: %v", last, err)
		}
		for _, m := range append(markers, last) {
			if bytes.Contains(buf[:k], []byte("<"+m+">")) {
				seen = append(seen, m)
			}
		}
		if bytes.Contains(buf[:k], []byte("<"+last+">")) {
			return seen
		}
	}
}

func ethernet(dst, src net.HardwareAddr, kind uint16, payload ...[]byte) []byte {
	f := binary.BigEndian.AppendUint16(append(bytes.Clone(dst), src...), kind)
	return append(f, bytes.Join(payload, nil)...)
}

// udp4 is an IPv4 packet with a UDP datagram that carries the marker.
func udp4(src, dst, marker string) []byte {
	body := "<" + marker + ">"
	p := make([]byte, 28, 64)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(body)))
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(p[20:], 9999)
	binary.BigEndian.PutUint16(p[22:], 9999)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(body)))
	return append(p, body...)
}

func arpRequest(mac net.HardwareAddr, src, dst, marker string) []byte {
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	return bytes.Join([][]byte{{0, 1, 8, 0, 6, 4, 0, 1}, mac, s[:], make([]byte, 6), d[:], []byte("<" + marker + ">")}, nil)
}

// Frames of a container that are not its own never come out of the bridge. The
// sound frame after them proves that they would have been seen: all take the
// same way, in order.
func TestSpoofedFramesAreDropped(t *testing.T) {
	w := newWorld(t)
	a, b := w.box(1), w.box(2)
	w.apply(a, b)
	macA, _ := net.ParseMAC(a.GetMac())
	macB, _ := net.ParseMAC(b.GetMac())
	gateway := bridgeMAC(netip.MustParseAddr(gatewayIP))
	everybody := net.HardwareAddr{255, 255, 255, 255, 255, 255}

	out, node, other := w.raw(a.ns, "eth0"), w.raw(w.node, bridgeName), w.raw(b.ns, "eth0")
	const ip, arp, ip6, vlan = unix.ETH_P_IP, unix.ETH_P_ARP, unix.ETH_P_IPV6, 0x8100
	bad := map[string][]byte{
		"ip of b":         ethernet(gateway, macA, ip, udp4(b.ip, outsideIP, "ip of b")),
		"ip of node":      ethernet(gateway, macA, ip, udp4(gatewayIP, outsideIP, "ip of node")),
		"ip of loopback":  ethernet(gateway, macA, ip, udp4("127.0.0.1", nodeIP, "ip of loopback")),
		"mac of b":        ethernet(gateway, macB, ip, udp4(a.ip, outsideIP, "mac of b")),
		"all of b":        ethernet(gateway, macB, ip, udp4(b.ip, outsideIP, "all of b")),
		"arp ip of b":     ethernet(everybody, macA, arp, arpRequest(macA, b.ip, gatewayIP, "arp ip of b")),
		"arp for gateway": ethernet(everybody, macA, arp, arpRequest(macA, gatewayIP, b.ip, "arp for gateway")),
		"arp mac of b":    ethernet(everybody, macA, arp, arpRequest(macB, a.ip, gatewayIP, "arp mac of b")),
		"frame mac of b":  ethernet(everybody, macB, arp, arpRequest(macA, a.ip, gatewayIP, "frame mac of b")),
		"ipv6":            ethernet(everybody, macA, ip6, bytes.Repeat([]byte{0x60}, 40), []byte("<ipv6>")),
		"vlan":            ethernet(gateway, macA, vlan, []byte{0, 0, 8, 0}, udp4(a.ip, outsideIP, "vlan")),
		"vlan 7":          ethernet(gateway, macA, vlan, []byte{0, 7, 8, 0}, udp4(a.ip, outsideIP, "vlan 7")),
		"short":           ethernet(gateway, macA, ip, []byte("<short>")),
		"unknown":         ethernet(everybody, macA, 0x88b5, []byte("<unknown>")),
	}
	var names []string
	for name, frame := range bad {
		names = append(names, name)
		out.send(t, frame)
	}
	out.send(t, ethernet(gateway, macA, ip, udp4(a.ip, outsideIP, "sound")))
	if seen := node.until(t, "sound", names...); len(seen) != 1 {
		t.Errorf("frames passed: %q", seen)
	}

	// To a neighbour on the bridge: nothing arrives, neither its broadcasts nor
	// packets to its MAC; what the node sends to it does.
	out.send(t, ethernet(macB, macA, ip, udp4(a.ip, b.ip, "direct")))
	out.send(t, ethernet(everybody, macA, arp, arpRequest(macA, a.ip, b.ip, "broadcast")))
	out.send(t, ethernet(everybody, macA, ip, udp4(a.ip, "172.29.0.255", "ip broadcast")))
	out.send(t, ethernet(gateway, macA, ip, udp4(a.ip, outsideIP, "after")))
	node.until(t, "after")
	node.send(t, ethernet(macB, gateway, ip, udp4(gatewayIP, b.ip, "from node")))
	if seen := other.until(t, "from node", "direct", "broadcast", "ip broadcast"); len(seen) != 1 {
		t.Errorf("a neighbour received %q", seen)
	}
}

// A host on the node's network addresses a packet to 127.0.0.1, where a port is
// published for the node's processes.
func TestLoopbackPortIsNotReachedFromTheWire(t *testing.T) {
	w := newWorld(t)
	p := udpPort(5353, 9999)
	p.HostIp = "127.0.0.1"
	q := udpPort(9999, 9999)
	a := w.box(1, p, q)
	w.apply(a)
	var macNode, macOutside net.HardwareAddr
	for ns, at := range map[*os.File]*net.HardwareAddr{w.node: &macNode, w.outside: &macOutside} {
		w.in(ns, func() error {
			name := "eth0"
			if ns == w.node {
				name = "up0"
			}
			l, err := net.InterfaceByName(name)
			if err == nil {
				*at = l.HardwareAddr
			}
			return err
		})
	}
	out, inside := w.raw(w.outside, "eth0"), w.raw(a.ns, "eth0")
	attack := udp4(outsideIP, "127.0.0.1", "loopback")
	binary.BigEndian.PutUint16(attack[22:], 5353)
	out.send(t, ethernet(macNode, macOutside, unix.ETH_P_IP, attack))
	anyAddress := udp4(outsideIP, "127.0.0.1", "loopback too") // 9999 is published everywhere
	out.send(t, ethernet(macNode, macOutside, unix.ETH_P_IP, anyAddress))
	out.send(t, ethernet(macNode, macOutside, unix.ETH_P_IP, udp4(outsideIP, nodeIP, "sound")))
	if seen := inside.until(t, "sound", "loopback", "loopback too"); len(seen) != 1 {
		t.Errorf("the container received %q", seen)
	}
}
