package fasttap

import (
	"encoding/binary"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

// What the tests know of packets is written without the package's own helpers.

// slowSum is the checksum of RFC 1071, word by word.
func slowSum(parts ...[]byte) uint16 {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	var s uint64
	for i := 0; i < len(all); i += 2 {
		s += uint64(all[i])<<8 | uint64(all[i+1])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func be16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }

// A stream is a flow of which super-packets are made.
type stream struct {
	tunnel, v6, tcp bool
	outerChecksum   bool
	options         int // bytes of TCP options
	rnd             *rand.Rand
}

// ip puts an IP header in front of body.
func (f stream) ip(v6 bool, proto byte, addrs []byte, body []byte) []byte {
	if v6 {
		h := append([]byte{0x60, 0, 0, 1}, be16(len(body))...)
		h = append(h, proto, 64)
		return append(append(h, addrs[:32]...), body...)
	}
	h := append([]byte{0x45, 0}, be16(20+len(body))...)
	h = append(h, be16(f.rnd.IntN(1<<16))...)
	h = append(h, 0x40, 0, 64, proto, 0, 0)
	h = append(h, addrs[:8]...)
	binary.BigEndian.PutUint16(h[10:], ^slowSum(h))
	return append(h, body...)
}

func pseudoHeader(v6 bool, addrs []byte, proto byte, length int) []byte {
	if !v6 {
		addrs = addrs[:8]
	}
	return append(append([]byte{}, addrs...), append([]byte{0, proto}, be16(length)...)...)
}

// super makes what the kernel gives: a description and a frame.
func (f stream) super(gso, size int) (vnetHeader, []byte) {
	addrs := make([]byte, 32)
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(f.rnd.Uint32())
	}
	for i := range addrs {
		addrs[i] = byte(1 + f.rnd.IntN(200))
	}
	var l4 []byte
	proto, at := byte(17), 6
	if f.tcp {
		proto, at = 6, 16
		l4 = append(l4, 0x12, 0x34, 0, 80)
		l4 = binary.BigEndian.AppendUint32(l4, f.rnd.Uint32())
		l4 = binary.BigEndian.AppendUint32(l4, f.rnd.Uint32())
		flags := []byte{0x10, 0x18, 0x11, 0x50}[f.rnd.IntN(4)]
		l4 = append(l4, byte(20+f.options)/4<<4, flags, 1, 2, 0, 0, 0, 0)
		for range f.options {
			l4 = append(l4, 1)
		}
	} else {
		l4 = append([]byte{0x12, 0x34, 0, 53}, append(be16(8+size), 0, 0)...)
	}
	h := vnetHeader{flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, gsoSize: uint16(gso), csumOffset: uint16(at)}
	copy(l4[at:], be16(int(slowSum(pseudoHeader(f.v6, addrs, proto, len(l4)+size)))))
	switch {
	case !f.tcp:
		h.gsoType = unix.VIRTIO_NET_HDR_GSO_UDP_L4
	case f.v6:
		h.gsoType = unix.VIRTIO_NET_HDR_GSO_TCPV6
	default:
		h.gsoType = unix.VIRTIO_NET_HDR_GSO_TCPV4
	}
	transport, inner := 14+20, 14
	if f.v6 {
		transport = 14 + 40
	}
	headers := transport + len(l4)
	pkt := f.ip(f.v6, proto, addrs, append(l4, payload...))
	if f.tunnel {
		kind := []byte{0x08, 0}
		if f.v6 {
			kind = []byte{0x86, 0xdd}
		}
		vx := append([]byte{8, 0, 0, 0, 0, 0, 77, 0}, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2)
		vx = append(append(vx, kind...), pkt...)
		udp := append([]byte{0xc0, 1, 0x12, 0xb5}, append(be16(8+len(vx)), 0, 0)...)
		pkt = f.ip(false, 17, []byte{198, 18, 0, 1, 198, 18, 0, 2}, append(udp, vx...))
		h.gsoType |= gsoTunnel4
		inner, transport, headers = inner+50, transport+50, headers+50
		h.outerTransport, h.innerNetwork = 14+20, uint16(inner)
		if f.outerChecksum {
			h.flags |= flagTunnelChecksum
			copy(pkt[26:], be16(int(slowSum(pseudoHeader(false, pkt[12:20], 17, len(pkt)-20)))))
		}
	}
	h.headerLen, h.csumStart = uint16(headers), uint16(transport)
	kind := []byte{0x08, 0}
	if pkt[0]>>4 == 6 {
		kind = []byte{0x86, 0xdd}
	}
	return h, append(append([]byte{2, 3, 3, 3, 3, 3, 2, 0, 0, 0, 0, 1}, kind...), pkt...)
}

// maxPayload is what fits below 64 KiB with all headers.
const maxPayload = maxPacket - maxHeaders

func randomStream(rnd *rand.Rand) stream {
	f := stream{tunnel: rnd.IntN(3) > 0, outerChecksum: rnd.IntN(2) == 0, v6: rnd.IntN(2) == 0, tcp: rnd.IntN(4) > 0, rnd: rnd}
	if f.tcp {
		f.options = 4 * rnd.IntN(11)
	}
	return f
}

// cut takes a super-packet apart.
func cut(h vnetHeader, frame []byte) (pkts [][]byte, err error) {
	var s superPacket
	if err := s.begin(h, frame); err != nil {
		return nil, err
	}
	for s.pending() {
		dst := make([]byte, maxPacket)
		n, err := s.packet(dst)
		if err != nil {
			return nil, err
		}
		pkts = append(pkts, dst[:n])
	}
	return pkts, nil
}

// merged gives packets to a merger and returns the frames it makes of them, as
// they are given to the kernel.
func merged(m *merger, pkts [][]byte) (frames [][]byte) {
	defer m.reset()
	for _, p := range pkts {
		m.add(p)
	}
	for i := range m.items[:m.used] {
		it := &m.items[i]
		if len(it.more) == 0 {
			frames = append(frames, append(make([]byte, frontLen), it.first...))
			continue
		}
		f := append(it.head(nil), it.first[it.shape.payload:]...)
		for _, p := range it.more {
			f = append(f, p[it.shape.payload:]...)
		}
		frames = append(frames, f)
	}
	return frames
}

// apart is what the kernel makes of frames.
func apart(frames [][]byte) (pkts [][]byte, err error) {
	for _, f := range frames {
		h := decodeVnet(f)
		if h.gsoType == 0 {
			pkts = append(pkts, f[frontLen:])
			continue
		}
		more, err := cut(h, f[vnetLen:])
		if err != nil {
			return nil, err
		}
		pkts = append(pkts, more...)
	}
	return pkts, nil
}
