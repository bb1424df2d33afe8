package peer

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A node that lost its power says nothing, and while no manager is there nobody says
// it of it. So each node judges for itself, and for itself alone, which of its peers
// answer neither on port 7946 nor in the tunnel: whoever leads to tasks leads to
// others' as long as there are any (Options.Silent, package overlay). Nobody is told.
//
// A connection that is open is a sign of life: the kernel ends it when the other's
// kernel is not heard from for lostAfter. A pair without one is asked through the
// tunnel, where only the peer itself can answer, with whatever: that its port is
// closed is an answer, too. One that gave none for silentAfter, to two questions at
// least, is silent, until there is a sign of it: a connection, an answer, or bytes that
// came through the tunnel. It goes on being asked.
//
// A node none of whose peers gives a sign is itself cut off, and judges none of them;
// where it has a single one, that is the same for both.
type hearkening struct {
	lost       time.Time // there was no sign since, and no connection is open; zero: there was
	asking     bool
	askedAt    time.Time // the last question was put then
	unanswered int       // questions in a row
	silent     bool

	// By netd's counters: what came, how much was sent when something came last, and
	// since when there is something without an answer; zero: there is nothing.
	received, sent uint64
	unheard        time.Time
}

// sign notes that the peer lives. p.mu is held.
func (pr *pair) sign() {
	pr.lost, pr.unanswered, pr.unheard = time.Time{}, 0, time.Time{}
}

// hearken asks the peers that may be gone, judges them, and returns when something is
// to be done again. p.mu is held.
func (p *Peers) hearken(now time.Time) (next time.Time) {
	living, lost, gone := 0, 0, 0
	due := func(pr *pair) bool {
		return !pr.lost.IsZero() && pr.unanswered >= silentQuestions && now.Sub(pr.lost) >= silentAfter
	}
	for id, pr := range p.pairs {
		_, tunnel := p.declared.known[id]
		switch {
		case pr.link != nil:
			pr.sign()
			living++
			continue
		case pr.resting || !tunnel || !p.mesh.IsValid():
			pr.unanswered = 0
			continue
		case pr.lost.IsZero() && !pr.silent && pr.unanswered == 0 && pr.askedAt.IsZero():
			pr.lost, pr.askedAt = now, now // it never gave a sign in this process
		}
		if pr.lost.IsZero() {
			living++
		} else {
			lost++
		}
		if due(pr) {
			gone++
		}
		at := pr.askedAt.Add(askLifeEvery)
		switch {
		case pr.asking:
		case at.After(now):
			next = earlier(next, at)
		case p.asking < maxAsking:
			p.askLife(pr, now)
		}
		if !pr.lost.IsZero() && pr.unanswered >= silentQuestions && !due(pr) {
			next = earlier(next, pr.lost.Add(silentAfter))
		}
	}
	if gone == 0 && len(p.silence) == 0 && !p.alone {
		return next
	}
	cut := living == 0 && lost > 1 // also while the first alone is due
	if p.alone && !cut {           // it is back, and hears the others one after the other
		for _, pr := range p.pairs {
			if due(pr) {
				pr.lost, pr.unanswered = now, 0
			}
		}
		next = earlier(next, now.Add(askLifeEvery))
	}
	p.alone = cut
	silent := map[string]bool{}
	for id, pr := range p.pairs {
		was := pr.silent
		_, tunnel := p.declared.known[id]
		if pr.silent = pr.link == nil && !pr.resting && tunnel && due(pr) && !cut; pr.silent {
			silent[id] = true
		}
		if was != pr.silent {
			p.log.Info("a peer's silence", "node", id, "silent", pr.silent)
		}
	}
	if p.o.Silent != nil && !maps.Equal(silent, p.silence) {
		p.silence = silent
		p.o.Silent(maps.Clone(silent))
	}
	return next
}

// askLife puts a question to the peer through the tunnel. p.mu is held.
func (p *Peers) askLife(pr *pair, now time.Time) {
	pr.asking, pr.askedAt = true, now
	p.asking++
	to := netip.AddrPortFrom(pr.view.Mesh, DefaultPort)
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, askLifeFor)
		defer cancel()
		answered := p.o.ask(ctx, to)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asking--
		pr.asking = false
		if answered {
			pr.sign()
		} else if p.ctx.Err() == nil { // this process is not what ended it
			pr.unanswered++
			if pr.lost.IsZero() {
				pr.lost = now
			}
		}
		poke(p.kick)
	})
}

// askTunnel reports whether something answered there: a port that is closed as well.
func askTunnel(ctx context.Context, to netip.AddrPort) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err == nil {
		c.Close()
	}
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// counted takes what went through the tunnel to the peer. One whose connection rests is
// called where it does not answer what is sent to it. p.mu is held.
func (p *Peers) counted(pr *pair, received, sent uint64, now time.Time) {
	switch {
	case received != pr.received:
		if received > pr.received && pr.received > 0 {
			pr.sign()
		}
		pr.received, pr.sent, pr.unheard = received, sent, time.Time{}
	case sent == pr.sent:
	case pr.unheard.IsZero():
		pr.unheard = now
	case pr.resting && now.Sub(pr.unheard) >= muteAfter:
		pr.resting, pr.nextDial = false, now
		poke(p.kick)
	}
}

// asksLife reports whether a connection was such a question.
func (p *Peers) asksLife(conn net.Conn, err error) bool {
	a, bad := netip.ParseAddrPort(conn.RemoteAddr().String())
	p.mu.Lock()
	defer p.mu.Unlock()
	return bad == nil && errors.Is(err, io.EOF) && p.mesh.IsValid() && p.mesh.Contains(a.Addr().Unmap())
}

// endsSoon has the kernel end the connection when the other's is not heard from.
func endsSoon(raw syscall.RawConn) error {
	var err error
	if err2 := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(lostAfter/time.Millisecond))
	}); err2 != nil {
		return err2
	}
	return err
}
