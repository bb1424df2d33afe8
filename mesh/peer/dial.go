package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/strangers"
)

var errNoPeer = errors.New("it is no peer of this node")

// backoff is how long to wait after that many failures.
func backoff(fails int) time.Duration {
	d := redialMax
	if fails < 10 {
		d = min(d, redialMin<<max(fails-1, 0))
	}
	return time.Duration((0.5 + rand.Float64()) * float64(d))
}

// call begins a connection to the peer. p.mu is held.
func (p *Peers) call(pr *pair) {
	pr.dialling = true
	p.dialling++
	id, address := pr.view.ID, pr.view.Underlay
	p.wg.Go(func() {
		err := p.connect(id, address)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.dialling--
		pr.dialling = false
		if err != nil && pr.link == nil {
			pr.fails++
			pr.nextDial = time.Now().Add(backoff(pr.fails))
			pr.err = err
			pr.away = true
			p.log.Debug("cannot reach a peer", "node", id, "address", address, "reason", err)
		}
		poke(p.kick)
	})
}

func (p *Peers) connect(id, address string) error {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	raw, err := p.o.dial(ctx, address)
	if err != nil {
		return err
	}
	conn := tls.Client(raw, p.guarded(p.o.TLS.ClientConfig(Protocol, id), raw, true))
	if err = conn.HandshakeContext(ctx); err == nil {
		err = p.adopt(id, conn, raw, true)
	}
	if err != nil {
		raw.Close()
		return fmt.Errorf("%s: %w", address, err)
	}
	return nil
}

// guarded adds to what the certificate says who is welcome at the other end of conn.
func (p *Peers) guarded(cfg *tls.Config, conn net.Conn, dialled bool) *tls.Config {
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verify(cs); err != nil {
			return err
		}
		id, err := p.o.TLS.NodeID(cs, Protocol)
		if err != nil {
			return err
		}
		if p.o.Admit != nil {
			if err := p.o.Admit(cs, conn.RemoteAddr()); err != nil {
				return err
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.pairs[id] == nil {
			if !dialled && id != p.o.ID {
				p.turnAway(id)
			}
			return fmt.Errorf("node %s: %w", id, errNoPeer)
		}
		return nil
	}
	return cfg
}

// turnAway remembers a node that came too early: it is called as soon as it is a
// peer.
func (p *Peers) turnAway(id string) {
	if len(p.unwelcome) >= maxUnwelcome {
		for other := range p.unwelcome { // any of them: it only costs a moment
			delete(p.unwelcome, other)
			break
		}
	}
	p.unwelcome[id] = time.Now()
}

// accept answers until the listener is closed.
func (p *Peers) accept(ctx context.Context) error {
	for {
		conn, err := p.o.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("peer: the listener was closed: %w", err)
		case err != nil:
			p.log.Warn("accepting a peer's connection failed", "err", err)
			pause(ctx, redialMin)
			continue
		}
		if tc, ok := conn.(*net.TCPConn); ok {
			tc.SetKeepAliveConfig(keepAlive)
			if raw, err := tc.SyscallConn(); err == nil {
				endsSoon(raw)
			}
		}
		p.wg.Go(func() {
			if err := p.answer(ctx, conn); err != nil {
				conn.Close()
				if ctx.Err() == nil {
					p.refuse(conn, err)
				}
			}
		})
	}
}

// answer shakes hands with whoever called. Everything until the certificate is
// verified is bounded.
func (p *Peers) answer(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	source := strangers.Key(conn.RemoteAddr())
	giveQuiet := p.quiet.Take(source, cancel)
	defer giveQuiet()
	offered, read, err := strangers.Peek(conn)
	if err != nil {
		return err
	}
	if len(offered) != 1 || offered[0] != Protocol {
		return errors.New("it speaks another protocol")
	}
	defer p.half.Take(source, cancel)()
	giveQuiet()
	if err := p.sources.Wait(ctx, source); err != nil {
		return err
	}
	below := strangers.NewTurned(ctx, &strangers.Replayed{Conn: conn, Prefix: read}, p.turns)
	if err := below.Begin(strangers.New); err != nil {
		return err
	}
	tc := tls.Server(below, p.guarded(p.o.TLS.ServerConfig(Protocol), conn, false))
	err = tc.HandshakeContext(ctx)
	below.End()
	if err != nil {
		return err
	}
	id, err := p.o.TLS.NodeID(tc.ConnectionState(), Protocol)
	if err != nil {
		return err
	}
	if err := p.nodes.Wait(ctx, id); err != nil {
		return err
	}
	if !stop() {
		return ctx.Err()
	}
	return p.adopt(id, tc, conn, false)
}

// refuse notes who was not let in.
func (p *Peers) refuse(conn net.Conn, err error) {
	if errors.Is(err, errReplaced) || p.asksLife(conn, err) {
		return
	}
	p.mu.Lock()
	p.counts.refused++
	p.mu.Unlock()
	p.refusals.Warn(strangers.Key(conn.RemoteAddr()), "refused a connection of a peer", "address", conn.RemoteAddr().String(), "reason", err)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
