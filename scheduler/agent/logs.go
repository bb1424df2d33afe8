package agent

import (
	"context"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/scheduler/rund/rundpb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// logs forwards container output for the subscriptions of one session. Chunks
// are paced and wait in one bounded queue; when it is full rund waits, so
// nothing is lost on this side.
type logs struct {
	agent *agent
	out   chan *schedulerpb.LogChunk
	wg    sync.WaitGroup
	pace  chan struct{} // one sender at a time pays for its bytes; guards debt
	debt  time.Duration

	mu   sync.Mutex // guards subs
	subs map[string]context.CancelFunc
}

func newLogs(a *agent) *logs {
	return &logs{
		agent: a,
		out:   make(chan *schedulerpb.LogChunk, logQueue),
		pace:  make(chan struct{}, 1),
		subs:  map[string]context.CancelFunc{},
	}
}

// subscribe begins or cancels a subscription. What it cannot serve it answers
// with an error, so that no reader waits for ever.
func (l *logs) subscribe(ctx context.Context, r *schedulerpb.LogSubscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cancel, ok := l.subs[r.Id]; ok || r.Cancel {
		if ok && r.Cancel {
			cancel()
		}
		return
	}
	refusal := ""
	switch {
	case len(l.subs) >= maxSubscriptions:
		refusal = "this node is sending too many logs already: try again later"
	case len(r.TaskIds) > maxLogTasks:
		refusal = "too many tasks in one request for logs"
	}
	ctx, cancel := context.WithCancel(ctx)
	l.subs[r.Id] = cancel
	var tasks sync.WaitGroup
	for _, id := range r.TaskIds[:min(len(r.TaskIds), maxLogTasks)] {
		tasks.Go(func() { l.serve(ctx, r, id, refusal) })
	}
	l.wg.Go(func() {
		tasks.Wait()
		cancel()
		l.mu.Lock()
		delete(l.subs, r.Id)
		l.mu.Unlock()
	})
}

// wait returns when every forwarder has ended; the session's context is over.
func (l *logs) wait() { l.wg.Wait() }

// serve forwards one task's output and says when and why it ends.
func (l *logs) serve(ctx context.Context, r *schedulerpb.LogSubscription, task, refusal string) {
	last := &schedulerpb.LogChunk{Subscription: r.Id, TaskId: task, Eof: true, Error: refusal}
	l.agent.mu.Lock()
	assigned := l.agent.machine.has(task)
	l.agent.mu.Unlock()
	switch {
	case refusal != "":
	case !assigned:
		last.Error = "the task is not on this node"
	default:
		req := &rundpb.LogsRequest{TaskId: task, Follow: r.Follow, Since: r.Since, Until: r.Until, Tail: r.Tail}
		err := l.agent.Executor.Logs(ctx, req, func(c *rundpb.LogsResponse) error { return l.forward(ctx, r.Id, task, c) })
		if err != nil {
			last.Error = oneline.Text(err.Error(), maxText)
		}
	}
	_ = l.put(ctx, last)
}

func (l *logs) forward(ctx context.Context, sub, task string, c *rundpb.LogsResponse) error {
	for data := c.Data; len(data) > 0; {
		n := min(len(data), maxLogChunk)
		chunk := &schedulerpb.LogChunk{Subscription: sub, TaskId: task, At: c.At, Stderr: c.Stderr, Data: data[:n]}
		data = data[n:]
		if err := l.put(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

// put waits until the chunk's bytes are within the rate and the queue has room.
func (l *logs) put(ctx context.Context, c *schedulerpb.LogChunk) error {
	select {
	case l.pace <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	var err error
	l.debt += time.Duration(len(c.Data)+logOverhead) * time.Second / logRate
	if l.debt >= logPause {
		err = sleep(ctx, l.debt)
		l.debt = 0
	}
	<-l.pace
	if err != nil {
		return err
	}
	select {
	case l.out <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
