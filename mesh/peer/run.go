package peer

import (
	"context"
	"sort"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// Run listens, dials and declares until ctx ends, which it returns, or the
// listener fails. Then every connection is closed; what netd has stays in force.
// Call it once.
func (p *Peers) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.mu.Lock()
	p.ctx, p.running = ctx, true
	p.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { p.o.Listener.Close() })
	p.wg.Go(func() { cancel(p.accept(ctx)) })
	p.wg.Go(func() { p.declare(ctx) })
	p.loop(ctx)
	if stop() {
		p.o.Listener.Close()
	}
	p.mu.Lock()
	p.running = false
	for _, pr := range p.pairs {
		if l := pr.link; l != nil {
			p.drop(l, errStopped, time.Now())
			l.cut()
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
	return context.Cause(ctx)
}

// loop does what is due.
func (p *Peers) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.kick:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if next := p.act(now); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(next.Sub(now), time.Millisecond))
		}
	}
}

// act does what is due and returns when something will be; zero: nothing will.
func (p *Peers) act(now time.Time) (next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running || !p.own.known() {
		return next
	}
	if !p.renewDue.IsZero() && !now.Before(p.renewDue) {
		p.renewed, p.renewDue = now, time.Time{}
		for _, pr := range p.pairs {
			pr.asked = pr.inForce != nil
		}
	}
	next = earlier(earlier(p.renewDue, p.discourse(now)), p.hearken(now))
	open := 0
	for _, pr := range p.pairs {
		if pr.link != nil {
			if !pr.link.resting {
				open++
			}
			next = earlier(next, p.tend(pr.link, now))
			continue
		}
		at := p.callAt(pr)
		if at.IsZero() {
			continue
		}
		if at.After(now) {
			next = earlier(next, at)
		} else if p.dialling < maxDialling { // or it is its turn when another has ended
			p.call(pr)
		}
	}
	if open > p.o.kept {
		next = earlier(next, p.restSome(open-p.o.kept, now))
	}
	return next
}

// callAt is when the peer is to be called; zero: it is not.
func (p *Peers) callAt(pr *pair) time.Time {
	if pr.dialling || pr.view.Underlay == "" {
		return time.Time{}
	}
	at := pr.nextDial
	if pr.resting {
		if need := p.needAt(pr); need.After(at) {
			at = need
		}
	}
	if at.IsZero() {
		at = time.Unix(0, 0)
	}
	return at
}

// needAt is when there is something to be said to a peer without a connection.
func (p *Peers) needAt(pr *pair) time.Time {
	lower, higher := p.own.keys(), pr.keys
	if !p.lower(pr.view.ID) {
		lower, higher = higher, lower
	}
	s := pr.inForce
	switch {
	case s == nil || !s.cover(lower, higher):
		return time.Time{}
	case pr.asked:
		return s.made.Add(askAgain)
	case p.lower(pr.view.ID):
		return s.due
	}
	return s.made.Add(askAfter)
}

// tend does what is due on a connection and returns when it is to be looked at
// again.
func (p *Peers) tend(l *link, now time.Time) time.Time {
	pr := l.pair
	err := errEnded
	next := l.until
	if now.Before(l.until) {
		var out []*peerpb.Frame
		mine := announcement{keys: p.own.keys(), port: p.own.port, undialled: pr.away, mtu: p.ownMTU(), source: unzoned(l.source)}
		if t := l.x.told; t == nil || t.keys != mine.keys || t.port != mine.port || t.undialled != mine.undialled || t.mtu != mine.mtu {
			out = l.x.tell(mine, now)
		}
		if s := pr.inForce; s != nil && l.x.heard != nil && pr.settled == s.epoch && l.x.readied != s.epoch {
			l.x.readied = s.epoch
			out = append(out, &peerpb.Frame{Message: &peerpb.Frame_Ready{Ready: &peerpb.Ready{Epoch: s.epoch}}})
		}
		if !pr.hold.IsZero() {
			if now.Before(pr.hold) {
				next = earlier(next, pr.hold)
			} else {
				p.release(pr)
			}
		}
		var more []*peerpb.Frame
		var at time.Time
		if more, at, err = l.x.act(now); err == nil {
			err = p.say(l, append(out, more...))
		}
		next = earlier(earlier(next, at), p.talk(l, now))
		if err == nil {
			at, err = p.prove(l, now)
			next = earlier(next, at)
		}
	}
	if err != nil {
		p.drop(l, err, now)
		l.cut()
		return pr.nextDial
	}
	return next
}

// restSome closes connections on which nothing is to be said, those first that
// were used longest ago.
func (p *Peers) restSome(n int, now time.Time) (next time.Time) {
	var idle []*link
	for _, pr := range p.pairs {
		if l := pr.link; l != nil && !l.resting && l.x.told != nil && l.x.heard != nil && l.x.offered == nil && !l.x.missing() && !pr.asked && len(l.owed) == 0 {
			idle = append(idle, l)
		}
	}
	sort.Slice(idle, func(i, j int) bool { return idle[i].used.Before(idle[j].used) })
	for _, l := range idle[:min(n, len(idle))] {
		if at := l.used.Add(restAfter); at.After(now) {
			return earlier(next, at)
		}
		l.resting = true
		if p.say(l, []*peerpb.Frame{{Message: &peerpb.Frame_Rest{Rest: &peerpb.Rest{}}}}) != nil {
			l.cut()
		}
	}
	return next
}
