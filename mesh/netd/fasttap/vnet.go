package fasttap

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// What x/sys/unix does not have yet: linux/virtio_net.h and linux/if_tun.h of
// Linux 6.17.
const (
	gsoTunnel4 = 0x20 // the outer header is IPv4
	gsoTunnel6 = 0x40 // the outer header is IPv6
	gsoTunnel  = gsoTunnel4 | gsoTunnel6

	flagTunnelChecksum = 0x08 // the outer UDP header has a checksum

	offloadTunnel         = 0x80
	offloadTunnelChecksum = 0x100

	addrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
)

const (
	vnetLen     = 24 // struct virtio_net_hdr_v1_hash_tunnel
	ethernetLen = 14
	frontLen    = vnetLen + ethernetLen
)

// A vnetHeader stands in front of every frame that the kernel gives or takes.
// Its offsets count from the Ethernet header.
type vnetHeader struct {
	flags, gsoType        uint8
	headerLen, gsoSize    uint16
	csumStart, csumOffset uint16
	// Only where gsoType has a tunnel.
	outerTransport, innerNetwork uint16
}

// decodeVnet reads the first vnetLen bytes of b.
func decodeVnet(b []byte) vnetHeader {
	_ = b[vnetLen-1]
	return vnetHeader{
		flags:          b[0],
		gsoType:        b[1],
		headerLen:      binary.LittleEndian.Uint16(b[2:]),
		gsoSize:        binary.LittleEndian.Uint16(b[4:]),
		csumStart:      binary.LittleEndian.Uint16(b[6:]),
		csumOffset:     binary.LittleEndian.Uint16(b[8:]),
		outerTransport: binary.LittleEndian.Uint16(b[20:]),
		innerNetwork:   binary.LittleEndian.Uint16(b[22:]),
	}
}

// encode writes vnetLen bytes.
func (h *vnetHeader) encode(b []byte) {
	clear(b[:vnetLen])
	b[0], b[1] = h.flags, h.gsoType
	binary.LittleEndian.PutUint16(b[2:], h.headerLen)
	binary.LittleEndian.PutUint16(b[4:], h.gsoSize)
	binary.LittleEndian.PutUint16(b[6:], h.csumStart)
	binary.LittleEndian.PutUint16(b[8:], h.csumOffset)
	binary.LittleEndian.PutUint16(b[20:], h.outerTransport)
	binary.LittleEndian.PutUint16(b[22:], h.innerNetwork)
}

// inner is the kind of segmentation without what is said of a tunnel.
func (h *vnetHeader) inner() uint8 {
	return h.gsoType &^ (gsoTunnel | unix.VIRTIO_NET_HDR_GSO_ECN)
}
