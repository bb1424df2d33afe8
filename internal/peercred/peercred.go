// Package peercred says who is at the other end of a unix socket, as the
// kernel recorded it at connect (SO_PEERCRED), and wraps a listener so that
// only the named uids are accepted.
package peercred

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is how many a process can have (NGROUPS_MAX).
const maxGroups = 65536

// Of returns the credentials of conn's peer.
func Of(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return nil, err
	}
	return cred, inner
}

// InGroup reports whether the peer was in that group when it connected: its own, or
// one of the others it had.
func InGroup(conn *net.UnixConn, gid uint32) (bool, error) {
	cred, err := Of(conn)
	if err != nil || cred.Gid == gid {
		return err == nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var groups []uint32
	var inner error
	err = raw.Control(func(fd uintptr) { groups, inner = groupsOf(int(fd)) })
	return slices.Contains(groups, gid), errors.Join(err, inner)
}

// groupsOf are the supplementary groups of the peer (SO_PEERGROUPS), as of its
// connect. What /proc says of its pid would be of now, and of whoever has that pid.
func groupsOf(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno != unix.ERANGE || len(groups) > maxGroups:
			return nil, errno
		}
		groups = make([]uint32, 2*maxGroups)
	}
}

// Listener hands out only connections whose peer runs as one of uids; others
// are closed at once and reported to denied, which may be nil.
func Listener(l net.Listener, denied func(error), uids ...uint32) net.Listener {
	return &listener{l, denied, uids}
}

type listener struct {
	net.Listener
	denied func(error)
	uids   []uint32
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err = l.check(conn); err == nil {
			return conn, nil
		}
		conn.Close()
		if l.denied != nil {
			l.denied(err)
		}
	}
}

func (l *listener) check(conn net.Conn) error {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("not a unix socket: %T", conn)
	}
	cred, err := Of(uc)
	if err != nil {
		return err
	}
	if !slices.Contains(l.uids, cred.Uid) {
		return fmt.Errorf("uid %d (pid %d) may not use this socket", cred.Uid, cred.Pid)
	}
	return nil
}

// Named hands out connections whose remote address says the peer's uid, for servers
// that show their handlers the address and nothing else of a connection.
func Named(l net.Listener) net.Listener { return named{l} }

type named struct{ net.Listener }

func (l named) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if uc, ok := conn.(*net.UnixConn); ok {
		if cred, err := Of(uc); err == nil {
			return &namedConn{uc, uidAddr(cred.Uid)}, nil
		}
	}
	return conn, nil // of whom nothing is known
}

type namedConn struct {
	*net.UnixConn
	peer uidAddr
}

func (c *namedConn) RemoteAddr() net.Addr { return c.peer }

type uidAddr uint32

func (uidAddr) Network() string  { return "unix" }
func (a uidAddr) String() string { return fmt.Sprintf("uid %d", uint32(a)) }

// UID is the uid of the peer of a connection from Named, by its remote address.
func UID(a net.Addr) (uid uint32, ok bool) {
	u, ok := a.(uidAddr)
	return uint32(u), ok
}
