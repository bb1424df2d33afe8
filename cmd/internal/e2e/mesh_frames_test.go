package e2e

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Frames as an attacker makes them, from the outside in. All checksums are
// right: nothing is to be dropped for another reason than who sent it.

var everybody = net.HardwareAddr{255, 255, 255, 255, 255, 255}

func ethernet(dst, src net.HardwareAddr, kind uint16, payload ...[]byte) []byte {
	f := binary.BigEndian.AppendUint16(append(bytes.Clone(dst), src...), kind)
	return append(f, bytes.Join(payload, nil)...)
}

// ip is the Ethernet frame of a packet of either family.
func ipFrame(dst, src net.HardwareAddr, packet []byte) []byte {
	if packet[0]>>4 == 6 {
		return ethernet(dst, src, unix.ETH_P_IPV6, packet)
	}
	return ethernet(dst, src, unix.ETH_P_IP, packet)
}

func checksum(parts ...[]byte) uint16 {
	b := bytes.Join(parts, nil)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// packet is an IP packet of the addresses' family.
func packet(src, dst netip.Addr, proto byte, payload []byte) []byte {
	if src.Is6() {
		p := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), proto, 255}
		return append(append(append(p, src.AsSlice()...), dst.AsSlice()...), payload...)
	}
	return fragment(src, dst, proto, 0, 0, payload)
}

// fragment is one of a packet; offset counts bytes and has the flag of more in
// its lowest bit.
func fragment(src, dst netip.Addr, proto byte, id uint16, offset int, payload []byte) []byte {
	p := make([]byte, 20, 20+len(payload))
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(p[4:], id)
	binary.BigEndian.PutUint16(p[6:], uint16(offset/8)|uint16(offset&1)<<13)
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, payload...)
}

// pseudo is what the checksums of transports cover beside the packet.
func pseudo(src, dst netip.Addr, proto byte, n int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(binary.BigEndian.AppendUint16(b, uint16(n)), 0, proto)
}

func udp(src, dst netip.Addr, from, to uint16, text []byte) []byte {
	d := binary.BigEndian.AppendUint16(nil, from)
	d = binary.BigEndian.AppendUint16(d, to)
	d = binary.BigEndian.AppendUint16(d, uint16(8+len(text)))
	d = append(append(d, 0, 0), text...)
	binary.BigEndian.PutUint16(d[6:], checksum(pseudo(src, dst, unix.IPPROTO_UDP, len(d)), d))
	return packet(src, dst, unix.IPPROTO_UDP, d)
}

// tcp is a segment with data, as none begins a connection; flags 2: SYN, 4: RST,
// 16: ACK.
func tcp(src, dst netip.Addr, from, to uint16, flags byte, text []byte) []byte {
	d := binary.BigEndian.AppendUint16(nil, from)
	d = binary.BigEndian.AppendUint16(d, to)
	d = append(d, 0, 0, 0, 1, 0, 0, 0, 1, 5<<4, flags, 255, 255, 0, 0, 0, 0)
	d = append(d, text...)
	binary.BigEndian.PutUint16(d[16:], checksum(pseudo(src, dst, unix.IPPROTO_TCP, len(d)), d))
	return packet(src, dst, unix.IPPROTO_TCP, d)
}

// icmp is a message of ICMP or ICMPv6, with four bytes of its own and the rest.
func icmp(src, dst netip.Addr, kind, code byte, own [4]byte, rest ...[]byte) []byte {
	d := append([]byte{kind, code, 0, 0}, own[:]...)
	d = append(d, bytes.Join(rest, nil)...)
	if src.Is6() {
		binary.BigEndian.PutUint16(d[2:], checksum(pseudo(src, dst, unix.IPPROTO_ICMPV6, len(d)), d))
		return packet(src, dst, unix.IPPROTO_ICMPV6, d)
	}
	binary.BigEndian.PutUint16(d[2:], checksum(d))
	return packet(src, dst, unix.IPPROTO_ICMP, d)
}

// arp is a request (1) or an answer (2) that says: from is at mac.
func arp(op byte, mac net.HardwareAddr, from netip.Addr, to net.HardwareAddr, target netip.Addr, text []byte) []byte {
	return bytes.Join([][]byte{{0, 1, 8, 0, 6, 4, 0, op}, mac, from.AsSlice(), to, target.AsSlice(), text}, nil)
}

// vxlan is the payload of UDP port 4789.
func vxlan(vni uint32, inner []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8), inner...)
}

// routerMAC is the MAC that a node's frames bear inside an overlay.
func routerMAC(mesh netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{2, 0x52}, mesh.AsSlice()...)
}

// gatewayMAC is that of the network's end of every sandbox's link.
var gatewayMAC = net.HardwareAddr{2, 0x52, 0, 0, 0, 1}
