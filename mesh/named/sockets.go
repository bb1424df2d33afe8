package named

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// pair are the sockets of one sandbox.
type pair struct {
	udp   *net.UDPConn
	tcp   *net.TCPListener
	netns uint64
}

func (p pair) close() {
	p.udp.Close()
	p.tcp.Close()
}

// ownNetns is the cookie of the network namespace that named runs in.
var ownNetns = sync.OnceValues(func() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
})

// takePair makes what was passed into a pair. It does not believe that they are
// what they should be: a mistake over there must not make named serve the node's
// own network. The files stay the caller's.
func takePair(files []*os.File) (pair, error) {
	if len(files) != 2 {
		return pair{}, fmt.Errorf("%d sockets were passed, not a UDP and a TCP one", len(files))
	}
	own, err := ownNetns()
	if err != nil {
		return pair{}, fmt.Errorf("own network namespace: %w", err)
	}
	netns, udpAt, err := inspect(files[0], unix.SOCK_DGRAM)
	if err != nil {
		return pair{}, fmt.Errorf("UDP socket: %w", err)
	}
	other, tcpAt, err := inspect(files[1], unix.SOCK_STREAM)
	if err != nil {
		return pair{}, fmt.Errorf("TCP socket: %w", err)
	}
	switch {
	case netns == own || other == own:
		return pair{}, errors.New("the sockets are in the node's own network namespace")
	case netns != other || udpAt != tcpAt:
		return pair{}, errors.New("the sockets are in two network namespaces, or at two addresses")
	}
	pc, err := net.FilePacketConn(files[0])
	if err != nil {
		return pair{}, err
	}
	l, err := net.FileListener(files[1])
	if err != nil {
		pc.Close()
		return pair{}, err
	}
	udp, ok := pc.(*net.UDPConn)
	tcp, also := l.(*net.TCPListener)
	if !ok || !also {
		pc.Close()
		l.Close()
		return pair{}, errors.New("the sockets are not UDP and TCP")
	}
	return pair{udp, tcp, netns}, nil
}

// inspect returns where a socket is: namespace and loopback address.
func inspect(f *os.File, kind int) (netns uint64, at unix.SockaddrInet4, err error) {
	raw, err := f.SyscallConn() // not Fd, which may make what netd shares with us block
	if err != nil {
		return 0, at, err
	}
	if cerr := raw.Control(func(fd uintptr) { netns, at, err = inspectFD(int(fd), kind) }); cerr != nil {
		err = cerr
	}
	return netns, at, err
}

func inspectFD(fd, kind int) (netns uint64, at unix.SockaddrInet4, err error) {
	have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return 0, at, err
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return 0, at, err
	}
	if have != kind || (listens == 1) != (kind == unix.SOCK_STREAM) {
		return 0, at, errors.New("it is of another type, or does not listen")
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, at, err
	}
	in4, ok := sa.(*unix.SockaddrInet4)
	if !ok || in4.Addr[0] != 127 || in4.Port == 0 {
		return 0, at, errors.New("it is not bound to an address of 127.0.0.0/8")
	}
	netns, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return netns, unix.SockaddrInet4{Addr: in4.Addr, Port: in4.Port}, err
}
