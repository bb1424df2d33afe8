package agent

import (
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

func TestClockMeasures(t *testing.T) {
	var c clock
	hb := &schedulerpb.Heartbeat{}
	start := time.Now()
	c.ask(hb, start)
	if hb.Sent != start.UnixNano() || hb.Clock != nil {
		t.Fatalf("the first question: %v", hb)
	}
	leader := start.Add(-time.Hour + 30*time.Millisecond)
	c.answer(&schedulerpb.Settings{HeartbeatNs: 1}, start.Add(time.Millisecond)) // no time
	c.answer(&schedulerpb.Settings{HeartbeatSent: hb.Sent - 1, Now: leader.UnixNano()}, start.Add(time.Millisecond))
	if c.offset != nil {
		t.Fatalf("settings that answer something else were taken: %v", c.offset)
	}
	c.answer(&schedulerpb.Settings{HeartbeatSent: hb.Sent, Now: leader.UnixNano()}, start.Add(100*time.Millisecond))
	c.answer(&schedulerpb.Settings{HeartbeatSent: hb.Sent, Now: 1}, start.Add(time.Minute)) // again
	c.ask(hb, start.Add(time.Second))
	if got := time.Duration(hb.Clock.GetAheadNs()); (got - time.Hour).Abs() > 50*time.Millisecond {
		t.Errorf("%v ahead, want an hour within half the round trip", got)
	}
	if got := time.Duration(hb.Clock.GetUnsureNs()); got != 50*time.Millisecond {
		t.Errorf("unsure to %v, want half of 100ms", got)
	}
}
