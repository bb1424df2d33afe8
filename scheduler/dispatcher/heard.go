package dispatcher

import (
	"time"

	"github.com/redoubt-cluster/redoubt/raftstore"
)

// LastHeard is when a node was last heard, on both of this manager's clocks: time
// passes since then however its wall clock is set. False: that is not known, as it
// was not recorded, or as this manager does not lead.
func (d *Dispatcher) LastHeard(node string) (time.Time, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.members[node]
	if d.term == nil || m == nil || m.heard.IsZero() {
		return time.Time{}, false
	}
	return m.heard, true
}

// Beats reports whether a node has a session and was heard on it of late: within a
// heartbeat, and half of one for its way.
func (d *Dispatcher) Beats(node string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.members[node]
	return m != nil && m.session != nil && time.Since(m.heard) < d.config.Heartbeat*3/2
}

// hear prolongs a node's life. The caller holds mu.
func (d *Dispatcher) hear(m *member) {
	m.heard = time.Now()
	m.deadline = m.heard.Add(d.grace())
}

// heardBefore is when nodes were last heard that the leader before had as up: until
// that one was lost; where none was known here, when something was last recorded.
func heardBefore(r *raftstore.ReadTx, lost, now time.Time) time.Time {
	if lost.IsZero() {
		return onBothClocks(r.Clock(), now)
	}
	return lost
}

// onBothClocks is at, of the wall clock, as a moment that is that long before now by
// the monotonic clock too; what is ahead of now is now.
func onBothClocks(at, now time.Time) time.Time {
	return now.Add(-max(0, now.Round(0).Sub(at)))
}
