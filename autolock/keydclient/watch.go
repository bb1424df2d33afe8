package keydclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/wire"
)

// ErrLost is the cause of Watch.Wait's return when keyd went away.
var ErrLost = errors.New("keyd went away")

// WaitUnlocked returns when keyd is unlocked, at once if it is. On an empty
// keyd it fails with CODE_EMPTY, as there is nothing to wait for.
func (c *Client) WaitUnlocked(ctx context.Context) error {
	w := wire.NewClient(c.path)
	defer w.Close()
	resp, err := call(ctx, w, &keydpb.Request{Verb: &keydpb.Request_WaitUnlocked{WaitUnlocked: &keydpb.WaitUnlockedRequest{}}})
	if err == nil && resp.GetWaitUnlocked() == nil {
		err = errUnexpected
	}
	return err
}

// Watch is a connection that lives as long as the keyd process it was opened
// to.
type Watch struct {
	conn net.Conn
}

// Watch returns once a running keyd has answered. The caller closes it.
func (c *Client) Watch(ctx context.Context) (*Watch, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, fmt.Errorf("watching keyd: %w", err)
	}
	// The listening socket outlives keyd, so a connection may wait in its
	// queue while no keyd runs: only an answer proves that one does.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = wire.Write(conn, &keydpb.Request{Verb: &keydpb.Request_Status{Status: &keydpb.StatusRequest{}}})
	resp := new(keydpb.Response)
	if err == nil {
		err = wire.Read(conn, resp)
	}
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err == nil && resp.GetStatus() == nil {
		err = errUnexpected
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("watching keyd: %w", err)
	}
	return &Watch{conn: conn}, nil
}

// Wait blocks until keyd goes away and then returns an error that is ErrLost,
// or until ctx ends and then returns ctx's error. It is called once.
func (w *Watch) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [1]byte
	_, err := w.conn.Read(b[:])
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return fmt.Errorf("%w: it sent something unasked", ErrLost)
	case errors.Is(err, io.EOF):
		return ErrLost
	default:
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
}

// Close ends the watch.
func (w *Watch) Close() error { return w.conn.Close() }
