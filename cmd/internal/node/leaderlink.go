package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/redoubt-cluster/redoubt/cmd/internal/control/apierr"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/port"
)

// leaderLink is the connection to the leader that all calls of the operator API
// share. A handshake belongs to no call: it is made once for all who wait for
// it, and goes on when they have lost patience. Otherwise, while a handshake
// takes longer than callers wait, each would break off what the one before
// had begun, and none would ever end.
type leaderLink struct {
	dial func(ctx context.Context, to port.Leader) (leaderClient, error)

	wg sync.WaitGroup // the attempts under way

	mu      sync.Mutex // guards the rest; never held while waiting
	to      port.Leader
	conn    leaderClient // nil: none
	attempt *attempt     // nil: none that counts
	closed  bool
}

// leaderClient is a client over one connection: *pki.GRPCConn.
type leaderClient interface {
	grpc.ClientConnInterface
	GetState() connectivity.State
	Close() error
}

// attempt is one handshake with a leader.
type attempt struct {
	to     port.Leader
	cancel context.CancelFunc
	done   chan struct{} // closed when conn and err are set
	conn   leaderClient
	err    error
}

// How long a handshake with the leader may take.
const leaderDial = 5 * time.Second

var errLinkClosed = errors.New("this manager is stopping")

// get returns a connection to that leader. It gives up with ctx, and when changed
// is closed, as there may be another leader then.
func (l *leaderLink) get(ctx context.Context, to port.Leader, changed <-chan struct{}) (leaderClient, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, errLinkClosed
	}
	if l.conn != nil && l.to == to {
		// A lost connection is idle: it never dials again.
		if st := l.conn.GetState(); st == connectivity.Ready || st == connectivity.Connecting {
			defer l.mu.Unlock()
			return l.conn, nil
		}
	}
	if l.attempt == nil || l.attempt.to != to {
		l.beginLocked(to)
	}
	a := l.attempt
	l.mu.Unlock()
	select {
	case <-a.done:
		return a.conn, a.err
	case <-changed:
		return nil, errors.New("the leader has changed")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *leaderLink) beginLocked(to port.Leader) {
	if l.attempt != nil {
		l.attempt.cancel()
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaderDial)
	a := &attempt{to: to, cancel: cancel, done: make(chan struct{})}
	l.attempt = a
	l.wg.Go(func() {
		defer close(a.done)
		defer cancel()
		conn, err := l.dial(ctx, to)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.attempt != a { // there is another leader, or this manager stops
			if err == nil {
				conn.Close()
			}
			a.err = errors.New("the leader has changed")
			return
		}
		l.attempt = nil
		if a.err = err; err != nil {
			return
		}
		if l.conn != nil {
			l.conn.Close()
		}
		a.conn, l.conn, l.to = conn, conn, to
	})
}

// follow ends the connection, and the handshake for one, that is not with that
// leader: calls under way to one that is gone would wait for it. Who heard of the
// new one sooner than it was followed keeps what he has.
func (l *leaderLink) follow(leader port.Leader) {
	l.end(func(to port.Leader) bool { return to != leader })
}

func (l *leaderLink) end(which func(to port.Leader) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.attempt != nil && which(l.attempt.to) {
		l.attempt.cancel()
		l.attempt = nil
	}
	if l.conn != nil && which(l.to) {
		l.conn.Close()
		l.conn = nil
	}
}

// close ends the connection for good.
func (l *leaderLink) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end(func(port.Leader) bool { return true })
	l.wg.Wait()
}

// How long a call waits for a leader, and looks for it again.
const (
	leaderWait  = 5 * time.Second
	leaderRetry = 100 * time.Millisecond
)

// newLinks are the connections to the leader that calls of local sockets go over, by
// protocol: root's and users' never share one.
func newLinks(m *managerState) map[string]*leaderLink {
	links := map[string]*leaderLink{}
	for _, alpn := range []string{pki.ALPNLocal, pki.ALPNUser} {
		links[alpn] = &leaderLink{dial: func(ctx context.Context, to port.Leader) (leaderClient, error) { return m.dialLeader(ctx, alpn, to) }}
	}
	return links
}

func (m *managerState) closeLinks() {
	for _, l := range m.links {
		l.close()
	}
}

// leaderConn returns a connection to the leader's operator API, by that protocol.
func (m *managerState) leaderConn(ctx context.Context, alpn string) (grpc.ClientConnInterface, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	for {
		changed := m.store.LeaderChanged()
		id, addr := m.store.Leader()
		conn, err := m.links[alpn].get(ctx, port.Leader{NodeID: id, Address: addr}, changed)
		if err == nil {
			return conn, nil
		}
		timer := time.NewTimer(leaderRetry)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, apierr.NoLeader()
		}
		timer.Stop()
	}
}

// dialLeader connects to the operator API of the leader under this manager's own
// certificate.
func (m *managerState) dialLeader(ctx context.Context, alpn string, to port.Leader) (leaderClient, error) {
	conn, err := port.DialLeaderLocal(ctx, m.creds, alpn, to, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err // not a nil *pki.GRPCConn
	}
	return conn, nil
}
