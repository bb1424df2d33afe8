package scheduler

import (
	"context"
	"errors"
	"slices"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// commit writes a plan in bounded transactions. Parts that no longer hold are
// left out and their services looked at again.
func (l *loop) commit(ctx context.Context, writes []*write) error {
	for chunk := range slices.Chunk(writes, maxTransaction) {
		var stale []*write
		err := l.cfg.Store.Update(ctx, func(tx *raftstore.Tx) error {
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
		if err != nil {
			return err
		}
		if err := l.forget(stale); err != nil {
			return err
		}
	}
	return nil
}

// apply makes one change, or reports that it no longer holds.
func (l *loop) apply(tx *raftstore.Tx, w *write) (bool, error) {
	if w.guarded {
		s, _ := store.Services.Get(tx, w.serviceID)
		if s.GetMeta().GetVersion() != w.version {
			return false, nil
		}
	}
	if w.old == nil && w.new == nil {
		err := store.Revisions.Delete(tx, w.revision)
		if errors.Is(err, raftstore.ErrNotFound) {
			err = nil
		}
		return true, err
	}
	if w.old != nil {
		t, ok := store.Tasks.Get(tx, w.old.GetId())
		if !ok || t.GetMeta().GetVersion() != w.old.GetMeta().GetVersion() {
			return false, nil
		}
		if w.new == nil {
			return true, store.Tasks.Delete(tx, t.GetId())
		}
		if err := store.CheckGrowth(t, w.new); err != nil {
			// A mistake in a rule must not keep every other change from being made.
			l.cfg.Logger.Error("a planned change breaks a rule of tasks and is left out", "err", err)
			return true, nil
		}
	}
	return true, store.PutTask(tx, w.new)
}

// forget takes back what placement counted of changes that were not made.
func (l *loop) forget(stale []*write) error {
	if len(stale) == 0 {
		return nil
	}
	return l.cfg.Store.View(func(r *raftstore.ReadTx) error {
		for _, w := range stale {
			l.dirty[w.serviceID] = true
			if t := either(w.old, w.new); t != nil {
				l.count(r, t.GetId())
				l.retry = true
			}
		}
		return nil
	})
}
