package peer

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// half is one direction of a connection as the kernel has it: what is written waits
// in a buffer until it is read. net.Pipe's has none, and whoever closes it loses
// what the other has not read.
type half struct {
	mu       sync.Mutex
	cond     *sync.Cond
	buf      bytes.Buffer
	over     bool // nothing more is written
	expired  bool
	deadline *time.Timer
	left     *int // bytes that are still let through; nil: all
}

// limit ends the direction after so many more bytes.
func (h *half) limit(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = &n
}

func newHalf() *half {
	h := &half{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.buf.Len() == 0 && !h.over && !h.expired {
		h.cond.Wait()
	}
	switch {
	case h.expired:
		return 0, os.ErrDeadlineExceeded
	case h.buf.Len() == 0:
		return 0, io.EOF
	}
	return h.buf.Read(b)
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return 0, net.ErrClosed
	}
	h.cond.Broadcast()
	if h.left != nil {
		n := min(len(b), *h.left)
		h.buf.Write(b[:n])
		if *h.left -= n; n < len(b) {
			h.over = true
			return n, net.ErrClosed
		}
		return n, nil
	}
	return h.buf.Write(b)
}

func (h *half) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	if h.deadline != nil {
		h.deadline.Stop()
	}
	h.cond.Broadcast()
}

func (h *half) setDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deadline != nil {
		h.deadline.Stop()
	}
	h.expired = false
	if t.IsZero() || h.over {
		return
	}
	h.deadline = time.AfterFunc(time.Until(t), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.expired = true
		h.cond.Broadcast()
	})
}

type buffered struct{ in, out *half }

func newPipe() (a, b *buffered) {
	x, y := newHalf(), newHalf()
	return &buffered{x, y}, &buffered{y, x}
}

func (c *buffered) Read(b []byte) (int, error)         { return c.in.read(b) }
func (c *buffered) Write(b []byte) (int, error)        { return c.out.write(b) }
func (c *buffered) Close() error                       { c.in.end(); c.out.end(); return nil }
func (c *buffered) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (c *buffered) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (c *buffered) SetDeadline(t time.Time) error      { c.in.setDeadline(t); return nil }
func (c *buffered) SetReadDeadline(t time.Time) error  { c.in.setDeadline(t); return nil }
func (c *buffered) SetWriteDeadline(t time.Time) error { return nil }
