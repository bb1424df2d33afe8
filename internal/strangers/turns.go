package strangers

import (
	"container/list"
	"context"
	"net"
	"sync"
)

// Turns bounds how many handshakes compute at a time. Hundreds at once, as when
// all nodes come to a new leader, would each get a little of the processor and
// all be late together, raft's heartbeats and its leadership with them. Who waits
// for bytes holds no turn, and who has begun goes before who has not.
//
// Of those that have not begun the newest goes first. Where they are more than
// can be served, those at the other end have been given up by their callers, or
// are about to make room for others: served in the order of their coming, a crowd
// of thousands is served too late, all of it, for as long as it comes again. Where
// there is no crowd the order makes no difference.
type Turns struct {
	mu     sync.Mutex
	free   int
	queues [2]list.List // of chan struct{}: begun, new
}

// Who has begun goes before who is new.
const (
	Begun = iota
	New
)

// NewTurns returns n turns.
func NewTurns(n int) *Turns { return &Turns{free: n} }

// Take waits for a turn. Give gives it back.
func (t *Turns) Take(ctx context.Context, queue int) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{}) // closed under mu by pass, which hands its turn on
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

// Give hands a turn on.
func (t *Turns) Give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass hands a turn to the next in the queues. The caller holds mu.
func (t *Turns) pass() {
	e, q := t.queues[Begun].Front(), &t.queues[Begun]
	if e == nil {
		e, q = t.queues[New].Back(), &t.queues[New]
	}
	if e == nil {
		t.free++
		return
	}
	close(q.Remove(e).(chan struct{}))
}

// Idle is how many turns nobody holds.
func (t *Turns) Idle() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.free
}

// Waiting is how many wait in that queue.
func (t *Turns) Waiting(queue int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.queues[queue].Len()
}

// Turned is a connection during its handshake: it holds a turn but while it reads
// or writes. Its one goroutine is the handshake's.
type Turned struct {
	net.Conn
	turns *Turns // nil: the handshake is over, or takes no turns
	ctx   context.Context
	held  bool
}

// NewTurned returns a connection that waits for turns for as long as ctx lasts;
// with nil turns it takes none.
func NewTurned(ctx context.Context, conn net.Conn, turns *Turns) *Turned {
	return &Turned{Conn: conn, turns: turns, ctx: ctx}
}

// Begin takes the first turn.
func (c *Turned) Begin(queue int) error {
	if c.turns == nil {
		return nil
	}
	err := c.turns.Take(c.ctx, queue)
	c.held = err == nil
	return err
}

// End gives the turn back for good.
func (c *Turned) End() {
	c.rest()
	c.turns, c.ctx = nil, nil
}

func (c *Turned) rest() {
	if c.held {
		c.held = false
		c.turns.Give()
	}
}

func (c *Turned) Read(b []byte) (int, error)  { return c.during(c.Conn.Read, b) }
func (c *Turned) Write(b []byte) (int, error) { return c.during(c.Conn.Write, b) }

func (c *Turned) during(do func([]byte) (int, error), b []byte) (int, error) {
	if c.turns == nil {
		return do(b)
	}
	c.rest()
	n, err := do(b)
	if err != nil {
		return n, err
	}
	return n, c.Begin(Begun)
}
