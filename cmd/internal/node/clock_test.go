package node

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockOffset: who is off, for up to seven managers, and what travel explains.
func TestClockOffset(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct {
		name   string
		ahead  []time.Duration // of the others, as seen from here
		unsure time.Duration
		want   time.Duration
		lead   bool
	}{
		{"alone", nil, 0, 0, true},
		{"of two neither accuses the other", []time.Duration{100 * s}, 0, 0, true},
		{"of three the other is off", []time.Duration{0, 100 * s}, 0, 0, true},
		{"this one is ahead", []time.Duration{-100 * s, -100 * s}, 0, 100 * s, false},
		{"this one is behind", []time.Duration{40 * s, 50 * s}, 0, -40 * s, false},
		{"within bounds", []time.Duration{-29 * s, -31 * s}, 0, 29 * s, true},
		{"the answers took long", []time.Duration{-33 * s, -33 * s}, 4 * s, 29 * s, true},
		{"all apart", []time.Duration{-100 * s, 100 * s}, 0, 0, true},
		{"one of four is off", []time.Duration{0, 0, 90 * s}, 0, 0, true},
		{"of four this one", []time.Duration{-90 * s, -90 * s, -90 * s}, 0, 90 * s, false},
		{"of seven this one, two away", []time.Duration{-90 * s, -91 * s, -89 * s, -90 * s}, 0, 90 * s, false},
	} {
		c := &clocks{samples: map[string]clockSample{}}
		for i, a := range tc.ahead {
			c.samples[string(rune('a'+i))] = clockSample{a, tc.unsure}
		}
		if got := c.offset(); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
		if err := c.mayLead(); (err == nil) != tc.lead {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// TestClockJumps: a leader whose clock jumps hears of it at the next comparison,
// and those that do not answer have no say.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var jump atomic.Int64 // a time.Duration
		c := &clocks{changed: make(chan struct{}), others: func() []clockPeer { return []clockPeer{{id: "a"}, {id: "b"}, {id: "away"}} },
			ask: func(_ context.Context, p clockPeer) (time.Duration, time.Duration, error) {
				if p.id == "away" {
					return 0, 0, errors.New("away")
				}
				return -time.Duration(jump.Load()), time.Millisecond, nil
			}}
		ctx, cancel := context.WithCancel(t.Context())
		ran, wrong := make(chan error, 1), make(chan error, 1)
		go func() { ran <- c.run(ctx) }()
		go func() { wrong <- c.untilWrong(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case err := <-wrong:
			t.Fatalf("with a good clock: %v", err)
		default:
		}
		jump.Store(int64(10 * time.Minute))
		start := time.Now()
		if err := <-wrong; err == nil || !strings.Contains(err.Error(), "10m0s ahead") {
			t.Errorf("after the jump: %v", err)
		}
		if took := time.Since(start); took > clockInterval {
			t.Errorf("heard of it after %v", took)
		}
		if n := len(c.skews()); n != 2 {
			t.Errorf("%d skews are shown", n)
		}
		cancel()
		<-ran
	})
}
