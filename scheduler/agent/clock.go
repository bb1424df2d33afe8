package agent

import (
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// clock measures how far this node's wall clock is ahead of the leader's: each
// heartbeat is a question, the settings that answer it name the leader's time,
// which was somewhere between asking and hearing. The middle is taken, and half
// of that time is how unsure it is. The next heartbeat tells the leader.
type clock struct {
	mu     sync.Mutex // guards the following
	asked  time.Time  // zero: nothing is asked
	offset *schedulerpb.ClockOffset
}

// ask makes a heartbeat the question, and has it tell what was found before.
func (c *clock) ask(hb *schedulerpb.Heartbeat, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = now
	hb.Sent, hb.Clock = now.UnixNano(), c.offset
}

// answer takes settings that answer the last question; others tell no time.
func (c *clock) answer(s *schedulerpb.Settings, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.GetNow() == 0 || c.asked.IsZero() || s.GetHeartbeatSent() != c.asked.UnixNano() {
		return
	}
	half := now.Sub(c.asked) / 2 // by the clock that nobody sets
	ahead := c.asked.Add(half).Sub(time.Unix(0, s.GetNow()))
	c.asked = time.Time{}
	c.offset = &schedulerpb.ClockOffset{AheadNs: int64(ahead), UnsureNs: int64(half)}
}
