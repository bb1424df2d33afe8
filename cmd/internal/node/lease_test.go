package node

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLease: peers go exactly when no manager was heard for that long, and come
// back with a manager's first word.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLease(24 * time.Hour)
		var over atomic.Bool
		var changes atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.run(ctx, func(now bool) { over.Store(now); changes.Add(1) }) }()
		at := func(d time.Duration, want bool, n int32, what string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if over.Load() != want || l.ended() != want || changes.Load() != n {
				t.Errorf("%s: over %v after %d changes", what, over.Load(), changes.Load())
			}
		}
		at(48*time.Hour, false, 0, "no manager spoke yet, so there is no peer")
		l.hear(time.Now())
		at(24*time.Hour-time.Second, false, 0, "a second before")
		l.hear(time.Now())
		at(24*time.Hour-time.Second, false, 0, "it was renewed")
		at(2*time.Second, true, 1, "a second after")
		l.hear(time.Now().Add(-24 * time.Hour))
		at(time.Hour, true, 1, "an old word renews nothing")
		l.hear(time.Now())
		at(0, false, 2, "a word renews it")
		cancel()
		<-done
	})
}

// TestLeaseOfAFormerProcess: a redoubtd that is started anew has what was left, and
// no more.
func TestLeaseOfAFormerProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLease(time.Hour)
		l.hear(time.Now().Round(0).Add(-59 * time.Minute)) // without a monotonic reading, as from a note
		ended := make(chan time.Time, 1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- l.run(ctx, func(bool) { ended <- time.Now() }) }()
		if took := (<-ended).Sub(began); took != time.Minute {
			t.Errorf("it ended after %v", took)
		}
		cancel()
		<-done
	})
}

// TestLeaseByEitherClock: a machine that slept has no lease left; a clock that is
// set ahead ends none that managers renew.
func TestLeaseByEitherClock(t *testing.T) {
	l := newLease(time.Hour)
	now := time.Now()
	l.heard = now.Add(-time.Minute)
	// now's wall clock is two hours on, its monotonic clock a minute.
	wall := now.Round(0).Add(2 * time.Hour)
	for _, c := range []struct {
		what string
		now  time.Time
		over bool
	}{
		{"a minute later", now, false},
		{"the wall clock alone says two hours", wall, true},
		{"the monotonic clock says two hours", now.Add(2 * time.Hour), true},
		{"the wall clock was set back", now.Round(0).Add(-2 * time.Hour), false},
	} {
		if got := l.left(c.now) <= 0; got != c.over {
			t.Errorf("%s: over %v", c.what, got)
		}
	}
}
