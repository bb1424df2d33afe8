// Package peercred says who is at the other end of a unix socket, as the
// kernel recorded it at connect (SO_PEERCRED), and wraps a listener so that
// only the named uids are accepted.
package peercred

import (
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

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
