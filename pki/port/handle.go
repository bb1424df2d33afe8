package port

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/authz"
)

// incoming is a connection whose ClientHello was not read yet.
type incoming struct {
	net.Conn
	raw net.Conn // the TCP connection at the bottom
	// give returns its place among the connections; whoever keeps the
	// connection calls it when it is over.
	give func()
	via  *authz.Peer // the follower that spliced it; nil: it came by itself
}

var (
	errNoLeader   = errors.New("there is no leader to hand the connection to")
	errNotHere    = errors.New("nobody serves that protocol here now")
	errTwoHops    = errors.New("a spliced connection reached a manager that does not lead")
	errTooMany    = errors.New("too many connections from that source")
	errModeChange = errors.New("the manager was locked or unlocked meanwhile")
)

// handle takes a connection to whoever it is for. It owns it until then.
func (p *Port) handle(in *incoming) {
	kept, err := p.dispatch(in)
	if !kept {
		in.Close()
		in.give()
	}
	if err != nil {
		p.cfg.Logger.Debug("refused a connection", "source", in.RemoteAddr().String(), "reason", err)
	}
}

// dispatch reports whether somebody else closes the connection now.
func (p *Port) dispatch(in *incoming) (kept bool, _ error) {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	source := strangers.Key(in.RemoteAddr())
	giveQuiet := p.quiet.Take(source, cancel)
	defer giveQuiet()
	deadline := time.Now().Add(p.cfg.Limits.Handshake)
	if err := in.SetDeadline(deadline); err != nil {
		return false, err
	}
	// A half-open connection is not tracked; ending Serve, or having to make
	// room, must still end it.
	stop := afterDone(ctx, in.Conn)
	defer stop()
	offered, read, err := strangers.Peek(in.Conn)
	if err != nil {
		return false, err
	}
	if in.via != nil && (len(offered) != 1 || !led(offered[0])) {
		// Before it counts: a follower gone bad must not speak in the place of
		// another one's raft, which is counted by the source that it names.
		return false, fmt.Errorf("protocols %q cannot be spliced", offered)
	}
	// Whoever has said what it wants competes no more with those who say
	// nothing, who are cheap to be many.
	lane := source
	if len(offered) == 1 && offered[0] == pki.ALPNRaft {
		// A follower carries nodes here under the same address; the managers'
		// own word must not wait behind them, nor make room for them.
		lane += " raft"
	}
	giveHalf := p.half.Take(lane, cancel)
	defer giveHalf()
	giveQuiet()
	if in.via != nil {
		// The follower says which source it is, so it is measured itself, too.
		giveCarried := p.carriedHalf.Take(in.via.NodeID, cancel)
		defer giveCarried()
	}
	if len(offered) != 1 {
		return false, fmt.Errorf("the ClientHello offers %d protocols: exactly one is expected", len(offered))
	}
	// From here on it costs a signature, or a connection to the leader. Who waits
	// for a turn does not read, so it would not notice that its time is over.
	ctx, done := context.WithDeadline(ctx, deadline)
	defer done()
	if err := p.handshakes.Wait(ctx, lane); err != nil {
		return false, err
	}
	in.Conn = &strangers.Replayed{Conn: in.Conn, Prefix: read}
	alpn, m := offered[0], p.currentMode()
	switch {
	case m.creds == nil:
		return p.dispatchLocked(ctx, in, alpn, m)
	case led(alpn):
		return p.dispatchLed(ctx, in, alpn, m, read, giveHalf)
	case toLeader(alpn) && !m.leader().Self:
		return false, errNoLeader
	case alpn == pki.ALPNRaft, alpn == pki.ALPNLock, toLeader(alpn), alpn == pki.ALPNWitness:
		return p.serve(ctx, in, alpn, m, m.creds)
	case alpn == pki.ALPNLeader:
		return p.dispatchSpliced(ctx, in, m, giveHalf)
	}
	return false, fmt.Errorf("unknown protocol %q", alpn)
}

// led reports whether connections of a protocol are for the leader, to whom others
// carry them: those of nodes and of people.
func led(alpn string) bool { return alpn == pki.ALPNGRPC || alpn == pki.ALPNPerson }

// toLeader reports whether a protocol is a manager's for calls of its machine's root
// or users: it makes the connection to the leader itself.
func toLeader(alpn string) bool { return alpn == pki.ALPNLocal || alpn == pki.ALPNUser }

// dispatchLocked answers with the boot leaf. Where the leader is wanted that leaf is
// the answer.
func (p *Port) dispatchLocked(ctx context.Context, in *incoming, alpn string, m mode) (bool, error) {
	switch alpn {
	case pki.ALPNLock:
		return p.serve(ctx, in, alpn, m, p.cfg.Boot)
	case pki.ALPNGRPC, pki.ALPNPerson:
		return false, tls.Server(in.Conn, p.cfg.Boot.ServerConfig(alpn)).HandshakeContext(ctx)
	}
	return false, errNotHere
}

func (p *Port) dispatchLed(ctx context.Context, in *incoming, alpn string, m mode, read []byte, giveHalf func()) (bool, error) {
	l := m.leader()
	switch {
	case l.Self:
		return p.serve(ctx, in, alpn, m, m.creds)
	case in.via != nil:
		return false, errTwoHops
	case l.NodeID == "" || l.Address == "":
		return false, errNoLeader
	}
	return false, p.splice(ctx, in, m, l, read, giveHalf)
}

// dispatchSpliced takes the caller's own TLS out of a follower's connection.
func (p *Port) dispatchSpliced(ctx context.Context, in *incoming, m mode, giveHalf func()) (bool, error) {
	outer, peer, err := p.handshake(ctx, in, pki.ALPNLeader, m.creds)
	if err != nil {
		return false, err
	}
	if err := p.cfg.Admit(pki.ALPNLeader, peer); err != nil {
		p.refused(peer, in.RemoteAddr(), pki.ALPNLeader, err)
		return false, err
	}
	source, err := readSource(outer)
	if err != nil {
		return false, err
	}
	giveHalf() // from here on it counts as the caller's
	inner := &incoming{Conn: &strangers.Replayed{Conn: outer, Remote: source}, raw: in.raw, give: in.give, via: peer}
	kept, err := p.dispatch(inner)
	return kept, err
}

// handshake completes a server's handshake and returns the admitted peer. Raft
// waits for nobody's turn: it is what everybody else depends on.
func (p *Port) handshake(ctx context.Context, in *incoming, alpn string, creds *pki.Credentials) (*tls.Conn, *authz.Peer, error) {
	turns, queue := p.turns, strangers.New
	if in.via != nil { // the follower's own handshake is done
		queue = strangers.Begun
	}
	if alpn == pki.ALPNRaft {
		turns = nil
	}
	below := strangers.NewTurned(ctx, in.Conn, turns)
	if err := below.Begin(queue); err != nil {
		return nil, nil, err
	}
	var forged error
	conn := tls.Server(below, serverConfig(creds, alpn, &forged))
	err := conn.HandshakeContext(ctx)
	below.End()
	if forged != nil {
		p.refused(nil, in.RemoteAddr(), alpn, forged)
	}
	if err != nil {
		return nil, nil, err
	}
	peer, err := creds.VerifyPeer(conn.ConnectionState(), pki.ExpectClient(alpn))
	if errors.Is(err, pki.ErrNoCertificate) && alpn == pki.ALPNGRPC {
		return conn, nil, nil
	}
	return conn, peer, err
}

// serve shakes hands and hands the connection to the protocol's listener.
func (p *Port) serve(ctx context.Context, in *incoming, alpn string, m mode, creds *pki.Credentials) (bool, error) {
	tc, peer, err := p.handshake(ctx, in, alpn, creds)
	if err != nil {
		return false, err
	}
	if peer != nil {
		peer.Source = in.RemoteAddr()
	}
	told := false
	if m.creds != nil {
		if err := p.cfg.Admit(alpn, peer); err != nil {
			p.refusals.Warn(strangers.Key(in.RemoteAddr()), "refused a node", "address", in.RemoteAddr().String(), "protocol", alpn, "reason", err)
			// A node or person that was removed should hear it. It gets as far as a
			// caller without a certificate, and each call is refused again.
			if told = led(alpn) && authz.RefusalOf(err) != nil; !told {
				p.refused(peer, in.RemoteAddr(), alpn, err)
				return false, err
			}
		}
	}
	if peer == nil {
		if err := p.paceStranger(ctx, in); err != nil {
			p.refusals.Warn(strangers.Key(in.RemoteAddr()), "refused a caller without a certificate", "reason", err)
			return false, err
		}
	}
	give, err := p.countPeer(in, alpn, peer, told)
	if err != nil {
		return false, err
	}
	c := &Conn{Conn: tc, alpn: alpn, peer: peer, via: in.via, raw: in.raw, bounded: peer == nil || told}
	c.release = func() {
		p.untrack(c)
		give()
		in.give()
	}
	// From here on closing c is what gives everything back.
	if c.bounded {
		life := p.cfg.Limits.AnonymousLife
		if told {
			life = p.cfg.Limits.ToldLife
		}
		c.budget.Store(p.cfg.Limits.AnonymousBytes)
		// Set first, started then: Close reads the field.
		c.expiry = time.AfterFunc(math.MaxInt64, c.Abort)
		c.expiry.Reset(life)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		c.Close()
		return true, err
	}
	p.mu.Lock()
	l := p.listeners[alpn]
	p.mu.Unlock()
	switch {
	case l == nil:
		err = errNotHere
	case !p.track(c, m):
		err = errModeChange
	case p.refusedMeanwhile(c, m):
		err = errors.New("the node was refused meanwhile")
	case !l.deliver(c):
		err = errNotHere
	}
	if err != nil {
		c.Close()
	}
	return true, err
}

// paceStranger waits until a caller without a certificate may go on. A follower
// that carries some is measured as a source of its own.
func (p *Port) paceStranger(ctx context.Context, in *incoming) error {
	if err := p.strangers.Wait(ctx, strangers.Key(in.RemoteAddr())); err != nil || in.via == nil {
		return err
	}
	return p.strangers.Wait(ctx, "node "+in.via.NodeID)
}

// refusedMeanwhile closes the gap between the first Admit and track, in which a
// Recheck would not have seen the connection.
func (p *Port) refusedMeanwhile(c *Conn, m mode) bool {
	// Whoever is only told is refused already.
	return m.creds != nil &&
		(!(c.bounded && c.peer != nil) && p.cfg.Admit(c.alpn, c.peer) != nil || c.via != nil && p.cfg.Admit(pki.ALPNLeader, c.via) != nil)
}

func (p *Port) countPeer(in *incoming, alpn string, peer *authz.Peer, told bool) (func(), error) {
	raw := in.raw
	switch {
	case told:
		return p.told.Take(peer.Subject(), func() { raw.Close() }), nil
	case peer == nil:
		give := p.anonymous.Take(strangers.Key(in.RemoteAddr()), func() { raw.Close() })
		if in.via == nil {
			return give, nil
		}
		giveCarried := p.carriedAnonymous.Take(in.via.NodeID, func() { raw.Close() })
		return func() { give(); giveCarried() }, nil
	}
	key := ""
	if led(alpn) {
		key = peer.Subject()
	}
	give, ok := p.counts.take(classNode, key)
	if !ok {
		return nil, errTooMany
	}
	return give, nil
}

// readSource reads lp(source address), the header of a spliced connection.
func readSource(r io.Reader) (net.Addr, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("splice header: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxSourceHeader {
		return nil, fmt.Errorf("splice header: a source address of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("splice header: %w", err)
	}
	ap, err := netip.ParseAddrPort(string(b))
	if err != nil || ap.String() != string(b) {
		return nil, errors.New("splice header: malformed source address")
	}
	return net.TCPAddrFromAddrPort(ap), nil
}

func appendSource(b []byte, a net.Addr) ([]byte, error) {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return nil, fmt.Errorf("splice: source %q is no address and port", a)
	}
	s := netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()).String()
	return lp.Append(b, []byte(s)), nil
}
