package fasttap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// A bind is the sockets of wireguard-go. Many messages go to the kernel and come
// from it as one, as wireguard-go's own does it, but each is taken from its
// buffer and put into its buffer by the kernel: nothing is copied in between.
type bind struct {
	mu   sync.RWMutex // guards the sockets
	v4   *socket
	v6   *socket
	pool sync.Pool // of *sender
}

// NewBind makes what device.NewDevice wants beside an interface. Sockets are
// opened in the network namespace of the process.
func NewBind() conn.Bind {
	return &bind{pool: sync.Pool{New: func() any { return newSender() }}}
}

// A socket is one address family of a bind.
type socket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	v6   bool
	// gso: the kernel cuts what is sent; until it says that it cannot.
	gso atomic.Bool
}

// An endpoint is where a peer is, and the address of ours that it was seen to
// speak to, from which it is answered.
type endpoint struct {
	netip.AddrPort
	src atomic.Pointer[source]
}

// A source is an address of ours, with the interface where the address means
// nothing without.
type source struct {
	addr  netip.Addr
	index uint32
}

func (e *endpoint) ClearSrc()           { e.src.Store(nil) }
func (e *endpoint) DstToString() string { return e.AddrPort.String() }
func (e *endpoint) DstIP() netip.Addr   { return e.AddrPort.Addr() }
func (e *endpoint) SrcToString() string { return e.SrcIP().String() }

func (e *endpoint) DstToBytes() []byte {
	b, _ := e.AddrPort.MarshalBinary() // cannot fail
	return b
}

func (e *endpoint) SrcIP() netip.Addr {
	if s := e.src.Load(); s != nil {
		return s.addr
	}
	return netip.Addr{}
}

func (*bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &endpoint{AddrPort: netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}, nil
}

func (*bind) BatchSize() int { return batchSize }

// Open listens on all addresses, on one port of both families. A machine may
// lack one of them.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.v4 != nil || b.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	for attempt := 0; ; attempt++ {
		v4, v6, err := listenBoth(port)
		if err == nil {
			b.v4, b.v6 = v4, v6
			break
		}
		// Somebody else may have the one port that is free in the other family.
		if port != 0 || attempt == maxBindAttempts || !errors.Is(err, unix.EADDRINUSE) {
			return nil, 0, err
		}
	}
	var fns []conn.ReceiveFunc
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			fns = append(fns, newReceiver(s).receive)
			port = s.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		}
	}
	return fns, port, nil
}

func listenBoth(port uint16) (v4, v6 *socket, err error) {
	if v4, err = listen("udp4", port); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil, err
	}
	if v4 != nil {
		port = v4.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	v6, err = listen("udp6", port)
	if err == nil || v4 != nil && errors.Is(err, unix.EAFNOSUPPORT) {
		return v4, v6, nil
	}
	if v4 != nil {
		v4.conn.Close()
	}
	return nil, nil, err
}

func listen(network string, port uint16) (*socket, error) {
	s := &socket{v6: network == "udp6"}
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = s.configure(int(fd)) }); e != nil {
			return e
		}
		return err
	}}
	c, err := cfg.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	s.conn = c.(*net.UDPConn)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) configure(fd int) error {
	// Less than asked for is slower, and no failure.
	for _, opt := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, socketBuffer)
	}
	if s.v6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fmt.Errorf("keep IPv4 out of an IPv6 socket: %w", err)
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1); err != nil {
			return fmt.Errorf("ask for destination addresses: %w", err)
		}
	} else if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
		return fmt.Errorf("ask for destination addresses: %w", err)
	} else if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_OMIT); err != nil {
		// Packets fit the links of both ends. Where the way between takes less, its
		// routers divide them; with "do not fragment" they would drop them, and not
		// all say so. Nor does anybody who claims to be one shrink the way.
		return fmt.Errorf("let routers divide packets: %w", err)
	}
	// Without these, messages go and come one by one.
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	s.gso.Store(err == nil)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	return nil
}

// SetMark marks what is sent.
func (b *bind) SetMark(mark uint32) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, s := range []*socket{b.v4, b.v6} {
		if s == nil {
			continue
		}
		var err error
		if e := s.raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		}); e != nil || err != nil {
			return fmt.Errorf("mark what WireGuard sends: %w", errors.Join(e, err))
		}
	}
	return nil
}

// Close ends what waits in the receive functions.
func (b *bind) Close() (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range []*socket{b.v4, b.v6} {
		if s != nil {
			err = errors.Join(err, s.conn.Close())
		}
	}
	b.v4, b.v6 = nil, nil
	return err
}
