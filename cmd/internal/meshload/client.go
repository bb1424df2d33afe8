package meshload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// What asks shares its processors with what is asked and the way in between. So
// requests are bytes that are made once, and answers are read with no more than
// it takes to see that they are whole: a tenth of what Go's HTTP client costs.

// A target is what is asked, and how.
type target struct {
	addr        netip.AddrPort
	fresh, kept []byte
	timeout     time.Duration
	dialer      net.Dialer
}

func newTarget(raw string, timeout time.Duration) (*target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	addr, err := netip.ParseAddrPort(host)
	if err != nil || u.Scheme != "http" {
		return nil, fmt.Errorf("meshload: %q is no URL of HTTP with an address in it", raw)
	}
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n", u.RequestURI(), u.Host)
	return &target{addr: addr, fresh: []byte(request + "Connection: close\r\n\r\n"), kept: []byte(request + "\r\n"), timeout: timeout,
		dialer: net.Dialer{KeepAlive: -1}}, nil
}

// A user keeps connections.
type user struct {
	t    *target
	mu   sync.Mutex // guards idle
	idle []*net.TCPConn
}

// trace is how far a request came.
type trace struct {
	local     string // where it was asked from
	connected time.Time
	retried   bool
}

var buffers = sync.Pool{New: func() any { return new([maxAnswer]byte) }}

// ask makes a request with a connection of its own. It is read until the server
// closes it, so that this end has none left to wait with.
func (t *target) ask(tr *trace) (body string, err error) {
	deadline := time.Now().Add(t.timeout)
	c, err := t.dial(tr, deadline)
	if err != nil {
		return "", err
	}
	defer c.Close()
	buf := buffers.Get().(*[maxAnswer]byte)
	defer buffers.Put(buf)
	if _, err := c.Write(t.fresh); err != nil {
		return "", err
	}
	n, err := io.ReadFull(c, buf[:])
	body, whole, bad := answer(buf[:n])
	switch {
	case bad != nil:
		return "", bad
	case whole: // however the connection ended then
		return body, nil
	case err == nil:
		err = errTooLong
	}
	return "", err
}

func (t *target) dial(tr *trace, deadline time.Time) (*net.TCPConn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	c, err := t.dialer.DialTCP(ctx, "tcp", netip.AddrPort{}, t.addr)
	if err != nil {
		return nil, err
	}
	tr.local, tr.connected = c.LocalAddr().String(), time.Now()
	return c, c.SetDeadline(deadline)
}

// ask makes a request with a connection that is kept, or begins to be. Where the
// server closed one under it and had answered nothing, it asks again with another,
// as HTTP has it.
func (u *user) ask(tr *trace) (body string, err error) {
	deadline := time.Now().Add(u.t.timeout)
	for {
		c, used := u.take()
		if c == nil {
			if c, err = u.t.dial(tr, deadline); err != nil {
				return "", err
			}
		} else if err := c.SetDeadline(deadline); err != nil {
			return "", err
		}
		body, begun, err := u.on(c)
		if err == nil {
			u.keep(c)
			return body, nil
		}
		c.Close()
		var ne net.Error
		if !used || begun || errors.As(err, &ne) && ne.Timeout() {
			return "", err
		}
		tr.retried = true
	}
}

// on asks on a connection; begun: something of an answer came.
func (u *user) on(c *net.TCPConn) (body string, begun bool, err error) {
	if _, err := c.Write(u.t.kept); err != nil {
		return "", false, err
	}
	buf := buffers.Get().(*[maxAnswer]byte)
	defer buffers.Put(buf)
	for n := 0; ; {
		k, err := c.Read(buf[n:])
		n += k
		body, whole, bad := answer(buf[:n])
		switch {
		case bad != nil:
			return "", true, bad
		case whole:
			return body, true, nil
		case err != nil:
			return "", n > 0, err
		case n == len(buf):
			return "", true, errTooLong
		}
	}
}

func (u *user) take() (c *net.TCPConn, used bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.idle); n > 0 {
		c, u.idle = u.idle[n-1], u.idle[:n-1]
	}
	return c, c != nil
}

func (u *user) keep(c *net.TCPConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) == maxIdle {
		c.Close()
		return
	}
	u.idle = append(u.idle, c)
}

func (u *user) close() {
	for c, _ := u.take(); c != nil; c, _ = u.take() {
		c.Close()
	}
}

var (
	errTooLong = fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	statusOK   = []byte("HTTP/1.1 200 ")
	headerEnd  = []byte("\r\n\r\n")
	length     = []byte("\r\nContent-Length: ")
)

// answer reads as much of one as there is.
func answer(b []byte) (body string, whole bool, err error) {
	header, rest, ok := bytes.Cut(b, headerEnd)
	if !ok {
		return "", false, nil
	}
	if !bytes.HasPrefix(header, statusOK) {
		line, _, _ := bytes.Cut(header, []byte("\r\n"))
		_, status, _ := bytes.Cut(line, []byte(" "))
		return "", true, fmt.Errorf("status %.3s", status)
	}
	_, value, _ := bytes.Cut(header, length)
	value, _, _ = bytes.Cut(value, []byte("\r\n"))
	n, err := strconv.Atoi(string(value))
	if err != nil || n < 0 || n > maxAnswer {
		return "", true, errors.New("an answer without its length")
	}
	if len(rest) < n {
		return "", false, nil
	}
	return string(rest[:n]), true, nil
}
