package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// A question waits for one answer of one session.
type question struct {
	from   *session
	answer chan proto.Message // capacity 1; nil: the session is over
}

// ErrAway is that of a question to a node that has no session.
var ErrAway = errors.New("the node is not connected")

// ask puts a question to a node and waits for the answer, for patience at most. A
// node that does not say to have the feature would end its session when it is asked:
// then absent is what comes of it.
func ask[A proto.Message](ctx context.Context, d *Dispatcher, node, feature string, patience time.Duration, absent error, put func(id string) *schedulerpb.ManagerMessage) (none A, err error) {
	knows := false
	if err := d.config.Store.View(func(tx *raftstore.ReadTx) error {
		n, _ := store.Nodes.Get(tx, node)
		for _, f := range n.GetDescription().GetFeatures() {
			knows = knows || f.GetName() == feature
		}
		return nil
	}); err != nil {
		return none, err
	}
	if !knows {
		d.mu.Lock()
		defer d.mu.Unlock()
		return none, cmp.Or(d.away(node), absent)
	}
	id := ident.New()
	q, err := d.put(id, node, put(id))
	if err != nil {
		return none, err
	}
	defer func() {
		d.mu.Lock()
		delete(d.questions, id)
		d.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case a := <-q.answer:
		if a == nil {
			return none, ErrAway
		}
		of, ok := a.(A)
		if !ok {
			return none, errors.New("the node answered another question")
		}
		return of, nil
	case <-ctx.Done():
		return none, fmt.Errorf("the node did not answer: %w", ctx.Err())
	}
}

func (d *Dispatcher) put(id, node string, m *schedulerpb.ManagerMessage) (*question, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.away(node); err != nil {
		return nil, err
	}
	if len(d.questions) >= maxQuestions {
		return nil, errors.New("too many nodes are being asked: try again later")
	}
	q := &question{d.members[node].session, make(chan proto.Message, 1)}
	d.questions[id] = q
	q.from.control(m)
	return q, nil
}

// away says why a node cannot be asked; d.mu is held.
func (d *Dispatcher) away(node string) error {
	m := d.members[node]
	switch {
	case d.term == nil:
		return errNotLeading
	case m == nil || m.session == nil:
		return ErrAway
	}
	return nil
}

// answered takes the answer of a node. One that nobody waits for is dropped.
func (s *session) answered(id string, a proto.Message) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if q := s.d.questions[id]; q != nil && q.from == s {
		delete(s.d.questions, id)
		q.answer <- a
	}
}

// unanswered ends the questions to a session that is over. d.mu is held.
func (d *Dispatcher) unanswered(s *session) {
	for id, q := range d.questions {
		if q.from == s {
			delete(d.questions, id)
			q.answer <- nil
		}
	}
}
