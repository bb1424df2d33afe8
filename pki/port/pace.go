package port

import (
	"context"
	"errors"
	"sync"
	"time"
)

// pace is a token bucket per key: burst at once, then one every interval. Who
// comes too early waits for its turn, for at most patience: nodes behind one
// address that come back together are let in one after the other. A bounded
// number of keys is remembered; beyond it the others share one bucket.
type pace struct {
	burst    int
	interval time.Duration
	patience time.Duration
	max      int

	mu sync.Mutex
	// full is when each bucket will be full again; a key is forgotten then.
	full map[string]time.Time
}

var errPaced = errors.New("too many connections a second from that source")

func newPace(burst int, interval, patience time.Duration, max int) *pace {
	return &pace{burst: burst, interval: interval, patience: patience, max: max, full: map[string]time.Time{}}
}

// wait returns when it is key's turn, or refuses.
func (p *pace) wait(ctx context.Context, key string) error {
	d, ok := p.reserve(key, time.Now())
	switch {
	case !ok:
		return errPaced
	case d <= 0:
		return nil
	}
	return pause(ctx, d)
}

// reserve takes a token of key, which is there after d.
func (p *pace) reserve(key string, now time.Time) (d time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.full[key]; !known && len(p.full) >= p.max {
		for k, full := range p.full {
			if !full.After(now) {
				delete(p.full, k)
			}
		}
		if len(p.full) >= p.max {
			key = ""
		}
	}
	full := p.full[key]
	if full.Before(now) {
		full = now
	}
	full = full.Add(p.interval)
	d = full.Sub(now) - time.Duration(p.burst)*p.interval
	if d > p.patience {
		return 0, false
	}
	p.full[key] = full
	return max(d, 0), true
}
