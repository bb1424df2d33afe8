package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	pkistore "github.com/redoubt-cluster/redoubt/pki/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"google.golang.org/protobuf/proto"
)

// writer is the one place from which sessions reach the replicated log. What
// waits for it is the newest word on each task and node, so it is bounded by
// the number of those however fast nodes talk.
type writer struct {
	store  *raftstore.Store
	logger *slog.Logger
	kick   chan struct{} // capacity 1: something waits
	full   chan struct{} // capacity 1: enough for a batch waits

	mu    sync.Mutex // guards the following
	tasks map[string]taskWord
	nodes map[string]nodeWord
}

type taskWord struct {
	node   string
	status *schedulerpb.TaskStatus
	// due is when it is written. Most tasks are on their way for less than
	// progressDelay: what they pass on it then reaches no log.
	due time.Time
}

type nodeWord struct {
	state       schedulerpb.NodeState // UNKNOWN: unchanged
	message     string
	heard       time.Time                    // of a node that is down: when it last was
	at          move                         // to nowhere: unchanged
	description *schedulerpb.NodeDescription // nil: unchanged
}

func newWriter(s *raftstore.Store, l *slog.Logger) *writer {
	w := &writer{store: s, logger: l, kick: make(chan struct{}, 1), full: make(chan struct{}, 1)}
	w.reset()
	return w
}

// reset forgets what a former term left; nodes say it again.
func (w *writer) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks, w.nodes = map[string]taskWord{}, map[string]nodeWord{}
}

// nodeUp records what a node with a session says of itself, and where the session
// comes from, if that is to be recorded now.
func (w *writer) nodeUp(id string, at move, desc *schedulerpb.NodeDescription) {
	state, message := readiness(desc)
	w.node(id, func(n *nodeWord) {
		*n = nodeWord{state: state, message: message, at: cmp.Or(at, n.at), description: desc}
	})
}

// nodeMoved records where the node's last session came from.
func (w *writer) nodeMoved(id string, at move) {
	w.node(id, func(n *nodeWord) { n.at = at })
}

func (w *writer) nodeDown(id, message string, heard time.Time) {
	w.node(id, func(n *nodeWord) {
		n.state, n.message, n.heard = schedulerpb.NodeState_NODE_STATE_DOWN, message, heard
	})
}

func (w *writer) node(id string, change func(*nodeWord)) {
	w.mu.Lock()
	n := w.nodes[id]
	change(&n)
	w.nodes[id] = n
	w.mu.Unlock()
	signal(w.kick)
}

// statuses queues what is news among a node's reports and returns the id of
// one that is about another node's task, if there is any.
//
// Reports that change only the words about a task, not its state, need leave
// from again: each becomes an entry of the replicated log, and a node may say
// as many as it likes. Without it they are dropped.
func (w *writer) statuses(node string, reports []*schedulerpb.TaskReport, again func() bool) (foreign string, err error) {
	var news []*schedulerpb.TaskReport
	err = w.store.View(func(r *raftstore.ReadTx) error {
		for _, rep := range reports {
			t, ok := store.Tasks.Get(r, rep.TaskId)
			switch {
			case !ok: // removed while the report was under way
			case t.NodeId != node || store.State(t) < store.Assigned:
				foreign = rep.TaskId
			default:
				if store.IsNews(t, rep.Status) && (rep.Status.State > store.State(t) || again()) {
					news = append(news, rep)
				}
			}
		}
		return nil
	})
	if err != nil || len(news) == 0 {
		return foreign, err
	}
	now := time.Now()
	w.mu.Lock()
	for _, rep := range news {
		old, ok := w.tasks[rep.TaskId]
		if ok && old.status.State > rep.Status.State {
			continue
		}
		word := taskWord{node, rep.Status, now}
		if rep.Status.State < store.Running {
			word.due = now.Add(progressDelay)
			if ok && old.due.Before(word.due) {
				word.due = old.due
			}
		}
		w.tasks[rep.TaskId] = word
	}
	enough := len(w.tasks) >= flushReports
	w.mu.Unlock()
	signal(w.kick)
	if enough {
		signal(w.full)
	}
	return foreign, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) error {
	size := flushReports
	pause := writeRetry
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-w.kick:
		case <-due.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		// Let words gather, unless there are enough.
		w.rest(ctx, flushDelay, w.full)
		for ctx.Err() == nil {
			tasks, nodes, next := w.take(size, time.Now())
			if len(tasks)+len(nodes) == 0 {
				if !next.IsZero() {
					due.Reset(time.Until(next))
				}
				break
			}
			err := w.write(ctx, tasks, nodes)
			if err == nil {
				size, pause = flushReports, writeRetry
				continue
			}
			transient := errors.Is(err, raftstore.ErrConflict) || errors.Is(err, raftstore.ErrUncertain) ||
				errors.Is(err, raftstore.ErrNotLeader) || ctx.Err() != nil
			if size == 1 && !transient {
				w.logger.Error("what a node said could not be recorded", "error", err)
				continue
			}
			// Smaller batches find the one that is at fault.
			size = max(1, size/2)
			w.putBack(tasks, nodes)
			w.rest(ctx, pause, nil)
			pause = min(pause*2, maxWriteRetry)
		}
	}
}

func (w *writer) rest(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-early:
	case <-ctx.Done():
	}
}

// take removes up to n words that are due, and no more than fit into a
// transaction; nodes first, as tasks depend on them. Where there are none, next
// is when one will be; zero: nothing waits.
func (w *writer) take(n int, now time.Time) (tasks map[string]taskWord, nodes map[string]nodeWord, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	tasks, nodes = map[string]taskWord{}, map[string]nodeWord{}
	for id, word := range w.nodes {
		if len(nodes) >= min(n, flushNodes) {
			break
		}
		nodes[id] = word
		delete(w.nodes, id)
	}
	bytes := 0
	for id, word := range w.tasks {
		if len(tasks)+len(nodes) >= n || bytes > flushBytes {
			break
		}
		if word.due.After(now) {
			if next.IsZero() || word.due.Before(next) {
				next = word.due
			}
			continue
		}
		bytes += taskBytes + proto.Size(word.status)
		tasks[id] = word
		delete(w.tasks, id)
	}
	return tasks, nodes, next
}

// putBack returns words that were not written, unless newer ones are there.
func (w *writer) putBack(tasks map[string]taskWord, nodes map[string]nodeWord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, word := range tasks {
		if newer, ok := w.tasks[id]; !ok || newer.status.State < word.status.State {
			w.tasks[id] = word
		}
	}
	for id, word := range nodes {
		newer, ok := w.nodes[id]
		if !ok {
			w.nodes[id] = word
			continue
		}
		if newer.state == schedulerpb.NodeState_NODE_STATE_UNKNOWN {
			newer.state, newer.message, newer.heard = word.state, word.message, word.heard
		}
		newer.at = cmp.Or(newer.at, word.at)
		if newer.description == nil {
			newer.description = word.description
		}
		w.nodes[id] = newer
	}
}

// write is one transaction. Words that say nothing new make no entry.
func (w *writer) write(ctx context.Context, tasks map[string]taskWord, nodes map[string]nodeWord) error {
	return w.store.Update(ctx, func(tx *raftstore.Tx) error {
		for id, word := range nodes {
			if err := writeNode(tx, id, word); err != nil {
				return err
			}
		}
		for id, word := range tasks {
			if err := store.AdvanceTask(tx, word.node, id, word.status); err != nil && !errors.Is(err, store.ErrNotYours) {
				return err
			}
		}
		return nil
	})
}

func writeNode(tx *raftstore.Tx, id string, word nodeWord) error {
	old, ok := store.Nodes.Get(tx, id)
	if !ok {
		return nil // removed meanwhile
	}
	if desc := word.description; desc != nil {
		// What people and constraints call a node is the name it was admitted
		// under, whatever it says later.
		if member, ok := pkistore.Nodes.Get(tx, id); ok && member.GetName() != desc.Hostname {
			desc = proto.CloneOf(desc)
			desc.Hostname = member.GetName()
		}
		if err := store.UpdateDescription(tx, id, desc); err != nil {
			return err
		}
	}
	state, message := word.state, word.message
	if state == schedulerpb.NodeState_NODE_STATE_UNKNOWN {
		state, message = old.State, old.Message
	}
	if err := store.MoveNode(tx, id, state, message, word.at.to, word.at.before); err != nil || word.heard.IsZero() {
		return err
	}
	return store.SetDownSince(tx, id, tx.Now().Add(-time.Since(word.heard)))
}
