package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/quietlog"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// Connections to the socket for users: so many together, and so many of one user. One
// that comes when these are used up takes the place of that user's oldest, or of the
// oldest of whoever has most.
const (
	maxUserConns = 256
	maxConnsEach = 32
)

// serveUsers serves the socket for users of this machine, and what comes in this process
// on behalf of them, until ctx ends: the operator API by way of the leader, who knows each
// by name and machine. They have the group of
// this process, which the supervisor gave it.
func (n *Node) serveUsers(ctx context.Context, l net.Listener, more ...net.Listener) error {
	az := authz.New(authz.Config{Carries: true, Refused: n.refusedHere, Logger: n.log})
	quiet := quietlog.New(n.log)
	refused := func(err error) { quiet.Warn("users.sock", "refused a user", "reason", err) }
	ls := append([]net.Listener{crowded{l, strangers.NewCrowd(maxUserConns, maxConnsEach)}}, more...)
	return n.serveOperators(ctx, ls, az, az.UserServerOptions(uint32(os.Getegid()), userName, refused), proxy{n.dialLeader, n.direct}, func(*grpc.Server) {})
}

// userName is the name that the machine's user database has for uid.
func userName(uid uint32) (string, error) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return "", fmt.Errorf("no user has that uid: roles are given to names")
	}
	return u.Username, nil
}

// crowded closes connections where there are too many.
type crowded struct {
	net.Listener
	crowd *strangers.Crowd
}

// Accept implements net.Listener.
func (l crowded) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uc, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			continue
		}
		cred, err := peercred.Of(uc)
		if err != nil {
			conn.Close()
			continue
		}
		give := l.crowd.Take(strconv.FormatUint(uint64(cred.Uid), 10), func() { conn.Close() })
		return &counted{uc, give}, nil
	}
}

// counted gives its place back when it is closed.
type counted struct {
	*net.UnixConn
	give func()
}

// NetConn is the connection itself.
func (c *counted) NetConn() net.Conn { return c.UnixConn }

// Close implements net.Conn.
func (c *counted) Close() error {
	c.give()
	return c.UnixConn.Close()
}
