package fasttap

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// A superPacket is what the kernel gave as one, being handed out as the packets
// that it stands for. It lives across calls of Read: what does not fit into one
// batch is the beginning of the next.
type superPacket struct {
	pkt []byte // from the outermost IP header; nil: none

	tunnel         bool
	outer          ipHeader // only in a tunnel
	outerUDP       int
	outerChecksum  bool
	inner          ipHeader // the only one where there is no tunnel
	transport      int
	tcp            bool
	payload        int    // where it begins: the length of all headers
	gso            int    // payload of one packet
	checksumAt     int    // of the transport header
	pseudo         uint16 // the sum of its pseudo header, without the length
	next, produced int    // where the next payload begins, packets made so far
}

// begin takes the frame's headers apart. Only what they say exactly is accepted:
// a packet that is not understood is refused whole.
func (s *superPacket) begin(h vnetHeader, frame []byte) error {
	if len(frame) <= ethernetLen || len(frame) > ethernetLen+maxPacket || h.gsoSize == 0 ||
		h.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
		return errHeaders
	}
	n := superPacket{
		gso:       int(h.gsoSize),
		transport: int(h.csumStart) - ethernetLen,
		tunnel:    h.gsoType&gsoTunnel != 0,
	}
	pkt := frame[ethernetLen:]
	var ok bool
	innerAt := 0
	if n.tunnel {
		n.outerUDP = int(h.outerTransport) - ethernetLen
		innerAt = int(h.innerNetwork) - ethernetLen
		n.outerChecksum = h.flags&flagTunnelChecksum != 0
		if n.outer, ok = ipAt(pkt, 0); !ok || h.gsoType&gsoTunnel == gsoTunnel ||
			n.outer.v6 != (h.gsoType&gsoTunnel6 != 0) || n.outer.fragment(pkt) ||
			n.outer.proto(pkt) != protoUDP || n.outerUDP != n.outer.end() || innerAt < n.outerUDP+udpLen {
			return errHeaders
		}
	}
	if n.inner, ok = ipAt(pkt, innerAt); !ok || n.inner.fragment(pkt) || n.transport < n.inner.end() {
		return errHeaders
	}
	switch kind := h.inner(); kind {
	case unix.VIRTIO_NET_HDR_GSO_TCPV4, unix.VIRTIO_NET_HDR_GSO_TCPV6:
		length, ok := tcpHeaderLen(pkt, n.transport)
		if !ok || h.csumOffset != tcpChecksumAt || n.inner.v6 != (kind == unix.VIRTIO_NET_HDR_GSO_TCPV6) {
			return errHeaders
		}
		n.tcp, n.payload = true, n.transport+length
	case unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		if h.csumOffset != udpChecksumAt {
			return errHeaders
		}
		n.payload = n.transport + udpLen
	default:
		return fmt.Errorf("the kernel gave a super-packet of kind %#x, which nobody asked for", h.gsoType)
	}
	if len(pkt) <= n.payload {
		return errHeaders
	}
	n.checksumAt = n.transport + int(h.csumOffset)
	// The field holds the sum of the pseudo header with the whole length.
	n.pseudo = add(binary.BigEndian.Uint16(pkt[n.checksumAt:]), ^uint16(len(pkt)-n.transport))
	n.next, n.pkt = n.payload, pkt
	*s = n
	return nil
}

// pending says whether there are packets left to hand out.
func (s *superPacket) pending() bool { return s.pkt != nil }

// packet writes the next one into dst and returns its length; one that dst has
// no room for ends the super-packet.
func (s *superPacket) packet(dst []byte) (int, error) {
	end := min(s.next+s.gso, len(s.pkt))
	n := s.payload + end - s.next
	if n > len(dst) {
		s.pkt = nil
		return 0, fmt.Errorf("a packet of %d bytes does not fit a buffer of %d", n, len(dst))
	}
	dst = dst[:n]
	copy(dst, s.pkt[:s.payload])
	copy(dst[s.payload:], s.pkt[s.next:end])

	if s.tcp {
		seq := binary.BigEndian.Uint32(dst[s.transport+4:])
		binary.BigEndian.PutUint32(dst[s.transport+4:], seq+uint32(s.next-s.payload))
		if end < len(s.pkt) { // the end of the data, and of the connection, come last
			dst[s.transport+13] &^= flagFIN | flagPSH
		}
		if s.produced > 0 { // said once
			dst[s.transport+13] &^= flagCWR
		}
	} else {
		binary.BigEndian.PutUint16(dst[s.transport+4:], uint16(n-s.transport))
	}
	dst[s.checksumAt], dst[s.checksumAt+1] = 0, 0
	header := add(s.pseudo, uint16(n-s.transport))
	binary.BigEndian.PutUint16(dst[s.checksumAt:], finish(sum(dst[s.transport:], header)))
	s.inner.set(dst, n, uint16(s.produced))
	if s.tunnel {
		s.wrap(dst, header)
	}
	s.produced++
	if s.next = end; end == len(s.pkt) {
		s.pkt = nil
	}
	return n, nil
}

// wrap makes the outer headers of one packet. header is the sum of the inner
// pseudo header.
func (s *superPacket) wrap(dst []byte, header uint16) {
	udp := dst[s.outerUDP:]
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	udp[udpChecksumAt], udp[udpChecksumAt+1] = 0, 0
	if s.outerChecksum {
		binary.BigEndian.PutUint16(udp[udpChecksumAt:], finish(add(outerSum(dst, s.outer, s.transport), ^header)))
	}
	s.outer.set(dst, len(dst), uint16(s.produced))
}

// plain finishes the checksum of a frame that is one packet, where the kernel
// left that to us, and returns the packet.
func plain(h vnetHeader, frame []byte) ([]byte, error) {
	if len(frame) <= ethernetLen {
		return nil, errHeaders
	}
	if h.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
		start, at := int(h.csumStart), int(h.csumStart)+int(h.csumOffset)
		if start < ethernetLen || at+2 > len(frame) {
			return nil, errHeaders
		}
		// The field holds the sum of the pseudo header.
		binary.BigEndian.PutUint16(frame[at:], finish(sum(frame[start:], 0)))
	}
	return frame[ethernetLen:], nil
}
