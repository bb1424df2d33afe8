package heap

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 400}, {1 << 20, 400}, {8 << 20, 200}, {16 << 20, 100}, {32 << 20, 50}, {320 << 20, 50},
	} {
		var k keeper
		if got := k.percent(usage{live: c.live}); got != c.want {
			t.Errorf("%d MiB alive: GOGC %d, want %d", c.live>>20, got, c.want)
		}
	}
	var k keeper
	k.percent(usage{live: 16 << 20})
	if got := k.percent(usage{live: 15 << 20}); got != 100 {
		t.Errorf("a small change moved it to %d", got)
	}
}

// A second of work leaves the room as it is; work that lasts gets more, and
// loses it again when it is over.
func TestPercentOfTheBusy(t *testing.T) {
	const live = 80 << 20
	at := time.Unix(1_700_000_000, 0)
	var k keeper
	var alloced uint64
	run := func(d time.Duration, pace uint64) (percent int) {
		for ; d > 0; d -= 250 * time.Millisecond {
			at, alloced = at.Add(250*time.Millisecond), alloced+pace/4
			percent = k.percent(usage{live: live, alloced: alloced, at: at})
		}
		return percent
	}
	if got := run(30*time.Second, 1<<20); got != minPercent {
		t.Errorf("at rest: GOGC %d", got)
	}
	if got := run(2*time.Second, 100<<20); got != minPercent {
		t.Errorf("after two seconds of work: GOGC %d", got)
	}
	if got := run(3*time.Second, 1<<20); got != minPercent {
		t.Errorf("after a pause: GOGC %d", got)
	}
	if got := run(2*time.Second, 100<<20); got != minPercent {
		t.Errorf("after two seconds of work once more: GOGC %d", got)
	}
	if got := run(10*time.Second, 80<<20); got < 110 {
		t.Errorf("after ten seconds of work: GOGC %d", got)
	}
	if got := run(time.Minute, 1000<<20); got < 110 || got > 120 {
		t.Errorf("at any pace: GOGC %d, want 120 for 96 MiB, or a step less", got)
	}
	if got := run(30*time.Second, 1<<20); got != minPercent {
		t.Errorf("at rest again: GOGC %d", got)
	}
}

func TestSettle(t *testing.T) {
	var k keeper
	for i, c := range []struct {
		alloced uint64
		want    bool
	}{
		{100 << 20, false}, // in the middle of a burst
		{101 << 20, true},  // after it
		{102 << 20, false}, // for nothing
		{109 << 20, false},
		{111 << 20, false}, // less than a quarter of what is alive
		{117 << 20, true},
	} {
		if got := k.settle(usage{live: 60 << 20, alloced: c.alloced}); got != c.want {
			t.Errorf("look %d: %v", i, got)
		}
	}
}

var hold [][]byte

// What a burst leaves behind goes back to the kernel, and the collector is told
// of a growing heap while it grows.
func TestKeep(t *testing.T) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		t.Fatal("GOGC or GOMEMLIMIT is set: unset it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Keep(ctx) }()
	for range 64 {
		hold = append(hold, touched(1<<20))
	}
	await(t, "the collector's percentage follows", func() bool {
		runtime.GC()
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		// It moves by more than a step: what was set while they came may stay.
		return s[0].Value.Uint64() <= minPercent+step
	})
	full := resident(t)
	hold = nil
	await(t, "the memory comes back", func() bool { return resident(t) < full-(40<<20) })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Keep ended with %v", err)
	}
	debug.SetGCPercent(100)
}

func touched(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	return b
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for !cond() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}
