package raftstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// PeerConn is what Transport.Listener returns: a connection of a peer whose
// identity was verified. Connections of both directions may also have a method
// NotAfter() time.Time, the end of the certificates they rest on: they do not
// outlive it.
type PeerConn interface {
	net.Conn
	// PeerID is the node id that the peer proved.
	PeerID() string
}

// streamLayer gives raft the caller's connections. Raft calls servers by their
// address of the form id@host:port, so the caller's Dial knows whom to expect.
//
// It keeps every open connection, in both directions: raft's transport leaves
// accepted ones open when it is closed, a peer that is removed must be cut off
// at once, and the end of a leader's connection is news.
type streamLayer struct {
	transport Transport
	lost      func(peer string) // an accepted connection ended that we did not close

	ctx    context.Context // ends dialling when closed
	cancel context.CancelFunc

	mu     sync.Mutex // guards conns and closed
	conns  map[*trackedConn]struct{}
	closed bool
}

func newStreamLayer(t Transport, lost func(string)) *streamLayer {
	ctx, cancel := context.WithCancel(context.Background())
	return &streamLayer{transport: t, lost: lost, ctx: ctx, cancel: cancel, conns: map[*trackedConn]struct{}{}}
}

// trackedConn is a connection the layer knows of until it is closed.
type trackedConn struct {
	net.Conn
	layer    *streamLayer
	peer     string
	accepted bool
	expiry   *time.Timer // nil: it may stay for ever
}

// Read implements net.Conn.
func (c *trackedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.accepted && c.layer.forget(c) {
		c.layer.lost(c.peer)
	}
	return n, err
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.layer.forget(c)
	if c.expiry != nil {
		c.expiry.Stop()
	}
	return c.Conn.Close()
}

// forget reports whether c was still known.
func (s *streamLayer) forget(c *trackedConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.conns[c]
	delete(s.conns, c)
	return known
}

func (s *streamLayer) track(c net.Conn, peer string, accepted bool) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	t := &trackedConn{Conn: c, layer: s, peer: peer, accepted: accepted}
	if e, ok := c.(interface{ NotAfter() time.Time }); ok {
		life := time.Until(e.NotAfter())
		if !accepted { // the dialler goes first, at a time of its own, and dials again
			life = time.Duration(float64(life) * (minConnLife + (maxConnLife-minConnLife)*rand.Float64()))
		}
		t.expiry = time.AfterFunc(life, func() { _ = t.Close() }) // it ends either way
	}
	s.conns[t] = struct{}{}
	return t, nil
}

// Accept returns the next connection and who it is from.
func (s *streamLayer) Accept() (net.Conn, string, error) {
	for {
		c, err := s.transport.Listener.Accept()
		if err != nil {
			return nil, "", err
		}
		p, ok := c.(PeerConn)
		if !ok || p.PeerID() == "" {
			_ = c.Close() // nobody knows who it is
			continue
		}
		t, err := s.track(c, p.PeerID(), true)
		return t, p.PeerID(), err
	}
}

// Dial connects to a server.
func (s *streamLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, _, err := SplitAddr(string(addr))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	c, err := s.transport.Dial(ctx, string(addr))
	if err != nil {
		return nil, err
	}
	return s.track(c, id, false)
}

// cut closes the connections of the peers that match.
func (s *streamLayer) cut(match func(peer string) bool) {
	s.mu.Lock()
	var out []*trackedConn
	for c := range s.conns {
		if match(c.peer) {
			out = append(out, c)
			delete(s.conns, c) // by our will: no news
		}
	}
	s.mu.Unlock()
	for _, c := range out {
		_ = c.Close() // it is being thrown away: there is nobody to tell
	}
}

// Close ends dialling, the listener and every connection.
func (s *streamLayer) Close() error {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err := ignoreClosed(s.transport.Listener.Close())
	s.cut(func(string) bool { return true })
	return err
}

type advertised string

func (a advertised) Network() string { return "redoubt-raft" }
func (a advertised) String() string  { return string(a) }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
