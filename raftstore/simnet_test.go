package raftstore_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// simNet is a network in memory that behaves as TCP does over a bad one: what
// is sent arrives late, in order, or, while a direction is blocked, not until
// it is open again; connections are broken off; nobody home is refused at once,
// and a blocked host is not heard of at all. All waiting is on channels, so
// that it works in a synctest bubble.
type simNet struct {
	mu      sync.Mutex // guards everything below, and every simConn
	rand    *rand.Rand
	delay   time.Duration           // the most that one message is late
	blocked map[[2]string]bool      // from, to
	homes   map[string]*simListener // by id
	conns   map[*simConn]struct{}   // both ends of each open connection
	changed chan struct{}           // closed and replaced when blocked changes
	meddler simMeddler
}

func newSimNet(seed uint64) *simNet {
	return &simNet{
		rand: rand.New(rand.NewPCG(seed, 2)), blocked: map[[2]string]bool{}, homes: map[string]*simListener{},
		conns: map[*simConn]struct{}{}, changed: make(chan struct{}),
	}
}

func (n *simNet) wakeLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// block stops, or opens again, the direction from one id to another.
func (n *simNet) block(from, to string, blocked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocked[[2]string{from, to}] = blocked
	n.wakeLocked()
}

// split separates one side from the other.
func (n *simNet) split(one, other []string) {
	for _, a := range one {
		for _, b := range other {
			n.block(a, b, true)
			n.block(b, a, true)
		}
	}
}

// heal opens every direction.
func (n *simNet) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.blocked)
	n.wakeLocked()
}

// reset breaks off every connection of id, or all where it is empty; what is
// under way is lost.
func (n *simNet) reset(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if id == "" || c.from == id || c.to == id {
			c.closeLocked()
			c.peer.closeLocked()
		}
	}
}

// die closes id's ends of its connections: what it had sent still arrives.
func (n *simNet) die(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.from == id {
			c.closeLocked()
		}
	}
}

// simListener is a host's home in the network.
type simListener struct {
	net     *simNet
	id      string
	backlog chan *simConn
	closed  chan struct{}
	once    sync.Once
	allowed func(string) bool // set before the first connection may come
	ready   chan struct{}     // closed when allowed is set
}

// home makes id reachable and returns its transport.
func (n *simNet) home(id string) (*simListener, raftstore.Transport) {
	l := &simListener{net: n, id: id, backlog: make(chan *simConn, 64), closed: make(chan struct{}), ready: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.homes[id] = l
	return l, raftstore.Transport{
		Listener: l, Advertise: raftstore.JoinAddr(id, id+":1"),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return n.dial(ctx, l, addr) },
	}
}

func (l *simListener) allow(f func(string) bool) { l.allowed = f; close(l.ready) }

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case <-l.ready:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		select {
		case c := <-l.backlog:
			if !l.allowed(c.to) {
				_ = c.Close()
				continue
			}
			return c, nil
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

func (l *simListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.net.homes[l.id] == l {
		delete(l.net.homes, l.id)
	}
	return nil
}

func (l *simListener) Addr() net.Addr { return simAddr(l.id) }

type simAddr string

func (simAddr) Network() string  { return "sim" }
func (a simAddr) String() string { return string(a) }

// dial is for who still has that home.
func (n *simNet) dial(ctx context.Context, home *simListener, addr string) (net.Conn, error) {
	from := home.id
	to, _, err := raftstore.SplitAddr(addr)
	if err != nil {
		return nil, err
	}
	for {
		n.mu.Lock()
		if n.homes[from] != home {
			n.mu.Unlock()
			return nil, net.ErrClosed
		}
		if !n.blocked[[2]string{from, to}] && !n.blocked[[2]string{to, from}] {
			break
		}
		changed := n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer n.mu.Unlock()
	l := n.homes[to]
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "sim", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	a, b := n.newConn(from, to), n.newConn(to, from)
	a.peer, b.peer = b, a
	b.answers, a.rested = true, true
	select {
	case l.backlog <- b:
	default:
		return nil, errors.New("sim: the backlog is full")
	}
	n.conns[a], n.conns[b] = struct{}{}, struct{}{}
	return a, nil
}

func (n *simNet) newConn(from, to string) *simConn {
	return &simConn{net: n, from: from, to: to, wake: make(chan struct{})}
}

// simConn is one end of a connection, that of the host from.
type simConn struct {
	net      *simNet
	from, to string
	peer     *simConn
	answers  bool // it was dialled

	// Guarded by net.mu.
	asked    byte       // the kind of message that was begun last, of the end that dialled
	rested   bool       // it was answered, or nothing was asked yet
	in       []simChunk // what the peer sent
	wake     chan struct{}
	deadline time.Time
	closed   bool
}

// PeerID implements raftstore.PeerConn.
func (c *simConn) PeerID() string { return c.to }

type simChunk struct {
	at   time.Time
	data []byte
}

func (c *simConn) wakeLocked() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// closeLocked closes this end; the other one gets what is under way to it first.
func (c *simConn) closeLocked() {
	if !c.closed {
		c.closed = true
		c.wakeLocked()
		c.peer.wakeLocked()
		delete(c.net.conns, c)
	}
}

func (c *simConn) Read(p []byte) (int, error) {
	n := c.net
	for {
		n.mu.Lock()
		var due time.Time
		held := n.blocked[[2]string{c.to, c.from}]
		now := time.Now()
		switch {
		case c.closed:
			n.mu.Unlock()
			return 0, net.ErrClosed
		case !c.deadline.IsZero() && !now.Before(c.deadline):
			n.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(c.in) > 0 && !held && !c.in[0].at.After(now):
			k := copy(p, c.in[0].data)
			if c.in[0].data = c.in[0].data[k:]; len(c.in[0].data) == 0 {
				c.in = c.in[1:]
			}
			n.mu.Unlock()
			return k, nil
		case len(c.in) > 0 && !held:
			due = c.in[0].at
		case c.peer.closed && !held:
			n.mu.Unlock()
			return 0, io.EOF
		}
		if !c.deadline.IsZero() && (due.IsZero() || c.deadline.Before(due)) {
			due = c.deadline
		}
		wake, changed := c.wake, n.changed
		n.mu.Unlock()
		if due.IsZero() {
			select {
			case <-wake:
			case <-changed:
			}
			continue
		}
		t := time.NewTimer(due.Sub(now))
		select {
		case <-wake:
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

func (c *simConn) Write(p []byte) (int, error) {
	n := c.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed || c.peer.closed {
		return 0, net.ErrClosed
	}
	late, lost := n.meddler.meddleLocked(c, p)
	if lost {
		c.closeLocked()
		c.peer.closeLocked()
		return len(p), nil
	}
	at := time.Now().Add(late)
	if n.delay > 0 {
		at = at.Add(time.Duration(n.rand.Int64N(int64(n.delay))))
	}
	if k := len(c.peer.in); k > 0 && at.Before(c.peer.in[k-1].at) {
		at = c.peer.in[k-1].at // in order
	}
	c.peer.in = append(c.peer.in, simChunk{at, append([]byte(nil), p...)})
	c.peer.wakeLocked()
	return len(p), nil
}

func (c *simConn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.closeLocked()
	return nil
}

func (c *simConn) SetDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.deadline = t
	c.wakeLocked()
	return nil
}

func (c *simConn) SetReadDeadline(t time.Time) error  { return c.SetDeadline(t) }
func (c *simConn) SetWriteDeadline(t time.Time) error { return nil } // a write never waits
func (c *simConn) LocalAddr() net.Addr                { return simAddr(c.from) }
func (c *simConn) RemoteAddr() net.Addr               { return simAddr(c.to) }
