package pki

import (
	"sync"
	"time"
)

// limiter is a token bucket per key. It remembers a bounded number of keys;
// when all of those are still paying for what they did, a new key is refused
// rather than let in unmeasured.
type limiter struct {
	burst  int
	refill time.Duration // per token
	max    int

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	// full is when the bucket will be full again.
	full time.Time
}

func newLimiter(burst int, refill time.Duration, max int) *limiter {
	return &limiter{burst: burst, refill: refill, max: max, buckets: map[string]bucket{}}
}

func (l *limiter) allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.buckets[key]
	if !ok && len(l.buckets) >= l.max {
		for k, b := range l.buckets {
			if !now.Before(b.full) {
				delete(l.buckets, k)
			}
		}
		if len(l.buckets) >= l.max {
			return false
		}
	}
	if b.full.Before(now) {
		b.full = now
	}
	next := b.full.Add(l.refill)
	if next.Sub(now) > time.Duration(l.burst)*l.refill {
		return false
	}
	l.buckets[key] = bucket{next}
	return true
}
