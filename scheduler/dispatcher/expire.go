package dispatcher

import (
	"context"
	"time"
)

// expire calls nodes down that were silent for too long, records addresses that
// were held, and passes on a changed list of managers.
func (d *Dispatcher) expire(ctx context.Context) error {
	interval := d.config.Heartbeat / 10
	tick := time.NewTicker(interval)
	defer tick.Stop()
	last := time.Now()
	look := time.NewTicker(managersInterval)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			d.spreadManagers()
		case <-tick.C:
			last = d.expireSince(last, interval)
		}
	}
}

// expireSince looks at all deadlines, as it did at last, and says when it was.
func (d *Dispatcher) expireSince(last time.Time, interval time.Duration) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now() // with the lock: who held it kept words from being heard, too
	if late := now.Sub(last) - interval; late > d.config.Heartbeat {
		d.excuse(now, late)
	}
	for id, m := range d.members {
		if to, ok := m.moves.due(now); ok {
			d.writer.nodeMoved(id, to)
		}
		if m.deadline.IsZero() || now.Before(m.deadline) {
			continue
		}
		m.deadline = time.Time{}
		if m.session != nil {
			m.session.cancel(errExpired)
			m.session = nil
		}
		d.config.Logger.Warn("node is down: nothing was heard from it", "node", id, "for", d.grace())
		d.writer.nodeDown(id, "no heartbeat for "+d.grace().String(), m.heard)
	}
	return now
}

// excuse puts deadlines off by the time in which this manager itself did not run
// and could hear nobody: else a pause of three heartbeats would make every node
// down at once, and every task begin anew elsewhere. Who was heard since has no
// more than its time. The caller holds mu.
func (d *Dispatcher) excuse(now time.Time, late time.Duration) {
	d.config.Logger.Warn("this manager did not run for a while: nodes are given that time to be heard again", "for", late.Round(time.Millisecond))
	for _, m := range d.members {
		if m.deadline.IsZero() {
			continue
		}
		m.deadline = m.deadline.Add(late)
		if latest := now.Add(d.grace()); m.deadline.After(latest) {
			m.deadline = latest
		}
	}
}
