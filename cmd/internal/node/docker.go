package node

import (
	"context"
	"net"
	"os"
	"sync"

	"github.com/redoubt-cluster/redoubt/cmd/internal/apiclient"
	"github.com/redoubt-cluster/redoubt/cmd/internal/dockerapi"
	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/internal/quietlog"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// within is a listener whose connections are made in this process, each on behalf of the
// process at the other end of a unix socket.
type within struct {
	conns chan net.Conn
	close func()
	done  chan struct{} // closed by close
}

func newWithin() *within {
	w := &within{conns: make(chan net.Conn), done: make(chan struct{})}
	w.close = sync.OnceFunc(func() { close(w.done) })
	return w
}

// onBehalf is a connection that is judged by the socket it is for: whoever asks who is at
// the other end is told by the kernel, of that socket.
type onBehalf struct {
	net.Conn
	of *net.UnixConn
}

// NetConn is the socket that the connection is for.
func (c *onBehalf) NetConn() net.Conn { return c.of }

// dial makes a connection for the process at the other end of uc.
func (w *within) dial(ctx context.Context, uc *net.UnixConn) (net.Conn, error) {
	near, far := net.Pipe()
	var err error
	select {
	case w.conns <- &onBehalf{far, uc}:
		return near, nil
	case <-w.done:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	near.Close()
	far.Close()
	return nil, err
}

// Accept implements net.Listener.
func (w *within) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (w *within) Close() error {
	w.close()
	return nil
}

// Addr implements net.Listener.
func (w *within) Addr() net.Addr { return &net.UnixAddr{Name: "docker.sock", Net: "unix"} }

// serveDocker serves the Docker Engine API until ctx ends. Root's calls go to the servers
// of the socket for root, all others' to those of the socket for users, who judge them.
func (n *Node) serveDocker(ctx context.Context, l net.Listener, root, users *within) error {
	gateway := dockerapi.New(dockerapi.Config{
		Operator: func(ctx context.Context, uid uint32, conn *net.UnixConn) (net.Conn, error) {
			if uid == 0 {
				return root.dial(ctx, conn)
			}
			return users.dial(ctx, conn)
		},
		Self: n.dockerSelf,
		Recipient: func(ctx context.Context) (*apiclient.Recipient, error) {
			st, err := n.keyd.Status(ctx)
			if err != nil {
				return nil, err
			}
			return apiclient.RecipientOf(st)
		},
		Log: n.log,
	})
	quiet := quietlog.New(n.log)
	return gateway.Serve(ctx, members{crowded{l, strangers.NewCrowd(maxUserConns, maxConnsEach)}, uint32(os.Getegid()),
		func(err error) { quiet.Warn("docker.sock", "refused a user", "reason", err) }})
}

// members lets in root and who is in the group, as api.sock and users.sock do, so that
// others are not even told what node this is.
type members struct {
	crowded
	gid     uint32
	refused func(error)
}

// Accept implements net.Listener.
func (l members) Accept() (net.Conn, error) {
	for {
		conn, err := l.crowded.Accept()
		if err != nil {
			return nil, err
		}
		if err := l.admit(conn.(*counted).UnixConn); err == nil {
			return conn, nil
		} else {
			l.refused(err)
		}
		conn.Close()
	}
}

func (l members) admit(uc *net.UnixConn) error {
	cred, err := peercred.Of(uc)
	if err != nil || cred.Uid == 0 {
		return err
	}
	return authz.CheckGroup(uc, l.gid)
}

func (n *Node) dockerSelf() dockerapi.Self {
	s, m := n.status(), n.who()
	return dockerapi.Self{Phase: s.phase, NodeID: m.NodeID, ClusterID: m.ClusterID, Manager: m.Manager, Address: m.Advertise, Managers: m.Managers, Message: s.message}
}
