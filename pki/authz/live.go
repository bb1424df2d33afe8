package authz

import (
	"context"
	"net"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// liveCalls are the streams under way of callers with a certificate.
type liveCalls struct {
	mu    sync.Mutex // guards calls
	calls map[*liveCall]struct{}
}

type liveCall struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	method string
	of     string   // the subject whose certificate it came with
	conn   net.Conn // nil where there is none to close

	mu   sync.Mutex // guards the rest
	id   Identity
	acts []Act // what an operator's request does, once it was judged
}

func (l *liveCalls) add(ctx context.Context, method string) *liveCall {
	c := &liveCall{method: method}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(*ConnInfo); ok {
			c.conn = info.conn
			if info.Peer != nil {
				c.of = info.Peer.Subject()
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls == nil {
		l.calls = map[*liveCall]struct{}{}
	}
	l.calls[c] = struct{}{}
	return c
}

func (l *liveCalls) remove(c *liveCall) {
	c.cancel(nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, c)
}

// did says what the call does.
func (c *liveCall) did(id Identity, acts []Act) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id, c.acts = id, acts
}

// of returns the calls of those subjects; nil stands for all.
func (l *liveCalls) of(subjects []string) []*liveCall {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*liveCall
	for c := range l.calls {
		if subjects == nil || slices.Contains(subjects, c.of) {
			out = append(out, c)
		}
	}
	return out
}

// cut ends the call and closes its connection: a handler that waits in Recv
// looks at nothing else.
func (c *liveCall) cut(cause error) {
	c.cancel(cause)
	switch conn := c.conn.(type) {
	case nil:
	case interface{ Abort() }: // closes without waiting for the peer
		conn.Abort()
	default:
		conn.Close()
	}
}

// Run follows the records, and what the Judge says, until ctx ends and cuts the
// streams of callers who would no longer be admitted. It returns nil when ctx ended.
func (a *Authorizer) Run(ctx context.Context) error {
	g, ctx2 := errgroup.WithContext(ctx)
	g.Go(func() error { return a.cfg.Directory.Changes(ctx2, a.recheck) })
	if j := a.cfg.Judge; j != nil {
		g.Go(func() error { return j.Changes(ctx2, func() { a.rejudge(ctx2) }) })
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// rejudge ends the streams of operators who may not have them any more. Others may
// share the connection.
func (a *Authorizer) rejudge(ctx context.Context) {
	for _, c := range a.live.of(nil) {
		c.mu.Lock()
		id, acts := c.id, c.acts
		c.mu.Unlock()
		if acts == nil {
			continue
		}
		if err := a.cfg.Judge.Judge(ctx, id, acts); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("cut a stream", "method", c.method, "caller", id.String(), "reason", status.Convert(err).Message())
			c.cancel(err)
		}
	}
}

func (a *Authorizer) recheck(subjects []string) {
	for _, c := range a.live.of(subjects) {
		if _, err := a.admit(c.ctx, c.method); err != nil {
			a.cfg.Logger.Warn("cut a stream", "method", c.method, "of", c.of, "reason", status.Convert(err).Message())
			c.cut(err)
		}
	}
	if a.cfg.Changed != nil {
		a.cfg.Changed(subjects)
	}
}
