package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

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
	conn, err := firstOf(ctx, len(addrs), func(ctx context.Context, i int, reached func()) (*tls.Conn, error) {
		return pki.DialTLS(pki.OnReached(ctx, reached), addrs[i], creds.ClientConfig(pki.ALPNGRPC, ""))
	})
	if err != nil {
		return nil, fmt.Errorf("no manager can be reached: %w", err)
	}
	return pki.GRPCOver(conn, opts...)
}

// firstOf makes n attempts in order, the next one as soon as one failed, or
// hedgeDelay after the one before it, so that a manager that swallows packets
// costs no more than that. One that has taken the connection is given until
// busyDelay: it has many to shake hands with, and those who ask again elsewhere make it
// more for all. It returns the first connection made, and only after
// every attempt has ended.
func firstOf(ctx context.Context, n int, attempt func(ctx context.Context, i int, reached func()) (*tls.Conn, error)) (*tls.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		conn *tls.Conn
		err  error
	}
	results := make(chan result, n)
	var won *tls.Conn
	var failed error
	timer := time.NewTimer(hedgeDelay)
	defer timer.Stop()
	started, ended := 0, 0
	reached := make(chan int, n) // each attempt says it once
	start := func() {
		i := started
		started++
		go func() {
			conn, err := attempt(ctx, i, sync.OnceFunc(func() { reached <- i }))
			results <- result{conn, err}
		}()
		timer.Reset(hedgeDelay)
	}
	start()
	for ended < started {
		select {
		case r := <-results:
			ended++
			switch {
			case r.err == nil && won == nil:
				won = r.conn
				cancel() // the others end at once
			case r.err == nil:
				r.conn.Close()
			case failed == nil:
				failed = r.err
			default:
				failed = fmt.Errorf("%w; %w", failed, r.err)
			}
			if won == nil && started < n && ctx.Err() == nil {
				start()
			}
		case i := <-reached:
			if i == started-1 {
				timer.Reset(busyDelay)
			}
		case <-timer.C:
			if won == nil && started < n {
				start()
			}
		}
	}
	cancel()
	if won != nil {
		return won, nil
	}
	return nil, failed
}

// DialLeaderLocal connects a manager's local root to the leader, or its users: by
// ALPNLocal or ALPNUser.
func DialLeaderLocal(ctx context.Context, creds *pki.Credentials, alpn string, leader Leader, opts ...grpc.DialOption) (*pki.GRPCConn, error) {
	if leader.NodeID == "" || leader.Address == "" {
		return nil, errNoLeader
	}
	conn, err := pki.DialTLS(ctx, leader.Address, creds.ClientConfig(alpn, leader.NodeID))
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
		until := creds.Leaf().NotAfter
		conn, err := pki.DialTLS(ctx, hostport, creds.ClientConfig(pki.ALPNRaft, id))
		if err != nil {
			return nil, err
		}
		if peer := notAfter(conn); peer.Before(until) {
			until = peer
		}
		return raftConn{conn, until}, nil
	}
}

// raftConn is a connection that rests on two certificates until the first ends.
type raftConn struct {
	*tls.Conn
	until time.Time
}

// NotAfter is what raftstore.PeerConn describes.
func (c raftConn) NotAfter() time.Time { return c.until }
