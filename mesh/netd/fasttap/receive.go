package fasttap

import (
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// A receiver is one receive function: one goroutine calls it.
//
// The kernel gives many datagrams of one length as one message (UDP GRO). It is
// asked to put it into as many buffers, cut at the length that was last seen:
// where that was right, each datagram is where it belongs. Where it was not, the
// message is copied together and cut again.
type receiver struct {
	socket  *socket
	msgs    [receiveCalls]mmsghdr
	body    [receiveCalls]message
	whole   []byte // a message that is cut again
	segment int    // length expected of each datagram
	call    func(fd uintptr) bool
	last    *endpoint // whoever sent last, with
	seen    source    // the address of ours

	n     int // messages received
	errno unix.Errno
}

func newReceiver(s *socket) *receiver {
	r := &receiver{socket: s, segment: minPredicted, whole: make([]byte, 0, 2*maxPacket)}
	for i := range r.body {
		r.body[i].iov = make([]unix.Iovec, maxSegments)
	}
	r.call = r.once
	return r
}

func (r *receiver) once(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(len(r.msgs)), 0, 0, 0)
		r.n, r.errno = int(n), errno
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		return true
	}
}

// receive is a conn.ReceiveFunc. Not all buffers up to the returned one are
// used; the size of the others is 0.
func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	if len(bufs) < batchSize || len(sizes) < len(bufs) || len(eps) < len(bufs) {
		return 0, fmt.Errorf("%d buffers to receive into: there must be %d", len(bufs), batchSize)
	}
	for i := range r.body {
		m, slots := &r.body[i], bufs[i*maxSegments:(i+1)*maxSegments]
		for j, b := range slots {
			m.iov[j].Base = unsafe.SliceData(b)
			// The last takes what nobody expected.
			if j < maxSegments-1 {
				b = b[:min(r.segment, len(b))]
			}
			m.iov[j].SetLen(len(b))
		}
		m.point(&r.msgs[i], unix.SizeofSockaddrInet6, controlLen)
	}
	err := r.socket.raw.Read(r.call)
	if err != nil {
		return 0, net.ErrClosed
	}
	if r.errno != 0 {
		return 0, fmt.Errorf("receive: %w", r.errno)
	}
	expected := r.segment
	for i := range r.n {
		at := i * maxSegments
		r.place(i, expected, bufs[at:at+maxSegments], sizes[at:at+maxSegments], eps[at:at+maxSegments])
	}
	return r.n * maxSegments, nil
}

// place looks at message i, which was cut at expected bytes, and makes each
// datagram the content of one buffer.
func (r *receiver) place(i, expected int, bufs [][]byte, sizes []int, eps []conn.Endpoint) {
	clear(sizes)
	h, m := &r.msgs[i], &r.body[i]
	n := int(h.n)
	if h.Flags&unix.MSG_TRUNC != 0 || n == 0 {
		return // longer than any message can be, or empty
	}
	segment, src := parseControl(m.control[:min(int(h.Controllen), controlLen)])
	if segment == 0 || segment > n {
		segment = n
	}
	if segment >= minPredicted {
		r.segment = segment
	}
	e := r.endpoint(m.from(r.socket.v6), src)
	if segment == expected || n <= expected && segment == n {
		for j := 0; j < len(bufs) && n > 0; j++ {
			sizes[j], eps[j] = min(n, segment), e
			n -= sizes[j]
		}
		return
	}
	r.whole = r.whole[:0]
	for j, b := range bufs {
		part := min(n-len(r.whole), expected, len(b))
		if j == len(bufs)-1 {
			part = min(n-len(r.whole), len(b))
		}
		r.whole = append(r.whole, b[:part]...)
	}
	rest := r.whole
	for j := 0; j < len(bufs) && len(rest) > 0; j++ {
		k := copy(bufs[j], rest[:min(segment, len(rest))])
		sizes[j], eps[j] = k, e
		rest = rest[k:]
	}
}

// endpoint makes one, or gives the last one again, as mostly the same peer goes
// on sending.
func (r *receiver) endpoint(from netip.AddrPort, src source) *endpoint {
	if r.last != nil && r.last.AddrPort == from && r.seen == src && (r.last.src.Load() != nil) == src.addr.IsValid() {
		return r.last
	}
	e := &endpoint{AddrPort: from}
	if src.addr.IsValid() {
		e.src.Store(&src)
	}
	r.last, r.seen = e, src
	return e
}
