package dispatcher

import (
	"math"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

// TestClockOfANode: a heartbeat is answered with the manager's time, and what the
// node makes of it is shown; what no clock can be off by ends the session.
func TestClockOfANode(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.addNode()
		c := w.session(n)
		beat := heartbeat()
		beat.GetHeartbeat().Sent = 42
		beat.GetHeartbeat().Clock = &schedulerpb.ClockOffset{AheadNs: int64(-time.Minute), UnsureNs: 5}
		sent := time.Now()
		c.send(beat)
		w.settle(time.Second)
		if s := w.d.Sessions(); len(s) != 1 || s[0].Clock.GetAheadNs() != int64(-time.Minute) || s[0].Clock.GetUnsureNs() != 5 {
			t.Errorf("sessions %v", s)
		}
		c.mu.Lock()
		answered := false
		for _, m := range c.got {
			if set := m.GetSettings(); set.GetHeartbeatSent() == 42 {
				answered = set.GetNow() >= sent.UnixNano()
			} else if set.GetNow() != 0 {
				t.Errorf("a time that nobody asked for: %v", set)
			}
		}
		c.mu.Unlock()
		if !answered {
			t.Error("the heartbeat was not answered with a time")
		}
		for _, bad := range []*schedulerpb.ClockOffset{{AheadNs: math.MinInt64}, {AheadNs: math.MaxInt64}, {UnsureNs: -1}, {UnsureNs: math.MaxInt64}} {
			c := w.session(w.addNode())
			m := heartbeat()
			m.GetHeartbeat().Clock = bad
			c.send(m)
			c.wantEnd(codes.InvalidArgument)
		}
	})
}
