package mesh

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Generation numbers declarations to a helper, which refuses one older than it
// has seen. The numbers start at the machine's uptime in nanoseconds: helpers
// keep the last one in memory only, so it must outgrow every number given
// since boot, also by a former process of ours, and must not depend on a wall
// clock that somebody may set back. The zero value is ready.
type Generation struct {
	mu   sync.Mutex
	last uint64
}

// Next returns a number larger than all before.
func (g *Generation) Next() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := uint64(0)
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil && ts.Nano() > 0 {
		now = uint64(ts.Nano())
	}
	g.last = max(g.last+1, now)
	return g.last
}
