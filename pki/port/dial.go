package port

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/raftstore"
)

// DialGRPC connects to the first of the managers that answers and returns a
// client over that one connection. When the connection is lost its calls fail
// with Unavailable, and the caller dials again; the order of addrs and the
// pace are the caller's.
func DialGRPC(ctx context.Context, creds *pki.Credentials, addrs []string, opts ...grpc.DialOption) (*pki.GRPCConn, error) {
	if len(addrs) == 0 {
		return nil, errors.New("no manager's address is known")
	}
	var failed error
	for _, addr := range addrs {
		conn, err := pki.DialTLS(ctx, addr, creds.ClientConfig(pki.ALPNGRPC, ""))
		if err == nil {
			return pki.GRPCOver(conn, opts...)
		}
		if failed == nil {
			failed = err
		} else {
			failed = fmt.Errorf("%w; %w", failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("no manager can be reached: %w", failed)
}

// DialLeaderLocal connects a manager's local root to the leader.
func DialLeaderLocal(ctx context.Context, creds *pki.Credentials, leader Leader, opts ...grpc.DialOption) (*pki.GRPCConn, error) {
	if leader.NodeID == "" || leader.Address == "" {
		return nil, errNoLeader
	}
	conn, err := pki.DialTLS(ctx, leader.Address, creds.ClientConfig(pki.ALPNLocal, leader.NodeID))
	if err != nil {
		return nil, fmt.Errorf("the leader cannot be reached: %w", err)
	}
	return pki.GRPCOver(conn, opts...)
}

// RaftDialer returns what raftstore.Transport dials with. Addresses are
// "id@host:port", and only the node of that id is accepted there.
func RaftDialer(creds *pki.Credentials) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		id, hostport, err := raftstore.SplitAddr(addr)
		if err != nil {
			return nil, err
		}
		if err := pki.CheckAddress(hostport); err != nil {
			return nil, err
		}
		return pki.DialTLS(ctx, hostport, creds.ClientConfig(pki.ALPNRaft, id))
	}
}
