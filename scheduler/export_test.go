package scheduler

import (
	"context"

	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Interrupted does what a leader does that is lost half-way: some rounds, and of
// the next round's plan only the first writes.
func Interrupted(ctx context.Context, cfg Config, rounds, writes int) error {
	l := newLoop(cfg)
	w, err := cfg.Store.Watch(l.load, store.Tables()...)
	if err != nil {
		return err
	}
	defer w.Close()
	for range rounds {
		if !l.work() {
			break
		}
		if err := l.turn(ctx, w); err != nil {
			return err
		}
	}
	plan, err := l.plan()
	if err != nil {
		return err
	}
	return l.commit(ctx, plan[:min(writes, len(plan))])
}
