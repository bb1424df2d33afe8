package port

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// splice copies the caller's bytes, beginning with its ClientHello, to the
// leader and back until either side ends. The caller's handshake is with the
// leader; this manager sees ciphertext.
func (p *Port) splice(ctx context.Context, in *incoming, m mode, l Leader, hello []byte, giveHalf func()) error {
	give, ok := p.counts.take(classSplice, strangers.Key(in.RemoteAddr()))
	if !ok {
		return errTooMany
	}
	defer give()
	// It takes a second connection, and a second file descriptor.
	giveConn, ok := p.counts.take(classConnection, "")
	if !ok {
		return errTooMany
	}
	defer giveConn()
	header, err := appendSource(nil, in.RemoteAddr())
	if err != nil {
		return err
	}
	out, err := p.dialLeader(ctx, m, l)
	if err != nil {
		return fmt.Errorf("the leader cannot be reached: %w", err)
	}
	s := &spliced{to: l, caller: in.Conn, leader: out, callerRaw: in.raw, leaderRaw: out.NetConn()}
	defer s.Abort()
	if !p.track(s, m) {
		return errModeChange
	}
	defer p.untrack(s)
	giveHalf() // the leader bounds the handshake from here on
	if err := in.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if _, err := out.Write(append(header, hello...)); err != nil {
		return err
	}
	// The hello is sent already: read on from the connection below it.
	in.Conn.(*strangers.Replayed).Prefix = nil
	s.run()
	return nil
}

// dialLeader makes the outer connection. Callers take turns: the leader keeps the
// newest of one address that are half-open, so that hundreds at once, as after a
// change of leader, would push each other out and none come through.
func (p *Port) dialLeader(ctx context.Context, m mode, l Leader) (*tls.Conn, error) {
	if err := p.carrying.Take(ctx, strangers.New); err != nil {
		return nil, err
	}
	defer p.carrying.Give()
	return pki.DialTLS(ctx, l.Address, m.creds.ClientConfig(pki.ALPNLeader, l.NodeID))
}

// spliced is a caller's connection handed through to the leader.
type spliced struct {
	to             Leader
	caller, leader net.Conn
	// What lies below them, closed without waiting.
	callerRaw, leaderRaw net.Conn
}

// run copies both ways until both ended.
func (s *spliced) run() {
	var wg sync.WaitGroup
	wg.Go(func() { s.copy(s.leader, s.caller) })
	s.copy(s.caller, s.leader)
	wg.Wait()
}

// copy passes the end of one direction on and lets the other one linger for
// what is still under way.
func (s *spliced) copy(dst, src net.Conn) {
	io.Copy(dst, src) // an error ends the direction just as EOF does
	if r, ok := dst.(*strangers.Replayed); ok {
		dst = r.Conn
	}
	if h, ok := dst.(interface{ CloseWrite() error }); ok {
		h.CloseWrite()
	}
	deadline := time.Now().Add(lingerTimeout)
	s.caller.SetDeadline(deadline)
	s.leader.SetDeadline(deadline)
}

// Abort ends the splice at once.
func (s *spliced) Abort() {
	s.callerRaw.Close()
	s.leaderRaw.Close()
}

func (s *spliced) about() (string, []*authz.Peer) { return pki.ALPNGRPC, nil }

func (s *spliced) ledTo() *Leader { return &s.to }

// afterDone closes conn when ctx ends; the returned function calls it off.
func afterDone(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { conn.Close() })
}
