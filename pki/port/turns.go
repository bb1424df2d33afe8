package port

import (
	"container/list"
	"context"
	"net"
	"sync"
)

// turns bounds how many handshakes compute at a time. Hundreds at once, as when
// all nodes come to a new leader, would each get a little of the processor and
// all be late together, raft's heartbeats and its leadership with them. Who waits
// for bytes holds no turn, and who has begun goes before who has not.
//
// Of those that have not begun the newest goes first. Where they are more than
// can be served, those at the other end have been given up by their callers, or
// are about to make room for others: served in the order of their coming, a crowd
// of thousands is served too late, all of it, for as long as it comes again. Where
// there is no crowd the order makes no difference.
type turns struct {
	mu     sync.Mutex
	free   int
	queues [2]list.List // of chan struct{}: begun, new
}

const (
	queueBegun = iota
	queueNew
)

func newTurns(n int) *turns { return &turns{free: n} }

// take waits for a turn. give gives it back.
func (t *turns) take(ctx context.Context, queue int) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{}) // closed under mu by give, which hands its turn on
	e := t.queues[queue].PushBack(mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-mine: // it came at the same moment
		t.pass()
	default:
		t.queues[queue].Remove(e)
	}
	return ctx.Err()
}

func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass hands a turn to the next in the queues. The caller holds mu.
func (t *turns) pass() {
	e, q := t.queues[queueBegun].Front(), &t.queues[queueBegun]
	if e == nil {
		e, q = t.queues[queueNew].Back(), &t.queues[queueNew]
	}
	if e == nil {
		t.free++
		return
	}
	close(q.Remove(e).(chan struct{}))
}

// turned is a connection during its handshake: it holds a turn but while it reads
// or writes. Its one goroutine is the handshake's.
type turned struct {
	net.Conn
	turns *turns // nil: the handshake is over, or takes no turns
	ctx   context.Context
	held  bool
}

// begin takes the first turn.
func (c *turned) begin(queue int) error {
	err := c.turns.take(c.ctx, queue)
	c.held = err == nil
	return err
}

// end gives the turn back for good.
func (c *turned) end() {
	c.rest()
	c.turns, c.ctx = nil, nil
}

func (c *turned) rest() {
	if c.held {
		c.held = false
		c.turns.give()
	}
}

func (c *turned) Read(b []byte) (int, error)  { return c.during(c.Conn.Read, b) }
func (c *turned) Write(b []byte) (int, error) { return c.during(c.Conn.Write, b) }

func (c *turned) during(do func([]byte) (int, error), b []byte) (int, error) {
	if c.turns == nil {
		return do(b)
	}
	c.rest()
	n, err := do(b)
	if err != nil {
		return n, err
	}
	return n, c.begin(queueBegun)
}
