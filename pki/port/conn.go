package port

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// Conn is a connection whose handshake is done and whose peer was admitted. It
// is an authz.Conn.
type Conn struct {
	*tls.Conn
	alpn string
	peer *authz.Peer
	via  *authz.Peer // the follower that spliced it, or nil
	raw  net.Conn    // the TCP connection at the bottom

	// bounded: the peer has no certificate, or is there only to be told why it
	// is refused.
	bounded bool
	budget  atomic.Int64 // bytes a bounded peer may still send
	expiry  *time.Timer  // ends a bounded connection; nil for others
	release func()       // gives back what the connection counts against
	once    sync.Once
	err     error // of the first Close; guarded by once
}

// Peer returns the verified peer, or nil for a caller without a certificate.
func (c *Conn) Peer() *authz.Peer { return c.peer }

// PeerID is the node id of the verified peer, or nothing.
func (c *Conn) PeerID() string {
	if c.peer == nil {
		return ""
	}
	return c.peer.NodeID
}

// NotAfter is when the peer's certificate ends.
func (c *Conn) NotAfter() time.Time { return notAfter(c.Conn) }

// notAfter is the end of the certificate that the other side showed; far away
// where it showed none.
func notAfter(c *tls.Conn) time.Time {
	if shown := c.ConnectionState().PeerCertificates; len(shown) > 0 {
		return shown[0].NotAfter
	}
	return time.Now().AddDate(1, 0, 0)
}

var errBudget = errors.New("a caller without a valid certificate sent too much")

// Read bounds what a caller without a valid certificate may send in all,
// whatever protocol runs above.
func (c *Conn) Read(b []byte) (int, error) {
	if !c.bounded {
		return c.Conn.Read(b)
	}
	left := c.budget.Load()
	if left <= 0 {
		return 0, errBudget
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), left)])
	c.budget.Add(-int64(n))
	return n, err
}

// Close closes the connection and forgets it.
func (c *Conn) Close() error {
	c.once.Do(func() {
		if c.expiry != nil {
			c.expiry.Stop()
		}
		c.err = c.Conn.Close()
		c.release()
	})
	return c.err
}

// Abort closes the connection without taking leave. Close tells the peer, and
// a peer that does not read can make that take seconds; Abort never waits.
func (c *Conn) Abort() {
	c.raw.Close()
	c.Close()
}

// listener hands out the connections of one protocol.
type listener struct {
	port *Port
	alpn string
	ch   chan *Conn // unbuffered, so that a closed listener holds none
	done chan struct{}
	once sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.port.unlisten(l)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.port.cfg.Listener.Addr() }

// deliver gives c to whoever accepts, or reports that nobody did.
func (l *listener) deliver(c *Conn) bool {
	timer := time.NewTimer(deliverTimeout)
	defer timer.Stop()
	select {
	case l.ch <- c:
		return true
	case <-l.done:
	case <-timer.C:
	}
	return false
}
