package raftstore

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// streamLayer gives raft the caller's connections. Raft calls servers by their
// address of the form id@host:port, so the caller's Dial knows whom to expect.
//
// It keeps every open connection, in both directions: raft's transport leaves
// accepted ones open when it is closed, and a store that is closed must not go
// on listening to its peers.
type streamLayer struct {
	net.Listener
	transport Transport

	ctx    context.Context // ends dialling when closed
	cancel context.CancelFunc

	mu     sync.Mutex // guards conns and closed
	conns  map[*trackedConn]struct{}
	closed bool
}

func newStreamLayer(t Transport) *streamLayer {
	ctx, cancel := context.WithCancel(context.Background())
	return &streamLayer{Listener: t.Listener, transport: t, ctx: ctx, cancel: cancel, conns: map[*trackedConn]struct{}{}}
}

// trackedConn is a connection the layer knows of until it is closed.
type trackedConn struct {
	net.Conn
	layer *streamLayer
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

func (s *streamLayer) track(c net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	t := &trackedConn{Conn: c, layer: s}
	s.conns[t] = struct{}{}
	return t, nil
}

// Accept implements net.Listener.
func (s *streamLayer) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.track(c)
}

// Dial implements raft.StreamLayer.
func (s *streamLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	c, err := s.transport.Dial(ctx, string(addr))
	if err != nil {
		return nil, err
	}
	return s.track(c)
}

// Close implements net.Listener. It closes the connections as well.
func (s *streamLayer) Close() error {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	conns := s.conns
	s.conns = map[*trackedConn]struct{}{}
	s.mu.Unlock()
	err := ignoreClosed(s.Listener.Close())
	for c := range conns {
		_ = c.Conn.Close() // it is being thrown away: there is nobody to tell
	}
	return err
}

// Addr implements net.Listener: what raft calls itself.
func (s *streamLayer) Addr() net.Addr { return advertised(s.transport.Advertise) }

type advertised string

func (a advertised) Network() string { return "redoubt-raft" }
func (a advertised) String() string  { return string(a) }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
