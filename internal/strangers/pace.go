package strangers

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Pace is a token bucket per key: burst at once, then one every interval. Who
// comes too early waits for its turn, for at most patience: nodes behind one
// address that come back together are let in one after the other. A bounded
// number of keys is remembered; beyond it the others share one bucket.
type Pace struct {
	burst    int
	interval time.Duration
	patience time.Duration
	max      int

	mu sync.Mutex
	// full is when each bucket will be full again; a key is forgotten then.
	full map[string]time.Time
}

// ErrPaced is the refusal of who would have to wait for too long.
var ErrPaced = errors.New("too many connections a second from that source")

// NewPace remembers at most max keys apart.
func NewPace(burst int, interval, patience time.Duration, max int) *Pace {
	return &Pace{burst: burst, interval: interval, patience: patience, max: max, full: map[string]time.Time{}}
}

// Wait returns when it is key's turn, or refuses.
func (p *Pace) Wait(ctx context.Context, key string) error {
	d, ok := p.reserve(key, time.Now())
	switch {
	case !ok:
		return ErrPaced
	case d <= 0:
		return nil
	}
	return pause(ctx, d)
}

// reserve takes a token of key, which is there after d.
func (p *Pace) reserve(key string, now time.Time) (d time.Duration, ok bool) {
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

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Owed is in how long the bucket of each key that is remembered is full again.
func (p *Pace) Owed() map[string]time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]time.Duration, len(p.full))
	for k, full := range p.full {
		out[k] = time.Until(full)
	}
	return out
}
