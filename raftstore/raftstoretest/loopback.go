package raftstoretest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// Loopback returns a transport over TCP on the loopback interface, with its
// address. A dialler says its id, which everybody believes: what a certificate
// would prove is not what these tests are about.
func Loopback(t testing.TB, id string) (tr raftstore.Transport, hostport string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return raftstore.Transport{
		Listener: named{l}, Advertise: raftstore.JoinAddr(id, l.Addr().String()),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			_, hostport, err := raftstore.SplitAddr(addr)
			if err != nil {
				return nil, err
			}
			c, err := new(net.Dialer).DialContext(ctx, "tcp", hostport)
			if err != nil {
				return nil, err
			}
			if _, err := fmt.Fprintln(c, id); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return c, nil
		},
	}, l.Addr().String()
}

// named takes what a dialler says for its identity.
type named struct{ net.Listener }

// Accept implements net.Listener.
func (l named) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		r := bufio.NewReader(c)
		id, err := r.ReadString('\n')
		if err != nil {
			_ = c.Close()
			continue
		}
		return &namedConn{c, r, strings.TrimSpace(id)}, nil
	}
}

type namedConn struct {
	net.Conn
	r  *bufio.Reader
	id string
}

// Read implements net.Conn.
func (c *namedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// PeerID implements raftstore.PeerConn.
func (c *namedConn) PeerID() string { return c.id }
