// Package peer is what the nodes of a mesh say to each other directly, on TCP port
// 7946, so that their tunnels have keys that nobody else knows, and go on having
// them while every manager is away. It runs in redoubtd on every node.
//
// # Who
//
// Managers say who is a peer (Set): the nodes with which this one shares a network.
// A connection is TLS 1.3 with X25519MLKEM768 and both nodes' leaves. Whoever is
// of another cluster, removed, expired, or not a peer is refused within the
// handshake, before a byte of it is read; what such a caller costs is bounded
// (internal/strangers). The lower id dials; the other dials when it hears nothing,
// or when it turned the peer away before it was told of it. Two connections of a
// pair become one.
//
// # What
//
// They tell each other their WireGuard keys and port, and make a pre-shared key
// for each two keys that may shake hands: it is drawn from the connection's TLS
// exporter over both ids, both keys and a number that grows, so that only these two
// nodes can have it, and neither an old exchange nor another's key gives the
// same. Both have confirmed it before either switches (exchange.go). It is made again
// every hour, at once when a peer is removed or somebody asks, and whenever one
// of the nodes has a new key, as it has after a restart of netd. No manager takes
// part.
//
// Each shows the other that the WireGuard keys it announces are its own (prove.go).
// Where the two are kept from meeting in the middle of an exchange, they find out by
// the tunnel which pre-shared key both have (doubt.go).
//
// Keys of this node change once a day, or when asked, without losing a connection
// (own.go, docs/decisions/0055-key-change.md).
//
// # Endpoints
//
// Each node says to the others on a network which of its own tasks there serve (Share,
// Tell, Options.Heard): at once when that changes, whole on every new connection,
// signed, so that others can pass it on. Nobody is heard about another's. What it
// means is for the networks to decide (package overlay,
// docs/decisions/0069-what-nodes-say-of-their-endpoints.md).
//
// A peer that answers neither here nor in the tunnel is silent, to this node and for
// as long as it does not (silent.go).
//
// # What netd is told
//
// This package alone declares the fabric to netd (declare.go), by differences:
// a peer is declared once it has a pre-shared key and never without one. A peer
// that Set leaves out goes at once, without asking it. One that cannot be reached
// keeps the key it has, and is shown as degraded when that is old: an attacker who
// cuts connections between nodes gains no weaker tunnel, and does not end one.
//
//	p, err := peer.New(peer.Options{ID: id, TLS: creds, Netd: peer.Netd(client), Listener: l})
//	go p.Run(ctx)
//	p.Set(netip.MustParsePrefix("198.18.0.7/15"), views) // with each NetworkSet
//
// Of networks it knows ids and who is on them, of endpoints ids and whether they
// serve. It keeps nothing on disk, and no private key of WireGuard ever comes here.
package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/internal/quietlog"
	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/mesh"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// Protocol is the ALPN of port 7946.
const Protocol = "redoubt-peer/1"

// DefaultPort is where nodes listen for their peers, TCP, and by the node's default
// configuration where their WireGuard is, UDP.
const DefaultPort = 7946

// Identity is this node's certificate and what it holds others against;
// *pki.Credentials.
type Identity interface {
	ServerConfig(alpn string) *tls.Config
	// ClientConfig accepts that node alone at the other end.
	ClientConfig(alpn, nodeID string) *tls.Config
	NodeID(cs tls.ConnectionState, alpn string) (string, error)
	Leaf() *x509.Certificate
	// Say signs a message as this node; SaidBy returns which node did.
	Say(message []byte) (chain [][]byte, signature []byte, err error)
	SaidBy(message []byte, chain [][]byte, signature []byte) (nodeID string, err error)
}

// Fabric is the part of netd that is declared here.
type Fabric interface {
	Declare(ctx context.Context, req *netdpb.FabricRequest) (*netdpb.FabricResponse, error)
	Rotate(ctx context.Context) (*netdpb.FabricRotateResponse, error)
	State(ctx context.Context) (*netdpb.FabricStateResponse, error)
	Prove(ctx context.Context, req *netdpb.FabricProveRequest) (*netdpb.FabricProveResponse, error)
}

// Options say what Peers work with; ID, TLS, Netd and Listener are required.
type Options struct {
	// ID is this node's.
	ID   string
	TLS  Identity
	Netd Fabric
	// Listener is the TCP listener of port 7946. Run closes it.
	Listener net.Listener
	// Admit decides, at connect and in Recheck, about a node whose certificate is
	// good: a manager asks its records whether it was removed. at is the other end's
	// address. Nil: everybody.
	Admit func(cs tls.ConnectionState, at net.Addr) error
	// Heard, if not nil, is told what a node says of its own tasks on a network that
	// this node shares with it: all that it says of that network, in place of what it
	// said before. nil: nothing any more. It returns at once and does not call Peers.
	Heard func(node, network string, tasks map[string]bool)
	// Tunnels, if not nil, is told to which nodes there is a tunnel with keys, when
	// these are others. It returns at once and may call Peers.
	Tunnels func(nodes map[string]bool)
	// Silent, if not nil, is told which peers answer neither on their port nor in the
	// tunnel, when these are others. It returns at once and does not call Peers.
	Silent func(nodes map[string]bool)
	// Port is WireGuard's, UDP; 0: netd chooses one.
	Port uint16
	// UnderlayMTU is what the way to other nodes takes; 0: netd finds it.
	UnderlayMTU int
	// RotateEvery is the life of this node's WireGuard key; 0: a day. Negative: it
	// changes when asked only.
	RotateEvery time.Duration
	Logger      *slog.Logger

	// Set by tests only.
	dial func(ctx context.Context, address string) (net.Conn, error)
	ask  func(ctx context.Context, to netip.AddrPort) (answered bool) // askTunnel
	look time.Duration                                                // lookEvery
	kept int                                                          // maxKept
	// direct and relays are those of limits.go; lazy: it passes nothing on.
	direct, relays int
	lazy           bool
}

// A View is a node as its peers need it.
type View struct {
	ID string
	// Mesh is its address inside the tunnels.
	Mesh netip.Addr
	// Underlay is host:port where it answers peers; empty: it calls.
	Underlay string
}

// Peers are the other ends of this node's tunnels. Its methods may be used
// concurrently, also before Run.
type Peers struct {
	o         Options
	log       *slog.Logger
	refusals  *quietlog.Log
	generated mesh.Generation

	quiet, half  *strangers.Crowd // connections without a ClientHello, without a peer
	sources      *strangers.Pace
	nodes        *strangers.Pace // by node id
	turns        *strangers.Turns
	wg           sync.WaitGroup // of all that Run started
	kick, settle chan struct{}  // capacity 1: the loop, the declarer have something to do

	mu      sync.Mutex // guards the rest
	ctx     context.Context
	running bool
	mesh    netip.Prefix // zero: nothing is wanted, or Set was not called
	isSet   bool
	pairs   map[string]*pair
	// claims are the WireGuard keys that peers have shown to be theirs.
	claims map[key]string
	// unwelcome are nodes that came and were no peers.
	unwelcome map[string]time.Time
	dialling  int
	asking    int             // peers that are asked for a sign of life
	silence   map[string]bool // as Silent was told
	alone     bool            // no peer gives a sign
	own       own
	speech    speech
	renewed   time.Time // the last time that all pre-shared keys were asked for
	renewDue  time.Time // the next time; zero: none
	declared  declared
	counts    counts
}

// counts are since the start.
type counts struct {
	refused, exchanges uint64
	Statements
}

// New checks the options; nothing is listened to before Run.
func New(o Options) (*Peers, error) {
	switch {
	case !ident.Valid(o.ID):
		return nil, errors.New("peer: the node has no id")
	case o.TLS == nil || o.Netd == nil || o.Listener == nil:
		return nil, errors.New("peer: the options are incomplete")
	case o.UnderlayMTU != 0 && (o.UnderlayMTU < MinUnderlayMTU || o.UnderlayMTU > MaxUnderlayMTU):
		return nil, fmt.Errorf("peer: an MTU of %d is none", o.UnderlayMTU)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RotateEvery == 0 {
		o.RotateEvery = rotateEvery
	}
	if o.kept == 0 {
		o.kept = maxKept
	}
	if o.direct == 0 {
		o.direct, o.relays = direct, relays
	}
	if o.look == 0 {
		o.look = lookEvery
	}
	if o.dial == nil {
		d := net.Dialer{KeepAliveConfig: keepAlive, Control: func(_, _ string, c syscall.RawConn) error { return endsSoon(c) }}
		o.dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	if o.ask == nil {
		o.ask = askTunnel
	}
	return &Peers{o: o, log: o.Logger, refusals: quietlog.New(o.Logger),
		quiet: strangers.NewCrowd(halfOpen, halfOpenPerSource), half: strangers.NewCrowd(halfOpen, halfOpenPerSource),
		sources: strangers.NewPace(handshakeBurst, handshakeEvery, handshakePatience, maxSources),
		nodes:   strangers.NewPace(connectBurst, connectEvery, 0, maxPeers),
		turns:   strangers.NewTurns(runtime.GOMAXPROCS(0)),
		kick:    make(chan struct{}, 1), settle: make(chan struct{}, 1),
		pairs: map[string]*pair{}, claims: map[key]string{}, unwelcome: map[string]time.Time{},
		declared: declared{dirty: map[string]bool{}},
		speech:   speech{boot: uint64(time.Now().UnixNano()), shared: map[string]map[string]bool{}, words: map[string]*words{}, pending: map[string]bool{}},
	}, nil
}

// Set says who the peers are, all of them, and which address this node has in the
// mesh, with the prefix length of the mesh; a zero one takes the node out of it. A
// peer that cannot be is left out and named in the error.
func (p *Peers) Set(address netip.Prefix, views []View) error {
	var errs []error
	if address.IsValid() && !address.Addr().Is4() {
		errs = append(errs, fmt.Errorf("mesh address %s is no IPv4 address", address))
		address = netip.Prefix{}
	}
	wanted := make(map[string]View, len(views))
	taken := make(map[netip.Addr]string, len(views))
	for _, v := range views {
		err := v.check(address)
		switch {
		case !address.IsValid() || v.ID == p.o.ID:
			continue
		case err != nil:
		case wanted[v.ID].ID != "":
			err = errors.New("it stands twice in the list")
		case taken[v.Mesh] != "":
			err = fmt.Errorf("its mesh address %s is node %s's", v.Mesh, taken[v.Mesh])
		case len(wanted) == maxPeers:
			err = fmt.Errorf("a node has at most %d peers", maxPeers)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("peer %.40q: %w", v.ID, err))
			continue
		}
		wanted[v.ID], taken[v.Mesh] = v, v.ID
	}

	now := time.Now()
	var cut []*link
	p.mu.Lock()
	p.isSet = true
	if p.mesh != address {
		// At first netd may have what an earlier process declared, and keeps it.
		p.mesh, p.declared.whole = address, p.declared.whole || p.mesh.IsValid()
	}
	removed := 0
	for id, pr := range p.pairs {
		if _, ok := wanted[id]; !ok {
			removed++
			cut = append(cut, p.forget(pr))
		}
	}
	for id, v := range wanted {
		switch pr := p.pairs[id]; {
		case pr == nil:
			p.add(v, now)
		case pr.view != v:
			if pr.view.Underlay != v.Underlay {
				pr.fails, pr.nextDial = 0, time.Time{}
			}
			pr.view = v
			pr.judge()
			p.refresh(pr)
		}
	}
	if removed > 0 && p.renewDue.IsZero() {
		p.renewDue = now
		if again := p.renewed.Add(renewAgain); !p.renewed.IsZero() && again.After(now) {
			p.renewDue = again
		}
	}
	p.mu.Unlock()
	poke(p.settle)
	poke(p.kick)
	for _, l := range cut {
		l.cut()
	}
	return errors.Join(errs...)
}

func (v View) check(mesh netip.Prefix) error {
	switch {
	case !ident.Valid(v.ID):
		return errors.New("this is no node id")
	case !v.Mesh.Is4() || !mesh.Contains(v.Mesh) || v.Mesh == mesh.Addr():
		return fmt.Errorf("mesh address %s is no other host of %s", v.Mesh, mesh.Masked())
	case v.Underlay == "":
		return nil
	}
	host, port, err := net.SplitHostPort(v.Underlay)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || len(v.Underlay) > 300 || bad != nil || n == 0 {
		return fmt.Errorf("%.80q is not host:port", v.Underlay)
	}
	return nil
}

// lower reports whether this node has the lower id of the two.
func (p *Peers) lower(other string) bool { return p.o.ID < other }

// Renew makes new pre-shared keys with every peer, soon.
func (p *Peers) Renew() {
	p.mu.Lock()
	p.renewDue = time.Now()
	p.mu.Unlock()
	poke(p.kick)
}

// Recheck asks Admit again about every connection and cuts those that it refuses.
func (p *Peers) Recheck() {
	if p.o.Admit == nil {
		return
	}
	var links []*link
	p.mu.Lock()
	for _, pr := range p.pairs {
		if pr.link != nil {
			links = append(links, pr.link)
		}
	}
	p.mu.Unlock()
	for _, l := range links {
		if err := p.o.Admit(l.conn.ConnectionState(), l.conn.RemoteAddr()); err != nil {
			p.lost(l, err)
		}
	}
}

// poke wakes whoever waits for the channel, which has room for one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
