// Package wire frames protobuf messages over a stream: a 4-byte big-endian
// length, then that many bytes. It is how redoubtd speaks to keyd and netd, which
// must not link gRPC, over local sockets, and to its peers in the mesh over TLS.
//
// A Client's connection carries one request and one response at a time. Frames are
// bounded; unknown fields, trailing bytes and truncated frames are errors. The
// package authenticates nobody: see peercred.
package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/strictpb"
)

// MaxFrame bounds a frame's payload in bytes.
const MaxFrame = 8 << 20

// wipedFrame is the largest payload in bytes of which no copy is left behind.
const wipedFrame = 64 << 10

// ErrFrame is the cause of every refusal of what the other side sent.
var ErrFrame = errors.New("malformed frame")

// Write sends m as one frame.
func Write(w io.Writer, m proto.Message) error {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(make([]byte, 4, 512), m)
	if err != nil {
		return err
	}
	defer clear(b)
	if len(b)-4 > MaxFrame {
		return fmt.Errorf("message of %d bytes exceeds the frame limit of %d", len(b)-4, MaxFrame)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err = w.Write(b)
	return err
}

// Read receives one frame into m. io.EOF means the other side closed between
// frames.
func Read(r io.Reader, m proto.Message) error { return ReadUpTo(r, m, MaxFrame) }

// ReadUpTo is Read for frames of at most that many bytes.
func ReadUpTo(r io.Reader, m proto.Message, most uint32) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: truncated length", ErrFrame)
		}
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > most {
		return fmt.Errorf("%w: %d bytes exceed the limit of %d", ErrFrame, n, most)
	}
	b, err := readPayload(r, int(n))
	defer clear(b)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %v", ErrFrame, err)
	}
	if t := strictpb.Unknown(m); t != "" {
		return fmt.Errorf("%w: unknown field in %s", ErrFrame, t)
	}
	return nil
}

// readPayload reads n bytes. A small payload, as all that hold keys are, goes
// into one buffer that the caller can wipe; a large one grows as it comes, so
// that a length alone takes no memory.
func readPayload(r io.Reader, n int) ([]byte, error) {
	if n > wipedFrame {
		b, err := io.ReadAll(io.LimitReader(r, int64(n)))
		if err == nil && len(b) < n {
			err = fmt.Errorf("%w: truncated", ErrFrame)
		}
		return b, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return b, fmt.Errorf("%w: truncated", ErrFrame)
	} else if err != nil {
		return b, err
	}
	return b, nil
}

// Client sends requests one at a time over one connection and dials again
// after a failure. It is safe for concurrent use.
type Client struct {
	path string

	turn chan struct{} // capacity 1: one call at a time; guards conn
	conn net.Conn      // nil until the first call and after a failure
}

// NewClient returns a client of the unix socket at path; it dials lazily.
func NewClient(path string) *Client { return &Client{path: path, turn: make(chan struct{}, 1)} }

// Call sends req and receives into resp. When ctx ends first the connection
// is dropped, as an answer may be under way.
func (c *Client) Call(ctx context.Context, req, resp proto.Message) (err error) {
	select { // also the wait for another call ends with ctx
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.turn }()
	if c.conn == nil {
		var d net.Dialer
		if c.conn, err = d.DialContext(ctx, "unix", c.path); err != nil {
			return err
		}
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			err = errors.Join(err, ctx.Err())
			conn.Close()
			c.conn = nil
		}
	}()
	if err := Write(conn, req); err != nil {
		return err
	}
	if err := Read(conn, resp); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// Close drops the connection; a later Call dials again.
func (c *Client) Close() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}
