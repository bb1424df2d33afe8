package fasttap

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// A merger makes super-packets of the packets of one batch. What it makes of
// them, the kernel would take apart into exactly the same bytes.
type merger struct {
	vxlanPort uint16 // 0: tunnels are not looked into
	udp       bool   // the kernel takes UDP super-packets

	items []item // in the order in which they are written
	used  int
	open  []int // of items, those that another packet may join; oldest first
	spare []byte
}

// An item is one frame for the kernel.
type item struct {
	first  []byte
	more   [][]byte // the packets that joined it
	shape  shape
	common []byte // first's headers, see shape.common
	gso    int    // payload of each packet but the last
	seq    uint32 // expected next
	length int    // with all payloads
	flags  byte   // the last TCP header's
	// sound: the first packet's checksums are verified, which is done when
	// somebody wants to join it; bad: they are wrong.
	sound, bad bool
}

// reset forgets the batch before; nothing of its packets is referred to any more.
func (m *merger) reset() {
	for i := range m.items[:m.used] {
		it := &m.items[i]
		clear(it.more)
		it.first, it.more = nil, it.more[:0]
	}
	m.used, m.open = 0, m.open[:0]
}

// push makes an item.
func (m *merger) push(pkt []byte) *item {
	if m.used == len(m.items) {
		m.items = append(m.items, item{})
	}
	it := &m.items[m.used]
	m.used++
	*it = item{first: pkt, more: it.more, common: it.common[:0], length: len(pkt)}
	return it
}

// add takes a packet. It must not change before the items were written.
func (m *merger) add(pkt []byte) {
	s, ok := shapeOf(pkt, m.vxlanPort)
	if !ok || !s.tcp && !m.udp {
		m.push(pkt)
		return
	}
	mergeable := s.mergeable(pkt)
	if mergeable {
		m.spare = s.common(m.spare, pkt)
	}
	for at, i := range m.open {
		it := &m.items[i]
		if !it.shape.near(s) || !s.sameFlow(it.first, pkt) {
			continue
		}
		if mergeable && it.shape == s && bytes.Equal(it.common, m.spare) && it.join(pkt) {
			if it.full(pkt) {
				m.open = slices.Delete(m.open, at, at+1)
			}
			return
		}
		// What comes later in a connection is not written earlier.
		m.open = slices.Delete(m.open, at, at+1)
		break
	}
	it := m.push(pkt)
	if !mergeable {
		return
	}
	it.shape, it.gso = s, len(pkt)-s.payload
	it.seq = s.seq(pkt) + uint32(it.gso)
	it.common = append(it.common, m.spare...)
	if it.last(pkt) {
		return
	}
	if len(m.open) == maxOpen {
		m.open = slices.Delete(m.open, 0, 1)
	}
	m.open = append(m.open, m.used-1)
}

// takeApart puts the packets of an item in its place, each as it came.
func (m *merger) takeApart(at int) {
	it := &m.items[at]
	parts := []item{{first: it.first}}
	for _, pkt := range it.more {
		parts = append(parts, item{first: pkt})
	}
	m.items = slices.Replace(m.items[:m.used], at, at+1, parts...)
	m.used, m.open = len(m.items), m.open[:0]
}

// near says whether two shapes differ in the length of TCP's options alone.
func (s shape) near(t shape) bool {
	s.payload = t.payload
	return s == t
}

// last says whether nothing may follow pkt in a super-packet.
func (it *item) last(pkt []byte) bool {
	return it.shape.tcp && pkt[it.shape.transport+13]&(flagFIN|flagPSH) != 0
}

// full says whether pkt, which has just joined, is the last one.
func (it *item) full(pkt []byte) bool {
	return it.last(pkt) || len(pkt)-it.shape.payload < it.gso || !it.shape.tcp && len(it.more)+1 == maxDatagrams
}

// join appends pkt, whose headers are like the first's, where it is the next.
func (it *item) join(pkt []byte) bool {
	s, steps := &it.shape, uint16(len(it.more)+1)
	payload := pkt[s.payload:]
	if len(payload) > it.gso || it.length+len(payload) > maxPacket ||
		s.tcp && s.seq(pkt) != it.seq ||
		s.tunnel && !s.outer.v6 && s.outer.id(pkt) != s.outer.id(it.first)+steps ||
		!s.inner.v6 && s.inner.id(pkt) != s.inner.id(it.first)+steps {
		return false
	}
	if !it.sound && !it.bad {
		it.sound = s.sound(it.first)
		it.bad = !it.sound
	}
	if it.bad || !s.sound(pkt) {
		return false // each by itself, for the receiver to judge
	}
	it.more = append(it.more, pkt)
	it.length += len(payload)
	it.seq += uint32(len(payload))
	if s.tcp {
		it.flags = pkt[s.transport+13]
	}
	return true
}

// head writes what stands before the payload of a merged item: the kernel's
// description, room for the Ethernet header, and the headers of the whole.
func (it *item) head(dst []byte) []byte {
	s := &it.shape
	dst = append(dst[:0], make([]byte, frontLen)...)
	dst = append(dst, it.first[:s.payload]...)
	h := vnetHeader{
		flags:      unix.VIRTIO_NET_HDR_F_NEEDS_CSUM,
		gsoType:    s.kind(),
		headerLen:  uint16(ethernetLen + s.payload),
		gsoSize:    uint16(it.gso),
		csumStart:  uint16(ethernetLen + s.transport),
		csumOffset: uint16(s.checksumAt() - s.transport),
	}
	if s.tunnel {
		h.outerTransport = uint16(ethernetLen + s.outer.end())
		h.innerNetwork = uint16(ethernetLen + s.inner.at)
		if s.outerChecksum {
			h.flags |= flagTunnelChecksum
		}
	}
	h.encode(dst)

	pkt := dst[frontLen:]
	proto := uint8(protoUDP)
	if s.tcp {
		proto = protoTCP
		pkt[s.transport+13] |= it.flags & (flagFIN | flagPSH)
	} else {
		binary.BigEndian.PutUint16(pkt[s.transport+4:], uint16(it.length-s.transport))
	}
	// The kernel adds what follows to the sum of the pseudo header.
	binary.BigEndian.PutUint16(pkt[s.checksumAt():], pseudo(s.inner.addrs(pkt), proto, it.length-s.transport))
	s.inner.set(pkt, it.length, 0)
	if s.tunnel {
		udp := pkt[s.outer.end():]
		binary.BigEndian.PutUint16(udp[4:], uint16(it.length-s.outer.end()))
		udp[udpChecksumAt], udp[udpChecksumAt+1] = 0, 0
		if s.outerChecksum {
			binary.BigEndian.PutUint16(udp[udpChecksumAt:], pseudo(s.outer.addrs(pkt), protoUDP, it.length-s.outer.end()))
		}
		s.outer.set(pkt, it.length, 0)
	}
	return dst
}
