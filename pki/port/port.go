package port

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/quietlog"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// Leader says where the leader is.
type Leader struct {
	// Self: this manager leads. Then the other fields mean nothing.
	Self bool
	// NodeID and Address (host:port) are empty while there is no leader.
	NodeID  string
	Address string
}

// Config is what a Port needs; every field is required but Limits and Refused.
type Config struct {
	// Listener is the TCP listener. Serve closes it.
	Listener net.Listener
	// Boot are the credentials shown while locked.
	Boot *pki.Credentials
	// Admit decides, at connect and again in Recheck, whether a verified peer
	// may use a protocol; nil peer: no certificate, h2 only. It is not asked
	// while the port is locked. A peer of h2, or a person, that is refused with an error of
	// which authz.RefusalOf knows the reason is let in for a moment, so that its
	// call can be answered with that reason: the listener's server must refuse
	// it as Admit does.
	Admit func(alpn string, p *authz.Peer) error
	// Refused is told of those whose certificate does not verify, of whom nothing is
	// known but where they are, and of those that Admit refuses and that make no call
	// which is refused again; method is "port/" and the protocol. It must not wait.
	// May be nil.
	Refused func(id authz.Identity, method, reason string)
	Logger  *slog.Logger
	Limits  Limits
}

// Port is port 2377. It begins locked. Safe for concurrent use.
type Port struct {
	cfg       Config
	counts    *counts
	quiet     *strangers.Crowd // their ClientHello did not come yet
	half      *strangers.Crowd // their handshake is under way
	anonymous *strangers.Crowd // they have no certificate
	told      *strangers.Crowd // they are refused and told why
	// By the follower that carried them here:
	carriedHalf, carriedAnonymous *strangers.Crowd
	// By source:
	handshakes, strangers *strangers.Pace
	turns                 *strangers.Turns
	carrying              *strangers.Turns // of connections being made to the leader
	refusals              *quietlog.Log
	ctx                   context.Context // of Serve: ends dials and splices
	wg                    sync.WaitGroup  // connections being handled

	mu        sync.Mutex // guards the rest
	mode      mode
	listeners map[string]*listener
	open      map[tracked]struct{}
	closed    bool
}

// mode is what Unlock and Lock switch between.
type mode struct {
	generation uint64
	creds      *pki.Credentials // nil: locked
	leader     func() Leader
}

// tracked is a connection that may have to be cut.
type tracked interface {
	// Abort closes it without waiting for anybody.
	Abort()
	// about returns the protocol and the peers it depends on.
	about() (alpn string, peers []*authz.Peer)
	// ledTo returns the leader it was led to; nil: it goes to whom it was made to.
	ledTo() *Leader
}

func (c *Conn) about() (string, []*authz.Peer) { return c.alpn, []*authz.Peer{c.peer, c.via} }

func (c *Conn) ledTo() *Leader {
	if led(c.alpn) || toLeader(c.alpn) {
		return &Leader{Self: true}
	}
	return nil
}

// New returns a Port; call Serve to make it answer.
func New(c Config) (*Port, error) {
	if c.Listener == nil || c.Boot == nil || c.Admit == nil || c.Logger == nil {
		return nil, errors.New("port: the configuration is incomplete")
	}
	c.Limits = c.Limits.withDefaults()
	l := c.Limits
	return &Port{
		cfg: c, counts: newCounts(l),
		quiet: strangers.NewCrowd(l.HalfOpen, l.HalfOpenPerSource), half: strangers.NewCrowd(l.HalfOpen, l.HalfOpenPerSource),
		anonymous: strangers.NewCrowd(l.Anonymous, l.AnonymousPerSource), told: strangers.NewCrowd(l.Told, l.ToldPerNode),
		carriedHalf: strangers.NewCrowd(l.HalfOpen, l.CarriedHalfOpen), carriedAnonymous: strangers.NewCrowd(l.Anonymous, l.CarriedAnonymous),
		handshakes: strangers.NewPace(l.HandshakeBurst, time.Second/time.Duration(l.HandshakeRate), handshakePatience, maxPaced),
		strangers:  strangers.NewPace(l.AnonymousBurst, time.Second/time.Duration(l.AnonymousRate), anonymousPatience, maxPaced),
		turns:      strangers.NewTurns(runtime.GOMAXPROCS(0)),
		carrying:   strangers.NewTurns(maxCarrying),
		refusals:   quietlog.New(c.Logger),
		listeners:  map[string]*listener{}, open: map[tracked]struct{}{},
	}, nil
}

var served = []string{pki.ALPNGRPC, pki.ALPNPerson, pki.ALPNRaft, pki.ALPNLocal, pki.ALPNUser, pki.ALPNLock, pki.ALPNWitness}

// Listen returns the listener of a protocol. Its connections are *Conn. There
// is one at a time; after it was closed a new one can be had. Connections of a
// protocol that nobody listens on are closed.
func (p *Port) Listen(alpn string) (net.Listener, error) {
	if !slices.Contains(served, alpn) {
		return nil, fmt.Errorf("port: %q is not handed out", alpn)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if p.listeners[alpn] != nil {
		return nil, fmt.Errorf("port: %s is listened on already", alpn)
	}
	l := &listener{port: p, alpn: alpn, ch: make(chan *Conn), done: make(chan struct{})}
	p.listeners[alpn] = l
	return l, nil
}

func (p *Port) unlisten(l *listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listeners[l.alpn] == l {
		delete(p.listeners, l.alpn)
	}
}

// Unlock makes the port a manager's. leader is asked for each connection that is led
// to it.
func (p *Port) Unlock(creds *pki.Credentials, leader func() Leader) {
	p.setMode(mode{creds: creds, leader: leader})
}

// Lock makes the port a locked manager's and closes every connection.
func (p *Port) Lock() { p.setMode(mode{}) }

func (p *Port) setMode(m mode) {
	p.mu.Lock()
	m.generation = p.mode.generation + 1
	p.mode = m
	p.mu.Unlock()
	p.cut(func(tracked) bool { return true })
}

func (p *Port) currentMode() mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

// LeaderChanged closes the connections that were led to another than that leader,
// here or elsewhere, so that their callers come again. Call it at each change, also
// when there is none now: it keeps those that came between a change and its call.
func (p *Port) LeaderChanged(now Leader) {
	p.cut(func(t tracked) bool {
		to := t.ledTo()
		return to != nil && *to != now
	})
}

// Recheck asks Admit again about the open connections of those subjects, nodes and
// people (nil: of all), and closes those that are refused.
func (p *Port) Recheck(subjects []string) {
	p.cut(func(t tracked) bool {
		alpn, peers := t.about()
		for i, peer := range peers {
			if peer == nil || subjects != nil && !slices.Contains(subjects, peer.Subject()) {
				continue
			}
			if i > 0 {
				alpn = pki.ALPNLeader
			}
			if p.cfg.Admit(alpn, peer) != nil {
				return true
			}
		}
		return false
	})
}

// cut closes the open connections that match.
func (p *Port) cut(match func(tracked) bool) {
	p.mu.Lock()
	var all []tracked
	for t := range p.open {
		all = append(all, t)
	}
	p.mu.Unlock()
	for _, t := range all {
		if match(t) {
			t.Abort()
		}
	}
}

// track registers t unless the mode changed since m was read.
func (p *Port) track(t tracked, m mode) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.mode.generation != m.generation {
		return false
	}
	p.open[t] = struct{}{}
	return true
}

func (p *Port) untrack(t tracked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, t)
}

// Serve answers until ctx ends, then closes every connection and listener and
// waits for its goroutines. It returns nil when ctx ended. Call it once.
func (p *Port) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.ctx = ctx
	stop := context.AfterFunc(ctx, func() { p.cfg.Listener.Close() })
	defer stop()
	err := p.accept(ctx)
	cancel()
	p.cfg.Listener.Close()
	p.close()
	p.wg.Wait()
	return err
}

func (p *Port) accept(ctx context.Context) error {
	for {
		conn, err := p.cfg.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("port: the listener was closed: %w", err)
		case err != nil:
			// Out of file descriptors, or a connection that was gone already.
			p.cfg.Logger.Warn("accepting a connection failed", "error", err)
			if pause(ctx, 50*time.Millisecond) != nil {
				return nil
			}
			continue
		}
		give, ok := p.counts.take(classConnection, "")
		if !ok {
			conn.Close()
			continue
		}
		if tc, ok := conn.(*net.TCPConn); ok {
			tc.SetKeepAliveConfig(pki.KeepAlive)
		}
		p.wg.Go(func() { p.handle(&incoming{Conn: conn, raw: conn, give: give}) })
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Port) close() {
	p.mu.Lock()
	p.closed = true
	var listeners []*listener
	for _, l := range p.listeners {
		listeners = append(listeners, l)
	}
	p.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	p.cut(func(tracked) bool { return true })
}
