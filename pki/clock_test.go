package pki

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestWaitFollowsTheWallClock sets the clock forward during a wait, as a
// machine that slept or that got its time late does.
func TestWaitFollowsTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var step time.Duration
		now := func() time.Time {
			if time.Since(start) > 5*time.Minute {
				step = 20 * time.Hour
			}
			return time.Now().Add(step)
		}
		if err := waitUntil(t.Context(), start.Add(12*time.Hour).Round(0), now); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 5*time.Minute+2*clockCheck {
			t.Errorf("it waited %s, long after the time had come", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := waitUntil(ctx, time.Now().Add(100*time.Hour), time.Now); err == nil || time.Since(start) > 2*time.Hour {
			t.Errorf("a wait was not ended by its context: %v", err)
		}
	})
}
