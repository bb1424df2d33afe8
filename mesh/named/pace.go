package named

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// pace lets a sandbox ask maxRate queries in a second, and maxBurst at once. Who
// asks more is not read for a while: what waits in the kernel costs nothing.
type pace struct {
	mu   sync.Mutex
	free float64 // queries that may pass at the time at; guarded by mu
	at   time.Time
	held *atomic.Uint64 // counts queries that had to wait; may be nil
}

// wait returns when one more query may be read, or with ctx's error.
func (p *pace) wait(ctx context.Context) error {
	p.mu.Lock()
	now := time.Now()
	if p.at.IsZero() {
		p.free = maxBurst
	} else {
		p.free = min(p.free+now.Sub(p.at).Seconds()*maxRate, maxBurst)
	}
	p.at = now
	p.free--
	owed := -p.free
	p.mu.Unlock()
	if owed <= 0 {
		return ctx.Err()
	}
	if p.held != nil {
		p.held.Add(1)
	}
	t := time.NewTimer(time.Duration(owed / maxRate * float64(time.Second)))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
