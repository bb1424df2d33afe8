package node

import (
	"context"
	"sync"
	"time"
)

// lease is for how long a node goes on with the peers that managers named while no
// manager is heard: one of them may have been removed since, which it could not
// know. It is renewed by each word of a manager, and a node on which it is over has
// no peer until the next. A node admits no peer that no manager named in any case.
//
// Time is what passed by either clock, as the monotonic one stands still while a
// machine sleeps, and the other can be set back.
type lease struct {
	life time.Duration
	wake chan struct{} // capacity 1: look again

	mu    sync.Mutex // guards the rest
	heard time.Time  // zero: no manager yet
	over  bool       // as apply was told
}

// leaseCheck is how often the clocks are looked at, and what the wall clock may run
// ahead without ending the lease of a node that hears managers.
const leaseCheck = 30 * time.Second

func newLease(life time.Duration) *lease {
	return &lease{life: life, wake: make(chan struct{}, 1)}
}

// hear notes that a manager spoke then. An earlier word than the last counts for
// nothing.
func (l *lease) hear(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.Before(l.heard) {
		return
	}
	l.heard = at
	if l.over || time.Since(at) > leaseCheck {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// last is when a manager was heard last.
func (l *lease) last() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard
}

// left is for how long it lasts; l.mu is held.
func (l *lease) left(now time.Time) time.Duration {
	if l.heard.IsZero() {
		return l.life // no manager named a peer yet
	}
	passed := now.Sub(l.heard)
	if wall := now.Round(0).Sub(l.heard.Round(0)); wall > passed && passed > leaseCheck {
		passed = wall
	}
	return l.life - passed
}

// ended reports whether it is over.
func (l *lease) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left(time.Now()) <= 0
}

// run tells apply whenever it ends or begins again, until ctx ends.
func (l *lease) run(ctx context.Context, apply func(over bool)) error {
	for {
		l.mu.Lock()
		left := l.left(time.Now())
		over := left <= 0
		changed := over != l.over
		l.over = over
		l.mu.Unlock()
		if changed {
			apply(over)
		}
		wait := leaseCheck
		if !over {
			wait = min(wait, left)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-l.wake:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}
