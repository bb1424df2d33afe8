package scheduler

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	meshstore "github.com/redoubt-cluster/redoubt/mesh/store"
	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
	"github.com/redoubt-cluster/redoubt/scheduler/taskpb"
)

// commit writes a plan in bounded transactions. Parts that no longer hold are
// left out and their services looked at again.
func (l *loop) commit(ctx context.Context, writes []*write) error {
	most := maxTransaction
	for len(writes) > 0 {
		chunk := writes[:take(writes, most)]
		stale, err := l.write(l.recorded(ctx, chunk), chunk)
		if errors.Is(err, raftstore.ErrConflict) {
			// Nodes report on these tasks faster than so many can be written.
			if len(chunk) > 1 {
				most = max(1, most/4)
				continue
			}
			stale, err = chunk, nil
		}
		if err != nil {
			return err
		}
		if err := l.forget(stale); err != nil {
			return err
		}
		writes = writes[len(chunk):]
	}
	return nil
}

// recorded is the context of a transaction. What ends what somebody else runs has its
// record; that everything else is done was asked for, and that is on record.
func (l *loop) recorded(ctx context.Context, chunk []*write) context.Context {
	if !chunk[0].preempts || l.cfg.Own == nil {
		return ctx
	}
	return l.cfg.Own(ctx, "preempt tasks")
}

// write is one transaction; it returns the parts that no longer hold.
func (l *loop) write(ctx context.Context, chunk []*write) (stale []*write, err error) {
	err = meshstore.Retry(ctx, l.cfg.Store, func(tx *raftstore.Tx) error {
		stale = nil
		for _, w := range chunk {
			ok, err := l.apply(tx, w)
			if err != nil {
				return err
			}
			if !ok {
				stale = append(stale, w)
			}
		}
		return nil
	})
	return stale, err
}

// take says how many writes fit into one transaction of most changes: those that are put
// on record are by themselves.
func take(writes []*write, most int) int {
	changes, bytes := 0, 0
	for i, w := range writes {
		changes += max(1, len(w.tasks))
		for _, e := range w.tasks {
			bytes += taskOverhead + proto.Size(e.new)
		}
		if (changes > most || bytes > maxTransactionBytes || w.preempts != writes[0].preempts) && i > 0 {
			return i
		}
	}
	return len(writes)
}

// apply makes one change, or reports that it no longer holds.
func (l *loop) apply(tx *raftstore.Tx, w *write) (bool, error) {
	if w.guarded {
		s, _ := store.Services.Get(tx, w.serviceID)
		if s.GetMeta().GetVersion() != w.version {
			return false, nil
		}
	}
	if w.revision != "" {
		err := store.Revisions.Delete(tx, w.revision)
		if errors.Is(err, raftstore.ErrNotFound) {
			err = nil
		}
		return true, err
	}
	for _, e := range w.tasks {
		if e.old == nil {
			continue
		}
		t, ok := store.Tasks.Get(tx, e.old.GetId())
		if !ok || t.GetMeta().GetVersion() != e.old.GetMeta().GetVersion() {
			return false, nil
		}
		if e.new == nil {
			continue
		}
		if err := store.CheckGrowth(t, e.new); err != nil {
			// A mistake in a rule must not keep every other change from being made.
			l.cfg.Logger.Error("a planned change breaks a rule of tasks and is left out", "err", err)
			return true, nil
		}
	}
	for _, e := range w.tasks {
		if uses, ingress := l.networks(tx, e); len(uses) == 0 && !ingress {
			continue
		}
		if _, ok := store.Services.Get(tx, w.serviceID); !ok {
			return false, nil // its networks may go, too
		}
	}
	for _, e := range w.tasks {
		if e.new == nil {
			if err := store.Tasks.Delete(tx, e.old.GetId()); err != nil {
				return false, err
			}
			continue
		}
		l.attach(tx, e)
		if e.old.GetStatus().GetMessage() == e.new.GetStatus().GetMessage() && e.new.GetNodeId() == "" && e.kept {
			l.cluster.RemoveTask(e.new.GetId()) // it waits as it did
			continue
		}
		if err := store.PutTask(tx, e.new); err != nil {
			return false, err
		}
	}
	return true, nil
}

// networks are those on which a change gives a task addresses, as it gives it a
// node; ingress: also on the one of the service's published ports.
func (l *loop) networks(tx *raftstore.Tx, e *edit) (uses []*taskpb.NetworkUse, ingress bool) {
	if e.new.GetNodeId() == "" || e.old.GetNodeId() != "" || !store.Live(e.new) {
		return nil, false
	}
	req := l.request(tx, e.new.GetServiceId(), e.new.GetRevision())
	if req == nil {
		return nil, false
	}
	return req.Networks, req.Ingress
}

// attach gives a task its addresses. One for which a network has none left goes
// on waiting, and says so; what is freed is a change that has it looked at again.
func (l *loop) attach(tx *raftstore.Tx, e *edit) {
	uses, ingress := l.networks(tx, e)
	if len(uses) == 0 && !ingress {
		return
	}
	if err := store.Attach(tx, e.new, uses, ingress); err != nil {
		e.new.NodeId, e.new.Attachments, e.new.Generic = "", nil, nil
		e.new.Status = &schedulerpb.TaskStatus{State: store.Pending, At: e.new.GetStatus().GetAt(), Message: err.Error()}
		e.kept = e.old != nil
	}
}

// forget takes back what placement counted of changes that were not made.
func (l *loop) forget(stale []*write) error {
	if len(stale) == 0 {
		return nil
	}
	return l.cfg.Store.View(func(r *raftstore.ReadTx) error {
		for _, w := range stale {
			l.retry = true
			for _, e := range w.tasks {
				t := either(e.old, e.new)
				l.observeTask(r, t)
			}
			l.service(w.serviceID)
		}
		return nil
	})
}
