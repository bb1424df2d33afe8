package authz

import (
	"context"
	"net"
	"slices"
	"sync"

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
	node   string
	conn   net.Conn // nil where there is none to close
}

func (l *liveCalls) add(ctx context.Context, method string) *liveCall {
	c := &liveCall{method: method}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(*ConnInfo); ok {
			c.conn = info.conn
			if info.Peer != nil {
				c.node = info.Peer.NodeID
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

// of returns the calls of those nodes; nil stands for all nodes.
func (l *liveCalls) of(nodes []string) []*liveCall {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*liveCall
	for c := range l.calls {
		if nodes == nil || slices.Contains(nodes, c.node) {
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

// Run follows the node records until ctx ends and cuts the streams of callers
// who would no longer be admitted. It returns nil when ctx ended.
func (a *Authorizer) Run(ctx context.Context) error {
	err := a.cfg.Directory.Changes(ctx, a.recheck)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *Authorizer) recheck(nodes []string) {
	for _, c := range a.live.of(nodes) {
		if _, err := a.admit(c.ctx, c.method); err != nil {
			a.cfg.Logger.Warn("cut a stream", "method", c.method, "node", c.node, "reason", status.Convert(err).Message())
			c.cut(err)
		}
	}
	if a.cfg.Changed != nil {
		a.cfg.Changed(nodes)
	}
}
