package keyd

import (
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// rate is a burst and the interval at which one more use is granted.
type rate struct {
	burst int
	every time.Duration
}

// bucket counts uses against a rate. The zero value is full.
type bucket struct {
	spent int
	since time.Time // when spent was last reduced
}

// take uses one, or reports that none is left.
func (b *bucket) take(r rate, now time.Time) bool { return b.takeAll(1, r, now) }

// takeAll uses n, or none and reports that fewer are left.
func (b *bucket) takeAll(n int, r rate, now time.Time) bool {
	if back := int(now.Sub(b.since) / r.every); back >= b.spent {
		b.spent, b.since = 0, now
	} else if back > 0 {
		b.spent -= back
		b.since = b.since.Add(time.Duration(back) * r.every)
	}
	if b.spent+n > r.burst {
		return false
	}
	b.spent += n
	return true
}

func (b *bucket) check(r rate, now time.Time) error { return b.checkAll(1, r, now) }

func (b *bucket) checkAll(n int, r rate, now time.Time) error {
	if !b.takeAll(n, r, now) {
		return refuse(keydpb.Code_CODE_RATE_LIMITED, "too many requests of this kind: try again in %s", time.Duration(n)*r.every)
	}
	return nil
}

// backoff makes wrong keys wait, without making anybody else wait.
type backoff struct {
	fails int
	until time.Time
}

func (b *backoff) check(now time.Time) error {
	if wait := b.until.Sub(now); wait > 0 {
		return refuse(keydpb.Code_CODE_RATE_LIMITED, "too many wrong keys: try again in %s", wait.Round(time.Second)+time.Second)
	}
	return nil
}

func (b *backoff) fail(now time.Time) {
	b.fails++
	if over := b.fails - freeTries; over >= 0 {
		b.until = now.Add(min(firstBackoff<<min(over, 10), maxBackoff))
	}
}

func (b *backoff) reset() { *b = backoff{} }

// replays remembers the last maxReplays joins, oldest forgotten first.
type replays struct {
	seen map[[32]byte]bool
	ring [][32]byte
	next int
}

// add reports whether h is new.
func (r *replays) add(h [32]byte) bool {
	if r.seen[h] {
		return false
	}
	if r.seen == nil {
		r.seen = make(map[[32]byte]bool)
	}
	if len(r.ring) < maxReplays {
		r.ring = append(r.ring, h)
	} else {
		delete(r.seen, r.ring[r.next])
		r.ring[r.next] = h
		r.next = (r.next + 1) % maxReplays
	}
	r.seen[h] = true
	return true
}
