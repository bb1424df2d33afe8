package image

import (
	"context"
	"errors"
	"io"
	"time"
)

// errStalled may go away by trying again.
var errStalled = errors.New("the registry sends too slowly: the transfer was given up")

// progress ends a response that does not get on. The time in which nobody reads
// does not count: what is slow then is this node.
type progress struct {
	body   io.ReadCloser
	cancel context.CancelCauseFunc // ends the request and with it a Read
	ctx    context.Context
	limit  time.Duration // for minProgress bytes
	left   time.Duration
	got    int
}

func (p *progress) Read(b []byte) (int, error) {
	start := time.Now()
	t := time.AfterFunc(p.left, func() { p.cancel(errStalled) })
	n, err := p.body.Read(b)
	t.Stop()
	p.left -= time.Since(start)
	if p.got += n; p.got >= minProgress {
		p.got, p.left = 0, p.limit
	}
	if err != nil && context.Cause(p.ctx) == errStalled {
		err = errStalled // also for EOF, which giving up may have caused
	}
	return n, err
}

func (p *progress) Close() error {
	defer p.cancel(nil)
	return p.body.Close()
}
