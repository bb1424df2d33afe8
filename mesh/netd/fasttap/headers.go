package fasttap

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	protoTCP = unix.IPPROTO_TCP
	protoUDP = unix.IPPROTO_UDP

	ip4Len, ip6Len  = 20, 40
	udpLen, vxLen   = 8, 8
	tcpLen          = 20
	tcpChecksumAt   = 16
	udpChecksumAt   = 6
	etherTypeIPv4   = 0x0800
	etherTypeIPv6   = 0x86dd
	vxlanFlagsValid = 0x08000000 // the VNI is there, and nothing else

	flagFIN, flagSYN, flagRST, flagPSH = 0x01, 0x02, 0x04, 0x08
	flagACK, flagURG, flagCWR          = 0x10, 0x20, 0x80
)

var errHeaders = errors.New("a super-packet of the kernel has headers that do not fit its description")

// An ipHeader says where an IP header is in a packet.
type ipHeader struct {
	at  int
	v6  bool
	len int // without what IPv6 puts behind it
}

// ipAt finds the IP header at an offset; false where there is none.
func ipAt(pkt []byte, at int) (h ipHeader, ok bool) {
	if at < 0 || len(pkt) < at+ip4Len {
		return ipHeader{}, false
	}
	switch pkt[at] >> 4 {
	case 4:
		h = ipHeader{at: at, len: int(pkt[at]&0x0f) * 4}
		return h, h.len >= ip4Len && len(pkt) >= at+h.len
	case 6:
		h = ipHeader{at: at, v6: true, len: ip6Len}
		return h, len(pkt) >= at+h.len
	}
	return ipHeader{}, false
}

func (h ipHeader) end() int { return h.at + h.len }

// addrs are source and destination.
func (h ipHeader) addrs(pkt []byte) []byte {
	if h.v6 {
		return pkt[h.at+8 : h.at+40]
	}
	return pkt[h.at+12 : h.at+20]
}

// proto is what follows directly.
func (h ipHeader) proto(pkt []byte) uint8 {
	if h.v6 {
		return pkt[h.at+6]
	}
	return pkt[h.at+9]
}

// fragment says whether pkt is one, or has the reserved bit set.
func (h ipHeader) fragment(pkt []byte) bool {
	return !h.v6 && binary.BigEndian.Uint16(pkt[h.at+6:])&0xbfff != 0
}

// id is IPv4's identification; IPv6 has none.
func (h ipHeader) id(pkt []byte) uint16 {
	if h.v6 {
		return 0
	}
	return binary.BigEndian.Uint16(pkt[h.at+4:])
}

// lengthIs says whether the header claims what is there.
func (h ipHeader) lengthIs(pkt []byte) bool {
	if h.v6 {
		return int(binary.BigEndian.Uint16(pkt[h.at+4:])) == len(pkt)-h.end()
	}
	return int(binary.BigEndian.Uint16(pkt[h.at+2:])) == len(pkt)-h.at
}

// set writes the length of a packet that ends at end, adds steps to the
// identification, and makes the checksum right.
func (h ipHeader) set(pkt []byte, end int, steps uint16) {
	if h.v6 {
		binary.BigEndian.PutUint16(pkt[h.at+4:], uint16(end-h.end()))
		return
	}
	binary.BigEndian.PutUint16(pkt[h.at+2:], uint16(end-h.at))
	binary.BigEndian.PutUint16(pkt[h.at+4:], h.id(pkt)+steps)
	pkt[h.at+10], pkt[h.at+11] = 0, 0
	binary.BigEndian.PutUint16(pkt[h.at+10:], ^sum(pkt[h.at:h.end()], 0))
}

// sound says whether the header's checksum is the one that set writes.
func (h ipHeader) sound(pkt []byte) bool {
	if h.v6 {
		return true
	}
	return sum(pkt[h.at:h.end()], 0) == 0xffff && binary.BigEndian.Uint16(pkt[h.at+10:]) != 0xffff
}

// tcpHeaderLen is the length that the TCP header at an offset has; false where
// it does not fit.
func tcpHeaderLen(pkt []byte, at int) (n int, ok bool) {
	if len(pkt) < at+tcpLen {
		return 0, false
	}
	n = int(pkt[at+12]>>4) * 4
	return n, n >= tcpLen && len(pkt) >= at+n
}
