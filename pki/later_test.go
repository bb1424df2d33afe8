package pki

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestLaterSaysWhen(t *testing.T) {
	err := callError(later(codes.ResourceExhausted, 5*time.Second, "%d joins are under way", 16))
	if err.Error() != "16 joins are under way: try again in 5s" {
		t.Errorf("%q", err)
	}
	if after, ok := mayPass(fmt.Errorf("192.0.2.1:2377: %w", err)); !ok || after != 5*time.Second {
		t.Errorf("%v %v", after, ok)
	}
	// A manager that says "in a year", or "a year ago", is not believed.
	for _, d := range []time.Duration{365 * 24 * time.Hour, -time.Hour} {
		if after, ok := mayPass(callError(later(codes.Unavailable, d, "x"))); !ok || after > maxJoinPause || after < 0 {
			t.Errorf("%v: %v %v", d, after, ok)
		}
	}
	if err := callError(status.Error(codes.Unavailable, "transport: whatever")); !errors.Is(err, ErrConnectionLost) {
		t.Errorf("a lost connection: %v", err)
	}
	if _, ok := mayPass(callError(errTokenUsed)); ok {
		t.Error("a used token is tried again")
	}
}

func TestPersist(t *testing.T) {
	busy := &LaterError{After: 4 * time.Second, Err: errors.New("busy")}
	for name, c := range map[string]struct {
		errs     []error
		patience time.Duration
		tries    int
		least    time.Duration
		want     error
	}{
		"at once":          {[]error{nil}, time.Minute, 1, 0, nil},
		"refused for good": {[]error{errTokenUsed}, time.Minute, 1, 0, errTokenUsed},
		"when it was told": {[]error{busy, busy, nil}, time.Minute, 3, 8 * time.Second, nil},
		"connections cut":  {[]error{ErrConnectionLost, ErrConnectionLost, ErrConnectionLost, nil}, time.Minute, 4, 3 * minJoinPause, nil},
		"no patience":      {[]error{ErrConnectionLost}, 0, 1, 0, ErrConnectionLost},
		"out of patience":  {[]error{busy, busy, busy, busy}, 10 * time.Second, 3, 8 * time.Second, busy},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, n := time.Now(), 0
				err := persist(t.Context(), c.patience, nil, func() error { n++; return c.errs[n-1] })
				if took := time.Since(start); n != c.tries || !errors.Is(err, c.want) || took < c.least || took > c.patience {
					t.Errorf("%d tries in %v: %v", n, took, err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		time.AfterFunc(5*time.Second, func() { close(stop) })
		start := time.Now()
		err := persist(context.Background(), time.Hour, stop, func() error { return ErrConnectionLost })
		if took := time.Since(start); !errors.Is(err, ErrConnectionLost) || took != 5*time.Second {
			t.Errorf("a caller that went away: %v after %v", err, took)
		}
	})
}
