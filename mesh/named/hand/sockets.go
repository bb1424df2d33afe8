package hand

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/named/namedpb"
)

// Addr is where a sandbox finds its names, over UDP and TCP.
const Addr = "127.0.0.11"

const (
	port    = 53
	backlog = 64
	// Bytes of queries that wait in a UDP socket.
	receiveBuffer = 256 << 10
	// The lowest port that anybody may bind, of a network namespace. The runtime
	// sets the same for every container.
	portStart = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
)

// errSandbox is of one sandbox, not of named.
var errSandbox = errors.New("sockets cannot be made in the sandbox")

// sockets are those of one sandbox.
type sockets struct {
	udp, tcp *os.File
	netns    uint64
}

// Close closes netd's copies.
func (s *sockets) Close() error { return errors.Join(s.udp.Close(), s.tcp.Close()) }

// send writes m, and the sockets with it unless s is nil.
func (s *sockets) send(conn *net.UnixConn, m *namedpb.Hand) error {
	if s == nil {
		return wire.Write(conn, m)
	}
	return wire.WriteFiles(conn, m, s.udp, s.tcp)
}

// listen makes the sockets of a sandbox, whose lo is up.
func listen(in In) (s *sockets, err error) {
	err = in(func() error {
		udp, err := bind(unix.SOCK_DGRAM)
		if err != nil {
			return err
		}
		tcp, err := bind(unix.SOCK_STREAM)
		if err != nil {
			udp.Close()
			return err
		}
		s = &sockets{udp: udp, tcp: tcp}
		if s.netns, err = ownCookie(); err != nil {
			s.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSandbox, err)
	}
	return s, nil
}

func bind(kind int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "names")
	at := &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 11}}
	if kind == unix.SOCK_STREAM { // connections of an earlier one that are still closing are no conflict
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err == nil {
		err = unix.Bind(fd, at)
	}
	if errors.Is(err, unix.EACCES) {
		if err = os.WriteFile(portStart, []byte("0"), 0); err == nil {
			err = unix.Bind(fd, at)
		}
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("bind %s:%d: %w", Addr, port, err)
	}
	return f, nil
}

// cookie identifies the sandbox's network namespace.
func cookie(in In) (c uint64, err error) {
	err = in(func() (err error) {
		c, err = ownCookie()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errSandbox, err)
	}
	return c, nil
}

func ownCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}
