package fasttap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// A sender is what one Send needs; several may run.
type sender struct {
	msgs []mmsghdr
	body []message
	iov  []unix.Iovec
	call func(fd uintptr) bool

	// Of the Send that runs.
	used, sent int
	err        error
}

func newSender() *sender {
	s := &sender{msgs: make([]mmsghdr, batchSize), body: make([]message, batchSize), iov: make([]unix.Iovec, 0, batchSize)}
	s.call = s.sendAll
	return s
}

// Send sends messages, each a datagram, to an endpoint.
func (b *bind) Send(bufs [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if len(bufs) > batchSize {
		return fmt.Errorf("%d messages at once: at most %d", len(bufs), batchSize)
	}
	b.mu.RLock()
	s := b.v4
	if !e.Addr().Is4() {
		s = b.v6
	}
	b.mu.RUnlock()
	if s == nil {
		return unix.EAFNOSUPPORT
	}
	q := b.pool.Get().(*sender)
	defer b.pool.Put(q)
	gso := s.gso.Load()
	err := q.send(s, bufs, e, gso)
	if err != nil && e.src.Load() != nil && sourceGone(err) {
		// The address of ours that the peer spoke to is not ours any more, or
		// cannot reach it: the kernel knows better.
		e.ClearSrc()
		bufs = bufs[q.datagrams():]
		err = q.send(s, bufs, e, gso)
	}
	if err != nil && gso && (errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL)) {
		// The way takes less than the link: the kernel divides packets, but not
		// those that it is to cut from a larger message.
		bufs = bufs[q.datagrams():]
		err = q.send(s, bufs, e, false)
	}
	if err != nil && gso && errors.Is(err, unix.EIO) {
		// The device cannot compute checksums.
		s.gso.Store(false)
		err = q.send(s, bufs[q.datagrams():], e, false)
	}
	return err
}

func sourceGone(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// datagrams is how many buffers were sent.
func (q *sender) datagrams() (n int) {
	for i := range q.sent {
		n += len(q.body[i].iov)
	}
	return n
}

func (q *sender) send(s *socket, bufs [][]byte, e *endpoint, gso bool) error {
	q.pack(bufs, e, s.v6, gso)
	q.sent, q.err = 0, nil
	err := s.raw.Write(q.call)
	if err == nil {
		err = q.err
	}
	clear(q.iov)
	return err
}

// pack makes as few system messages of bufs as there can be: one of each row of
// buffers of equal length, of which the last may be shorter.
func (q *sender) pack(bufs [][]byte, e *endpoint, v6, gso bool) {
	q.iov, q.used = q.iov[:0], 0
	limit := maxSegmentsBytes4
	if v6 {
		limit = maxSegmentsBytes6
	}
	src := e.src.Load()
	for len(bufs) > 0 {
		size, total, n := len(bufs[0]), len(bufs[0]), 1
		for gso && size > 0 && n < len(bufs) && n < maxSegments && len(bufs[n-1]) == size &&
			len(bufs[n]) <= size && len(bufs[n]) > 0 && total+len(bufs[n]) <= limit {
			total += len(bufs[n])
			n++
		}
		m := &q.body[q.used]
		first := len(q.iov)
		for _, b := range bufs[:n] {
			v := unix.Iovec{Base: unsafe.SliceData(b)}
			v.SetLen(len(b))
			q.iov = append(q.iov, v)
		}
		m.iov = q.iov[first:]
		control := putSource(m.control[:], src)
		if n > 1 {
			control += putSegment(m.control[control:], size)
		}
		m.point(&q.msgs[q.used], m.setName(e.AddrPort, v6), control)
		q.used++
		bufs = bufs[n:]
	}
}

// sendAll is called with the descriptor; false asks to be called again when the
// kernel takes more.
func (q *sender) sendAll(fd uintptr) bool {
	for q.sent < q.used {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&q.msgs[q.sent])), uintptr(q.used-q.sent), 0, 0, 0)
		switch errno {
		case 0:
			q.sent += int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			q.err = fmt.Errorf("send: %w", errno)
			return true
		}
	}
	return true
}

// scopeOf is the interface that an IPv6 zone names, by number or by name.
func scopeOf(a netip.Addr) uint32 {
	zone := a.Zone()
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}

func withScope(a netip.Addr, scope uint32) netip.Addr {
	return a.WithZone(strconv.FormatUint(uint64(scope), 10))
}
