// Package scheduler is what the leader runs so that services become running
// tasks: it watches the scheduler's tables, asks orchestrator what each service
// needs and placement where it can go, and writes the answer.
//
// It owns the loop and nothing of the rules. One goroutine does it all: events
// mark services as worth a look, a look reads a snapshot and makes a plan, and
// the plan is written in bounded transactions, each part of which holds only
// while what it was made from is unchanged. Whatever was left out is planned
// again. So the loop may be stopped at any point and started by another manager,
// which goes on from what is in the store; nothing else is kept.
//
// It refuses to talk to nodes: agents learn of their tasks from the dispatcher,
// and whether a node is up is the dispatcher's to record.
//
// Use: the composition root calls Run under the store's WhileLeader.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
	"github.com/redoubt-cluster/redoubt/scheduler/store"
)

// Config is what Run needs.
type Config struct {
	Store  *raftstore.Store
	Logger *slog.Logger
	// Own returns the context of what is to be on record as done by this manager itself,
	// and called what; nil: nothing is.
	Own func(ctx context.Context, what string) context.Context
}

// Run reconciles until ctx ends, which it returns as nil. An error of the store
// does not end it: it starts again from a fresh snapshot after a pause, as the
// caller ends ctx when this manager no longer leads.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Store == nil || cfg.Logger == nil {
		return errors.New("scheduler: a store and a logger are required")
	}
	pause := minPause
	for {
		began := time.Now()
		err := follow(ctx, cfg)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, raftstore.ErrLagged) {
			cfg.Logger.Info("the scheduler fell behind and reads everything again")
			continue
		}
		if time.Since(began) > maxPause {
			pause = minPause
		}
		cfg.Logger.Warn("the scheduler was interrupted and starts again", "err", err, "pause", pause)
		if !wait(ctx, pause) {
			return nil
		}
		pause = min(2*pause, maxPause)
		if errors.Is(err, raftstore.ErrUncertain) {
			// Let the write of unknown outcome happen, or not, before looking.
			if err := cfg.Store.Barrier(ctx); err != nil && ctx.Err() == nil {
				cfg.Logger.Debug("no barrier after an uncertain write", "err", err)
			}
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// next waits for events, or until a restart delay or a deadline is over, or a job is due.
func (l *loop) next(ctx context.Context, w *raftstore.Watch) ([]raftstore.Event, error) {
	at := l.until(time.Now())
	if at.IsZero() {
		return w.Next(ctx)
	}
	due, cancel := context.WithDeadline(ctx, at)
	defer cancel()
	events, err := w.Next(due)
	if err != nil && due.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return events, err
}

// until is when the loop is to look again though nothing changes; zero: never. It is soon
// enough for a clock that is set, or a machine that slept: timers know nothing of these.
func (l *loop) until(now time.Time) (at time.Time) {
	at = l.wake
	for _, t := range l.again {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if most := now.Add(maxWait); !at.IsZero() && at.After(most) {
		return most
	}
	return at
}

// ripen marks what is due.
func (l *loop) ripen(now time.Time) {
	if !l.wake.IsZero() && !l.wake.After(now) {
		l.retry, l.wake = true, time.Time{}
	}
	l.unblock()
	for id, at := range l.again {
		if !at.After(now) {
			delete(l.again, id)
			l.service(id)
		}
	}
}

// follow works from one snapshot on, until something fails.
func follow(ctx context.Context, cfg Config) error {
	l := newLoop(cfg)
	w, err := cfg.Store.Watch(l.load, store.Tables()...)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer w.Close()
	for {
		if err := l.turn(ctx, w); err != nil {
			return err
		}
	}
}

// turn makes a step where there is work, and takes note of what happened; what
// the step has written is among that.
func (l *loop) turn(ctx context.Context, w *raftstore.Watch) error {
	var events []raftstore.Event
	var err error
	l.ripen(time.Now())
	if l.work() {
		if err := l.step(ctx); err != nil {
			return err
		}
		events, err = w.Next(over)
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	} else {
		events, err = l.next(ctx, w)
	}
	if err != nil {
		return err
	}
	return l.observe(events)
}

// over is for asking without waiting.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
