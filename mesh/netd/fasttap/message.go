package fasttap

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg and sendmmsg.
type mmsghdr struct {
	unix.Msghdr
	n uint32
}

// Room for what the kernel says beside a message: a segment size, and to which
// address of ours it came.
const controlLen = 128

// A message is one element of mmsghdr with all that it points to.
type message struct {
	iov     []unix.Iovec
	name    unix.RawSockaddrInet6 // the longest; IPv4 uses its beginning
	control [controlLen]byte
}

// point makes h refer to m.
func (m *message) point(h *mmsghdr, nameLen uint32, controlLen int) {
	h.Name = (*byte)(unsafe.Pointer(&m.name))
	h.Namelen = nameLen
	h.Iov = unsafe.SliceData(m.iov)
	h.SetIovlen(len(m.iov))
	h.Control = nil
	if controlLen > 0 {
		h.Control = &m.control[0]
	}
	h.SetControllen(controlLen)
	h.Flags = 0
}

// setName writes the address that a message is for, and returns its length.
func (m *message) setName(to netip.AddrPort, v6 bool) uint32 {
	m.name = unix.RawSockaddrInet6{}
	if !v6 {
		n := (*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name))
		n.Family = unix.AF_INET
		n.Addr = to.Addr().As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&n.Port))[:], to.Port())
		return unix.SizeofSockaddrInet4
	}
	m.name.Family = unix.AF_INET6
	m.name.Addr = to.Addr().As16()
	m.name.Scope_id = scopeOf(to.Addr())
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&m.name.Port))[:], to.Port())
	return unix.SizeofSockaddrInet6
}

// from is the address that a message came from.
func (m *message) from(v6 bool) netip.AddrPort {
	if !v6 {
		n := (*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name))
		return netip.AddrPortFrom(netip.AddrFrom4(n.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&n.Port))[:]))
	}
	a := netip.AddrFrom16(m.name.Addr)
	if m.name.Scope_id != 0 {
		a = withScope(a, m.name.Scope_id)
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&m.name.Port))[:]))
}

// putSource asks for a source address, and returns what follows in the control
// message.
func putSource(b []byte, s *source) int {
	if s == nil {
		return 0
	}
	if s.addr.Is4() {
		p := (*unix.Inet4Pktinfo)(unsafe.Pointer(&putControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)[0]))
		*p = unix.Inet4Pktinfo{Ifindex: int32(s.index), Spec_dst: s.addr.As4()}
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	p := (*unix.Inet6Pktinfo)(unsafe.Pointer(&putControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)[0]))
	*p = unix.Inet6Pktinfo{Ifindex: s.index, Addr: s.addr.As16()}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// putSegment asks for segments of a size.
func putSegment(b []byte, size int) int {
	*(*uint16)(unsafe.Pointer(&putControl(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)[0])) = uint16(size)
	return unix.CmsgSpace(2)
}

func putControl(b []byte, level, kind int32, n int) (data []byte) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return b[unix.CmsgLen(0):]
}

// parseControl reads what the kernel says beside a message.
func parseControl(b []byte) (segment int, src source) {
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return segment, src
		}
		b = rest
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 2:
			segment = int(binary.NativeEndian.Uint16(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// Not the interface: the route may change.
			src.addr = netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			src.addr = netip.AddrFrom16([16]byte(data[:16]))
			if src.addr.IsLinkLocalUnicast() {
				src.index = binary.NativeEndian.Uint32(data[16:])
			}
		}
	}
	return segment, src
}
