package port

import (
	"context"
	"crypto/tls"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFirstOf(t *testing.T) {
	type attempt = func(context.Context, func()) (*tls.Conn, error)
	good := &tls.Conn{}
	swallow := func(ctx context.Context, _ func()) (*tls.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	busy := func(ctx context.Context, reached func()) (*tls.Conn, error) {
		reached()
		return swallow(ctx, nil)
	}
	late := func(ctx context.Context, reached func()) (*tls.Conn, error) {
		reached()
		return good, pause(ctx, busyDelay-time.Millisecond)
	}
	fail := func(context.Context, func()) (*tls.Conn, error) { return nil, errors.New("refused") }
	answer := func(context.Context, func()) (*tls.Conn, error) { return good, nil }
	for _, tc := range []struct {
		name string
		all  []attempt
		took time.Duration
		ok   bool
	}{
		{"first", []attempt{answer, swallow}, 0, true},
		{"after a refusal", []attempt{fail, answer}, 0, true},
		{"after silence", []attempt{swallow, swallow, answer}, 2 * hedgeDelay, true},
		{"silence and a refusal", []attempt{swallow, fail, answer}, hedgeDelay, true},
		{"one that is busy", []attempt{busy, answer}, busyDelay, true},
		{"one that is late", []attempt{late, fail}, busyDelay - time.Millisecond, true},
		{"silence and one that is busy", []attempt{swallow, busy, answer}, hedgeDelay + busyDelay, true},
		{"none", []attempt{fail, fail}, 0, false},
		{"all silent", []attempt{swallow, swallow}, 10 * time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				conn, err := firstOf(ctx, len(tc.all), func(ctx context.Context, i int, reached func()) (*tls.Conn, error) { return tc.all[i](ctx, reached) })
				if (err == nil) != tc.ok || tc.ok && conn != good {
					t.Errorf("%v, %v", conn, err)
				}
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
			})
		})
	}
}
