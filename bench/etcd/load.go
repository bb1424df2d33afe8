package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This file is the same, byte for byte, in every runner, and a test of the main
// module holds them together: what is measured is measured alike.

// warmUp is how long load runs before it counts.
const warmUp = 2 * time.Second

// load has clients call op again and again and measures the calls that ended in
// the window d after the warm-up. Any error ends it: a failed call is no call.
func load(ctx context.Context, clients int, d time.Duration, op func(ctx context.Context, client, n int) error) (*latencies, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := errors.New("done")
	begin := time.Now().Add(warmUp)
	end := begin.Add(d)
	all := make([][]time.Duration, clients)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				start := time.Now()
				if start.After(end) {
					return
				}
				if err := op(ctx, c, n); err != nil {
					cancel(fmt.Errorf("client %d, call %d: %w", c, n, err))
					return
				}
				if now := time.Now(); now.After(begin) && now.Before(end) {
					all[c] = append(all[c], now.Sub(start))
				}
			}
		})
	}
	wg.Wait()
	cancel(done)
	if err := context.Cause(ctx); !errors.Is(err, done) {
		return nil, err
	}
	l := &latencies{window: d, sorted: slices.Concat(all...)}
	slices.Sort(l.sorted)
	if len(l.sorted) == 0 {
		return nil, errors.New("no call ended in the window: make it longer")
	}
	return l, nil
}

// latencies are the calls of one window.
type latencies struct {
	window time.Duration
	sorted []time.Duration
}

// at returns a quantile.
func (l *latencies) at(q float64) time.Duration {
	return l.sorted[min(int(q*float64(len(l.sorted))), len(l.sorted)-1)]
}

func (l *latencies) String() string {
	return fmt.Sprintf("rate=%.0f/s p50=%s p99=%s", float64(len(l.sorted))/l.window.Seconds(), millis(l.at(0.5)), millis(l.at(0.99)))
}

// spread shows a few measurements: median and range.
func spread(ds []time.Duration) string {
	s := slices.Sorted(slices.Values(ds))
	return fmt.Sprintf("median=%s min=%s max=%s n=%d", millis(s[len(s)/2]), millis(s[0]), millis(s[len(s)-1]), len(s))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.2fms", float64(d)/float64(time.Millisecond))
}

// residentMiB sums the resident memory of processes, in MiB.
func residentMiB(pids ...int) (sum int, err error) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kib, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					return 0, err
				}
				sum += kib
			}
		}
	}
	return sum >> 10, nil
}

// firstSuccess returns when the first call of op succeeded. Each of the n servers
// is called every 50 ms, whether or not earlier calls have returned: a call that
// is lost costs no more than that, and one that is held until there is a leader
// is not given up, be it late. A call may take 2 s.
func firstSuccess(ctx context.Context, n int, op func(ctx context.Context, server, try int) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	won := make(chan struct{})
	var once sync.Once
	var last error
	var mu sync.Mutex // guards last
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for try := 0; ; try++ {
		for server := range n {
			wg.Go(func() {
				tctx, stop := context.WithTimeout(ctx, 2*time.Second)
				defer stop()
				err := op(tctx, server, try)
				if err == nil {
					once.Do(func() { close(won) })
					return
				}
				mu.Lock()
				defer mu.Unlock()
				last = err
			})
		}
		select {
		case <-won:
			cancel()
			return nil
		case <-ctx.Done():
			mu.Lock()
			defer mu.Unlock()
			return fmt.Errorf("no write succeeded within a minute: %w", last)
		case <-tick.C:
		}
	}
}
