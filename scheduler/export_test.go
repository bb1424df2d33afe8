package scheduler

import "context"

// Interrupted does what a leader does that is lost half-way: some rounds, and of
// the next round's plan only the first writes.
func Interrupted(ctx context.Context, cfg Config, rounds, writes int) error {
	l := newLoop(cfg)
	if err := cfg.Store.View(l.load); err != nil {
		return err
	}
	for range rounds {
		if err := l.step(ctx); err != nil {
			return err
		}
	}
	plan, err := l.plan()
	if err != nil {
		return err
	}
	return l.commit(ctx, plan[:min(writes, len(plan))])
}
