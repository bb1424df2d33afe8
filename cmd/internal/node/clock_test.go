package node

import (
	"context"
	"errors"
	"strings"
	"sync"
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
		{"and the one that is ahead does not lead", []time.Duration{-100 * s}, 0, 0, false},
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
		c := &clocks{changed: make(chan struct{})}
		samples := map[string]clockSample{}
		for i, a := range tc.ahead {
			samples[string(rune('a'+i))] = clockSample{a, tc.unsure}
		}
		c.take(samples, true)
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
		c := &clocks{changed: make(chan struct{}), comparing: make(chan struct{}, 1), others: func() []clockPeer {
			return []clockPeer{{"a", "", true}, {"b", "", true}, {"away", "", true}}
		},
			ask: func(_ context.Context, p clockPeer) (time.Duration, time.Duration, error) {
				if p.id == "away" {
					return 0, 0, errors.New("away")
				}
				return -time.Duration(jump.Load()), time.Millisecond, nil
			}}
		ctx, cancel := context.WithCancel(t.Context())
		ran, wrong := make(chan error, 1), make(chan error, 1)
		go func() { ran <- c.run(ctx) }()
		synctest.Wait() // the first comparison
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

// TestConfirm: a manager leads by a comparison with a majority, a recent one or
// one of its own making, and names a better one where it may not.
func TestConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, ahead, away := 0, map[string]time.Duration{}, map[string]error{} // of the bubble, one at a time
		var mu sync.Mutex
		opened := make(chan struct{})
		c := &clocks{changed: make(chan struct{}), comparing: make(chan struct{}, 1), opened: opened, others: func() []clockPeer {
			return []clockPeer{{"a", "", true}, {"b", "", true}, {"c", "", true}, {"d", "", true}, {"joining", "", false}}
		}, ask: func(ctx context.Context, p clockPeer) (time.Duration, time.Duration, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			if err := away[p.id]; errors.Is(err, context.DeadlineExceeded) {
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
				return 0, 0, ctx.Err()
			} else if err != nil {
				return 0, 0, err
			}
			return ahead[p.id], time.Millisecond, nil
		}}
		confirm := func(want string) (successor string, took time.Duration) {
			t.Helper()
			start := time.Now()
			successor, err := c.Confirm(t.Context())
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v, want %q", err, want)
			}
			return successor, time.Since(start)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Confirm(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before the store is open: %v", err)
		}
		close(opened)
		away["a"], away["b"] = errors.New("gone"), context.DeadlineExceeded
		if _, took := confirm(""); took != leadPatience {
			t.Errorf("with a majority and one that hangs it took %v", took)
		}
		before := asked
		if _, took := confirm(""); took != 0 || asked != before {
			t.Errorf("a fresh comparison is not enough: %v, %d more asked", took, asked-before)
		}
		if now := c.Now(); time.Until(now).Abs() > time.Second {
			t.Errorf("it is %v", now)
		}
		// One after the other goes wrong: b hangs for ever, c and d are an hour behind.
		time.Sleep(clockFresh)
		away["a"] = nil
		ahead["a"], ahead["c"], ahead["d"] = -time.Hour, -time.Hour, -time.Hour
		if next, _ := confirm("1h0m0s ahead"); next != "a" && next != "c" && next != "d" {
			t.Errorf("it names %q", next)
		}
		ahead["a"], ahead["c"], ahead["d"] = 0, 0, 0
		confirm("")
		// No majority: what was found good goes on.
		time.Sleep(clockFresh)
		away["a"], away["c"], away["d"] = context.DeadlineExceeded, context.DeadlineExceeded, errors.New("gone")
		if _, took := confirm(""); took != clockPatience {
			t.Errorf("it waited %v for a majority", took)
		}
		// One that never compared does not begin.
		fresh := &clocks{changed: make(chan struct{}), comparing: make(chan struct{}, 1), opened: opened, others: c.others, ask: c.ask}
		if _, err := fresh.Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "no majority") {
			t.Errorf("without a majority: %v", err)
		}
		// A version that does not tell its time is heard, and has no say.
		away["a"], away["c"], away["d"] = errNoTime, errNoTime, errNoTime
		if _, err := fresh.Confirm(t.Context()); err != nil {
			t.Errorf("among managers of before: %v", err)
		}
	})
}
