package dispatcher

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// LogRequest asks for the output of tasks, wherever they run.
type LogRequest struct {
	TaskIDs []string
	Follow  bool
	// Since is in Unix nanoseconds, 0: from the beginning kept.
	Since int64
	// Until is in Unix nanoseconds, 0: to the end.
	Until int64
	// Tail is the number of last lines of each task, -1: all.
	Tail int64
}

// Logs yields output as it arrives from the nodes. A task's last chunk has Eof
// and, where its output could not be had, Error; the sequence ends after every
// task's last, with ctx, or with an error. A reader slower than the nodes
// loses chunks, and is told how many by a chunk with Error and no Eof.
func (d *Dispatcher) Logs(ctx context.Context, r LogRequest) iter.Seq2[*schedulerpb.LogChunk, error] {
	return func(yield func(*schedulerpb.LogChunk, error) bool) {
		sub, err := d.subscribe(r)
		if err != nil {
			yield(nil, err)
			return
		}
		defer d.unsubscribe(sub)
		for {
			chunks, done := sub.take()
			for _, c := range chunks {
				if !yield(c, nil) {
					return
				}
			}
			if done {
				return
			}
			if len(chunks) > 0 {
				continue
			}
			select {
			case <-sub.ready:
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
		}
	}
}

// subscription collects the chunks of one reader.
type subscription struct {
	id    string
	ready chan struct{} // capacity 1: something to take

	mu      sync.Mutex          // guards the following
	open    map[string]*session // tasks whose session has yet to say the last word
	chunks  []*schedulerpb.LogChunk
	bytes   int
	dropped int
}

// subscribe asks every node that has one of the tasks.
func (d *Dispatcher) subscribe(r LogRequest) (*subscription, error) {
	if len(r.TaskIDs) > maxSubscribedTasks {
		return nil, status.Errorf(codes.InvalidArgument, "logs of %d tasks at once: at most %d are possible", len(r.TaskIDs), maxSubscribedTasks)
	}
	sub := &subscription{id: ident.New(), ready: make(chan struct{}, 1), open: map[string]*session{}}
	byNode := map[string][]string{}
	err := d.config.Store.View(func(tx *raftstore.ReadTx) error {
		for _, id := range r.TaskIDs {
			t, ok := store.Tasks.Get(tx, id)
			switch {
			case !ok:
				sub.end(id, "there is no such task")
			case t.NodeId == "":
				sub.end(id, "the task has no node yet")
			case !slices.Contains(byNode[t.NodeId], id):
				byNode[t.NodeId] = append(byNode[t.NodeId], id)
			}
		}
		return nil
	})
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term == nil {
		return nil, errNotLeading
	}
	if len(d.subs) >= maxSubscriptions {
		return nil, status.Error(codes.ResourceExhausted, "too many readers of logs: try again later")
	}
	d.subs[sub.id] = sub
	for node, ids := range byNode {
		m := d.members[node]
		if m == nil || m.session == nil {
			for _, id := range ids {
				sub.end(id, "node "+node+" is not connected")
			}
			continue
		}
		sub.mu.Lock()
		for _, id := range ids {
			sub.open[id] = m.session
		}
		sub.mu.Unlock()
		m.session.control(logRequest(&schedulerpb.LogSubscription{
			Id: sub.id, TaskIds: ids, Follow: r.Follow, Since: r.Since, Until: r.Until, Tail: r.Tail,
		}))
	}
	return sub, nil
}

func logRequest(l *schedulerpb.LogSubscription) *schedulerpb.ManagerMessage {
	return &schedulerpb.ManagerMessage{Message: &schedulerpb.ManagerMessage_Log{Log: l}}
}

// unsubscribe tells the nodes that still send that nobody reads.
func (d *Dispatcher) unsubscribe(sub *subscription) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.subs, sub.id)
	sub.mu.Lock()
	sending := map[*session]bool{}
	for _, s := range sub.open {
		sending[s] = true
	}
	sub.mu.Unlock()
	for s := range sending {
		s.control(logRequest(&schedulerpb.LogSubscription{Id: sub.id, Cancel: true}))
	}
}

// lost ends what the readers of an ended session wait for.
func (d *Dispatcher) lost(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, sub := range d.subs {
		sub.lost(s)
	}
	d.unanswered(s)
	d.lostExecs(s)
}

// logChunk passes a node's chunk to its reader. It never waits.
func (s *session) logChunk(c *schedulerpb.LogChunk) error {
	if len(c.Data) > maxLogChunk {
		return status.Errorf(codes.InvalidArgument, "a log chunk of %d bytes: at most %d are accepted", len(c.Data), maxLogChunk)
	}
	s.d.mu.Lock()
	sub := s.d.subs[c.Subscription]
	s.d.mu.Unlock()
	if sub == nil {
		return nil // its reader has just gone
	}
	now := time.Now()
	within := s.quota.logs.take(float64(len(c.Data)), now)
	if !sub.offer(s, c, within) && s.quota.refusals.take(1, now) {
		s.d.config.Logger.Warn("refused a node's logs of a task that it was not asked for", "node", s.node, "task", fmt.Sprintf("%.64q", c.TaskId))
	}
	return nil
}

// offer queues a chunk and reports whether the session may send it.
// One that is too much is dropped and counted; a task's last word never is.
func (s *subscription) offer(from *session, c *schedulerpb.LogChunk, within bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[c.TaskId] != from {
		return false
	}
	if !within || s.bytes+len(c.Data) > subscriptionBytes || len(s.chunks) >= subscriptionChunks {
		s.dropped++
		if !c.Eof {
			return true
		}
		c = &schedulerpb.LogChunk{TaskId: c.TaskId, At: c.At, Eof: true, Error: c.Error}
	}
	// Made anew: nothing but the known fields passes, and those of a reader.
	s.push(&schedulerpb.LogChunk{
		TaskId: c.TaskId, At: c.At, Stderr: c.Stderr, Data: c.Data, Eof: c.Eof, Error: oneline.Text(c.Error, maxMessageText),
	})
	if c.Eof {
		delete(s.open, c.TaskId)
	}
	return true
}

// push queues a chunk; the caller holds mu.
func (s *subscription) push(c *schedulerpb.LogChunk) {
	s.chunks = append(s.chunks, c)
	s.bytes += len(c.Data)
	signal(s.ready)
}

// end says a task's last word in place of a node.
func (s *subscription) end(task, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, task)
	s.push(&schedulerpb.LogChunk{TaskId: task, Eof: true, Error: reason})
}

func (s *subscription) lost(from *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for task, owner := range s.open {
		if owner == from {
			delete(s.open, task)
			s.push(&schedulerpb.LogChunk{TaskId: task, Eof: true, Error: "node " + from.node + " was disconnected"})
		}
	}
}

// take returns what is queued and whether that was all there will be.
func (s *subscription) take() ([]*schedulerpb.LogChunk, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	chunks := s.chunks
	if s.dropped > 0 {
		note := fmt.Sprintf("%d pieces of output were dropped: the reader or its nodes' quota was too slow", s.dropped)
		chunks = append(chunks, &schedulerpb.LogChunk{Error: note})
	}
	s.chunks, s.bytes, s.dropped = nil, 0, 0
	return chunks, len(s.open) == 0
}
