package fasttap

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A shape is what the headers of one packet say, as far as merging needs it.
// It refers to nothing but offsets: all of them lie within the packet.
type shape struct {
	tunnel    bool
	outer     ipHeader // only in a tunnel
	inner     ipHeader // the only one where there is no tunnel
	transport int
	tcp       bool
	payload   int // where it begins

	outerChecksum bool // the outer UDP header has one
}

// shapeOf looks at a packet from another node. It is ok where the packet is TCP
// or UDP in IP, or that in Ethernet in VXLAN in IPv4, without anything that
// would be lost or doubtful when it is merged with others: IP options, extension
// headers, fragments, a length that is not the packet's own, VLAN tags, VXLAN
// extensions. Checksums are looked at later.
func shapeOf(pkt []byte, vxlanPort uint16) (s shape, ok bool) {
	if len(pkt) > maxPacket || !s.innermost(pkt, 0) {
		return s, false
	}
	if vxlanPort == 0 || s.tcp || s.inner.v6 || binary.BigEndian.Uint16(pkt[s.transport+2:]) != vxlanPort {
		return s, true
	}
	vxlan := s.payload
	inner := vxlan + vxLen + ethernetLen
	if len(pkt) < inner ||
		binary.BigEndian.Uint32(pkt[vxlan:]) != vxlanFlagsValid || pkt[vxlan+7] != 0 {
		return s, false
	}
	t := shape{tunnel: true, outer: s.inner}
	t.outerChecksum = pkt[s.transport+udpChecksumAt] != 0 || pkt[s.transport+udpChecksumAt+1] != 0
	if !t.innermost(pkt, inner) {
		return s, false
	}
	want := uint16(etherTypeIPv4)
	if t.inner.v6 {
		want = etherTypeIPv6
	}
	return t, binary.BigEndian.Uint16(pkt[inner-2:]) == want
}

// innermost takes apart the IP header at an offset and the transport header
// behind it.
func (s *shape) innermost(pkt []byte, at int) (ok bool) {
	if s.inner, ok = ipAt(pkt, at); !ok || !s.inner.lengthIs(pkt) || s.inner.fragment(pkt) ||
		!s.inner.v6 && s.inner.len != ip4Len {
		return false
	}
	s.transport = s.inner.end()
	switch s.inner.proto(pkt) {
	case protoTCP:
		n, ok := tcpHeaderLen(pkt, s.transport)
		s.tcp, s.payload = true, s.transport+n
		return ok
	case protoUDP:
		s.payload = s.transport + udpLen
		return len(pkt) >= s.payload && int(binary.BigEndian.Uint16(pkt[s.transport+4:])) == len(pkt)-s.transport
	}
	return false
}

// mergeable says whether the packet may be one of several: it has a payload, is
// in the middle of its connection, and has a checksum.
func (s *shape) mergeable(pkt []byte) bool {
	if len(pkt) == s.payload || binary.BigEndian.Uint16(pkt[s.checksumAt():]) == 0 {
		return false
	}
	if !s.tcp {
		return true
	}
	flags := pkt[s.transport+13]
	return flags&flagACK != 0 && flags&(flagSYN|flagRST|flagURG|flagCWR) == 0
}

func (s *shape) checksumAt() int {
	if s.tcp {
		return s.transport + tcpChecksumAt
	}
	return s.transport + udpChecksumAt
}

// sound verifies the checksums.
func (s *shape) sound(pkt []byte) bool {
	proto := uint8(protoUDP)
	if s.tcp {
		proto = protoTCP
	}
	segment := pkt[s.transport:]
	header := pseudo(s.inner.addrs(pkt), proto, len(segment))
	if !s.inner.sound(pkt) || sum(segment, header) != 0xffff {
		return false
	}
	if !s.tunnel {
		return true
	}
	return s.outer.sound(pkt) && (!s.outerChecksum || add(outerSum(pkt, s.outer, s.transport), ^header) == 0xffff)
}

// outerSum is what the outer UDP checksum covers in front of the inner transport
// header. That and all behind it add up to the complement of its own pseudo
// header, as its checksum is right: so they need not be looked at again.
func outerSum(pkt []byte, outer ipHeader, transport int) uint16 {
	return sum(pkt[outer.end():transport], pseudo(outer.addrs(pkt), protoUDP, len(pkt)-outer.end()))
}

// seq is TCP's sequence number.
func (s *shape) seq(pkt []byte) uint32 {
	if !s.tcp {
		return 0
	}
	return binary.BigEndian.Uint32(pkt[s.transport+4:])
}

// common copies the headers with everything blanked that may differ between the
// packets of one super-packet: two with equal results differ in nothing else.
func (s *shape) common(dst, pkt []byte) []byte {
	dst = append(dst[:0], pkt[:s.payload]...)
	if s.tunnel {
		s.outer.blank(dst)
		clear(dst[s.outer.end()+4 : s.outer.end()+8]) // UDP's length and checksum
	}
	s.inner.blank(dst)
	t := dst[s.transport:]
	if s.tcp {
		clear(t[4:8])
		t[13] &^= flagFIN | flagPSH
		clear(t[tcpChecksumAt : tcpChecksumAt+2])
	} else {
		clear(t[4:8]) // length and checksum
	}
	return dst
}

// blank zeroes length, identification and checksum.
func (h ipHeader) blank(pkt []byte) {
	if h.v6 {
		clear(pkt[h.at+4 : h.at+6])
		return
	}
	clear(pkt[h.at+2 : h.at+6])
	clear(pkt[h.at+10 : h.at+12])
}

// sameFlow says whether two packets of shape s are of one connection, whatever
// else is in their headers.
func (s *shape) sameFlow(a, b []byte) bool {
	if s.tunnel && !bytes.Equal(s.outer.addrs(a), s.outer.addrs(b)) {
		return false
	}
	return bytes.Equal(s.inner.addrs(a), s.inner.addrs(b)) &&
		bytes.Equal(a[s.transport:s.transport+4], b[s.transport:s.transport+4])
}

// kind is what the kernel calls packets of this shape when they are one.
func (s *shape) kind() (k uint8) {
	switch {
	case !s.tcp:
		k = unix.VIRTIO_NET_HDR_GSO_UDP_L4
	case s.inner.v6:
		k = unix.VIRTIO_NET_HDR_GSO_TCPV6
	default:
		k = unix.VIRTIO_NET_HDR_GSO_TCPV4
	}
	if s.tunnel {
		k |= gsoTunnel4
	}
	return k
}
