package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"
)

// lost counts why sessions ended or did not begin, with what differs from node to
// node left out: where time goes when all nodes come back is in these counts.
type lost struct {
	mu sync.Mutex
	by map[string]int
}

var particular = regexp.MustCompile(`\d+(\.\d+)+(:\d+)?|\b\d{4,}\b`)

func (l *lost) add(err error) {
	if err == nil {
		return
	}
	why := particular.ReplaceAllString(err.Error(), "…")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[string]int{}
	}
	l.by[why]++
}

// print writes what was counted since it was last asked, most frequent first.
func (l *lost) print(w io.Writer) {
	l.mu.Lock()
	by := l.by
	l.by = nil
	l.mu.Unlock()
	whys := slices.SortedFunc(maps.Keys(by), func(a, b string) int { return cmp.Compare(by[b], by[a]) })
	for _, why := range whys {
		fmt.Fprintf(w, "  %6d × %s\n", by[why], why)
	}
}

// trace writes every second how many sessions there are and why others ended,
// until the returned function is called.
func (f *fleet) trace(ctx context.Context, w io.Writer) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	began := time.Now()
	wg.Go(func() {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				fmt.Fprintf(w, "%5.1fs %d sessions, %d dials\n", time.Since(began).Seconds(), f.sessions.Load(), f.dials.Load())
				f.lost.print(w)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}
