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
	good := &tls.Conn{}
	swallow := func(ctx context.Context) (*tls.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	fail := func(context.Context) (*tls.Conn, error) { return nil, errors.New("refused") }
	answer := func(context.Context) (*tls.Conn, error) { return good, nil }
	for _, tc := range []struct {
		name string
		all  []func(context.Context) (*tls.Conn, error)
		took time.Duration
		ok   bool
	}{
		{"first", []func(context.Context) (*tls.Conn, error){answer, swallow}, 0, true},
		{"after a refusal", []func(context.Context) (*tls.Conn, error){fail, answer}, 0, true},
		{"after silence", []func(context.Context) (*tls.Conn, error){swallow, swallow, answer}, 2 * hedgeDelay, true},
		{"silence and a refusal", []func(context.Context) (*tls.Conn, error){swallow, fail, answer}, hedgeDelay, true},
		{"none", []func(context.Context) (*tls.Conn, error){fail, fail}, 0, false},
		{"all silent", []func(context.Context) (*tls.Conn, error){swallow, swallow}, 10 * time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				conn, err := firstOf(ctx, len(tc.all), func(ctx context.Context, i int) (*tls.Conn, error) { return tc.all[i](ctx) })
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
