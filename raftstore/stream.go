package raftstore

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// streamLayer gives raft the caller's connections. Raft calls servers by their
// address of the form id@host:port, so the caller's Dial knows whom to expect.
type streamLayer struct {
	net.Listener
	transport Transport
}

func newStreamLayer(t Transport) *streamLayer {
	return &streamLayer{Listener: t.Listener, transport: t}
}

// Dial implements raft.StreamLayer.
func (s *streamLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.transport.Dial(ctx, string(addr))
}

// Close implements net.Listener.
func (s *streamLayer) Close() error { return ignoreClosed(s.Listener.Close()) }

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
