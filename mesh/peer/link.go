package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/wire"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// A link is a connection of a pair whose handshake is done. It has one goroutine,
// which reads; another writes while there is something to write.
type link struct {
	conn    *tls.Conn
	raw     net.Conn
	pair    *pair
	dialled bool // by this node
	born    time.Time
	until   time.Time // the other's certificate ends
	remote  netip.AddrPort
	source  netip.AddrPort // this node's end of it; zero: not known
	local   string         // the address of that

	// Guarded by Peers.mu:
	x        exchange
	used     time.Time
	queue    []*peerpb.Frame
	flushing bool
	resting  bool // it ends once the queue is written
	over     bool
	proving  proving
	asks     map[string]bool     // networks of which the peer is asked what it says
	owed     map[string][]string // networks of which the peer is to be told, and to whom it is to pass that
	words    budget              // for statements to it
	// translated: the other has another end of it than is seen here.
	translated bool
	boot       uint64 // that it spoke of last; 0: it said nothing on this connection

	// Of the reader:
	frames, statements budget
}

var (
	errReplaced = errors.New("another connection took its place")
	errRested   = errors.New("nothing is to be said")
	errPace     = errors.New("it says too much")
	errUnread   = errors.New("it does not read what it is told")
	errEnded    = errors.New("its certificate has ended")
	errStopped  = errors.New("this node's connections end")
)

// cut closes the connection without taking leave; nil is none.
func (l *link) cut() {
	if l != nil {
		l.raw.Close()
	}
}

// adopt makes the connection the pair's and starts reading it, or returns why not.
// The caller closes it then.
func (p *Peers) adopt(id string, conn *tls.Conn, raw net.Conn, dialled bool) error {
	cs := conn.ConnectionState()
	now := time.Now()
	l := &link{conn: conn, raw: raw, dialled: dialled, born: now, used: now, until: cs.PeerCertificates[0].NotAfter,
		frames:     budget{left: framesAtOnce, most: framesAtOnce, every: frameEvery, filled: now},
		statements: budget{left: hearAtOnce, most: hearAtOnce, every: hearEvery, filled: now},
		words:      budget{left: sayAtOnce, most: sayAtOnce, every: sayEvery, filled: now}}
	l.remote = endOf(raw.RemoteAddr())
	if l.source = endOf(raw.LocalAddr()); l.source.IsValid() {
		l.local = l.source.Addr().String()
	}
	var old *link
	defer func() { old.cut() }()
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := p.pairs[id]
	switch {
	case !p.running:
		return errStopped
	case pr == nil:
		return errNoPeer
	case pr.link != nil && !p.better(l, pr.link):
		return errReplaced
	}
	if old = pr.link; old != nil {
		old.over = true
		old.x.abandon()
	}
	l.pair, pr.link = pr, l
	l.x = exchange{ids: p.ids(id), lower: p.lower(id), export: cs.ExportKeyingMaterial, mem: &pr.memory}
	pr.resting = false
	pr.judge()
	p.wg.Go(func() { p.read(l) })
	poke(p.kick)
	return nil
}

// endOf is an end of a connection; zero: it is no address.
func endOf(a net.Addr) netip.AddrPort {
	e, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
}

func unzoned(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
}

// better decides between a new connection of a pair and the one it has. Whoever
// dials has none that works, so the new one is the right one, but where both
// dialled at the same moment: then both keep that of the lower id.
func (p *Peers) better(l, old *link) bool {
	if l.born.Sub(old.born) >= glare || l.dialled == old.dialled {
		return true
	}
	return l.dialled == p.lower(old.pair.view.ID)
}

func (p *Peers) ids(other string) [2]string {
	if p.lower(other) {
		return [2]string{p.o.ID, other}
	}
	return [2]string{other, p.o.ID}
}

func (p *Peers) read(l *link) {
	for {
		var f peerpb.Frame
		err := wire.ReadUpTo(l.conn, &f, maxFrame)
		m := f.GetSaid()
		of := &l.frames
		if m != nil || f.GetGot() != nil {
			of = &l.statements
		}
		switch {
		case err != nil:
		case !of.take(time.Now()):
			err = errPace
		case m != nil:
			err = p.said(l, m)
		default:
			err = p.heard(l, &f)
		}
		if err != nil {
			p.lost(l, err)
			return
		}
	}
}

// heard takes a frame.
func (p *Peers) heard(l *link, f *peerpb.Frame) error {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	pr := l.pair
	if l.over {
		return errReplaced
	}
	if m := f.GetGot(); m != nil && l.x.heard != nil {
		return p.got(l, m, now)
	}
	defer poke(p.kick)
	l.used = now
	switch m := f.GetMessage().(type) {
	case *peerpb.Frame_Announce:
		a, err := parseAnnounce(m.Announce)
		if err == nil {
			err = p.announced(pr, a.keys)
		}
		first := l.x.heard == nil
		if err == nil {
			err = l.x.announced(a)
		}
		if err != nil {
			return err
		}
		if first {
			p.greet(l, now)
		}
		pr.fails, pr.err = 0, nil // only now it is known that it lets us in
		p.found(pr, l, a)
		return nil
	case *peerpb.Frame_Rest:
		return errRested
	case *peerpb.Frame_Prove:
		return p.proved(l, m.Prove)
	}
	out, switched, err := l.x.hear(f, now)
	if err != nil {
		return err
	}
	if switched {
		p.counts.exchanges++
		p.switched(pr, l.x.lower, now)
	}
	if !pr.hold.IsZero() && pr.ready == pr.inForce.epoch {
		p.release(pr)
	}
	if p.own.next != (key{}) {
		poke(p.settle) // it may have been the last to be ready
	}
	return p.say(l, out)
}

// switched has netd told of new secrets. WireGuard loses a handshake that both ends
// begin at once, and begins the next one after five seconds; and netd begins one
// with a key that is new to it. So of the two the higher id's is told first, and not
// where to call; when that is done the lower id's is told, and calls; then the
// higher id's learns the rest.
func (p *Peers) switched(pr *pair, lower bool, now time.Time) {
	pr.hold = now.Add(holdFor)
	pr.mute = !lower && (pr.entry == nil || pr.entry.key != pr.keys.current)
	p.refresh(pr)
}

// release ends the wait, where there is one.
func (p *Peers) release(pr *pair) {
	if !pr.hold.IsZero() {
		pr.hold, pr.mute = time.Time{}, false
		p.refresh(pr)
	}
}

// announced notes the keys that a peer says are its own, if they are nobody else's.
// Until it has shown that (prove.go) they keep nobody from announcing the same.
func (p *Peers) announced(pr *pair, k keys) error {
	for _, x := range []key{k.current, k.next} {
		if err := p.free(pr, x); err != nil {
			return err
		}
	}
	p.unclaim(pr)
	had := pr.proven
	pr.keys, pr.proven = k, map[key]bool{}
	for _, x := range []key{k.current, k.next} {
		if had[x] {
			pr.proven[x] = true
			p.claims[x] = pr.view.ID
		}
	}
	return nil
}

// free fails where a key is another's.
func (p *Peers) free(pr *pair, k key) error {
	switch by := p.claims[k]; {
	case k == (key{}):
		return nil
	case by != "" && by != pr.view.ID:
		return fmt.Errorf("%w: it claims the WireGuard key of node %s", errNotItsOwn, by)
	case k == p.own.current || k == p.own.next:
		return fmt.Errorf("%w: it claims this node's WireGuard key", errNotItsOwn)
	}
	return nil
}

// found notes where the peer's WireGuard is.
func (p *Peers) found(pr *pair, l *link, a announcement) {
	pr.port, pr.calls, pr.mtu = a.port, a.undialled, a.mtu
	l.translated = a.source.IsValid() && l.remote.IsValid() && a.source != unzoned(l.remote)
	pr.judge()
	pr.endpoint = netip.AddrPort{}
	if r := l.remote.Addr(); r.IsGlobalUnicast() || r.IsLinkLocalUnicast() {
		pr.endpoint = netip.AddrPortFrom(r, a.port)
	}
	p.refresh(pr)
}

// say queues frames. p.mu is held.
func (p *Peers) say(l *link, frames []*peerpb.Frame) error {
	if len(frames) == 0 || l.over {
		return nil
	}
	if l.queue = append(l.queue, frames...); len(l.queue) > maxQueue {
		return errUnread
	}
	l.used = time.Now()
	if !l.flushing {
		l.flushing = true
		p.wg.Go(func() { p.flush(l) })
	}
	return nil
}

// flush writes what is queued.
func (p *Peers) flush(l *link) {
	for {
		p.mu.Lock()
		frames, resting := l.queue, l.resting
		if l.queue = nil; len(frames) == 0 {
			l.flushing = false
		}
		p.mu.Unlock()
		if len(frames) == 0 {
			if resting {
				p.lost(l, errRested)
			}
			return
		}
		for _, f := range frames {
			l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			if err := wire.Write(l.conn, f); err != nil {
				p.lost(l, err)
				return
			}
		}
	}
}

// lost ends a connection, for the first reason that is given.
func (p *Peers) lost(l *link, err error) {
	l.raw.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(l, err, time.Now())
}

// drop is lost under p.mu.
func (p *Peers) drop(l *link, err error, now time.Time) {
	pr := l.pair
	if l.over || pr.link != l {
		return
	}
	l.over = true
	l.x.abandon()
	pr.link = nil
	p.release(pr)
	if pr.resting = errors.Is(err, errRested); pr.resting {
		pr.nextDial = time.Time{}
		poke(p.kick)
		return
	}
	pr.err = err
	pr.lost, pr.askedAt, pr.unanswered = now, time.Time{}, 0
	pr.fails++
	pr.nextDial = now.Add(backoff(pr.fails))
	if !p.lower(pr.view.ID) {
		pr.nextDial = pr.nextDial.Add(helpAfter)
	}
	if errors.Is(err, errUnproven) || errors.Is(err, errNotItsOwn) {
		p.counts.refused++
		p.refusals.Warn(pr.view.ID, "refused a peer's WireGuard key: two nodes have the same, or one lies", "node", pr.view.ID, "reason", err)
	}
	p.log.Debug("connection to a peer ended", "node", pr.view.ID, "reason", err)
	poke(p.kick)
}
