package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/redoubt-cluster/redoubt/pki/authz"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// The protocols of port 2377, and of port 7946 (ALPNPeer).
const (
	ALPNGRPC   = authz.ALPNGRPC
	ALPNRaft   = "redoubt-raft/1"
	ALPNLeader = "redoubt-leader/1"
	ALPNLocal  = authz.ALPNLocal
	ALPNLock   = authz.ALPNLock
	ALPNUser   = authz.ALPNUser
	// ALPNPerson is how people reach the operator API.
	ALPNPerson = authz.ALPNPerson
	// ALPNWitness is what managers know of each other's disks.
	ALPNWitness = authz.ALPNWitness
	// ALPNPeer is what the nodes of a mesh say to each other (mesh/peer).
	ALPNPeer = authz.ALPNPeer
)

var (
	managers = []profilepb.Role{profilepb.Role_ROLE_MANAGER}
	members  = []profilepb.Role{profilepb.Role_ROLE_WORKER, profilepb.Role_ROLE_MANAGER}
	lockers  = []profilepb.Role{profilepb.Role_ROLE_BOOT, profilepb.Role_ROLE_MANAGER}
)

// ExpectClient is what a server of that protocol accepts.
func ExpectClient(alpn string) Expect {
	switch alpn {
	case ALPNGRPC:
		return Expect{Roles: members, Grace: authz.ExpiredGrace}
	case ALPNLock:
		return Expect{Roles: lockers}
	case ALPNPeer:
		return Expect{Roles: members}
	case ALPNPerson:
		return Expect{People: true}
	}
	want := Expect{Roles: managers}
	if alpn == ALPNRaft || alpn == ALPNWitness {
		want.Patience = raftPatience
	}
	return want
}

// ExpectServer is what a client of that protocol accepts.
func ExpectServer(alpn, nodeID string) Expect {
	switch alpn {
	case ALPNLock:
		return Expect{Roles: lockers, NodeID: nodeID}
	case ALPNPeer:
		return Expect{Roles: members, NodeID: nodeID}
	}
	want := Expect{Roles: managers, NodeID: nodeID}
	switch alpn {
	case ALPNRaft, ALPNWitness:
		want.Patience = raftPatience
	case ALPNGRPC, ALPNPerson:
		want.Patience = callPatience
	}
	return want
}

func baseConfig(alpn string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768},
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true,
	}
}

// ServerConfig is the configuration of a server of that protocol. Only h2 lets
// a client in without a certificate: that is how a node joins.
func (c *Credentials) ServerConfig(alpn string) *tls.Config {
	cfg := baseConfig(alpn)
	cfg.GetCertificate = c.GetCertificate
	cfg.ClientAuth = tls.RequireAnyClientCert
	if alpn == ALPNGRPC {
		cfg.ClientAuth = tls.RequestClientCert
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := checkState(cs, alpn); err != nil {
			return err
		}
		if len(cs.PeerCertificates) == 0 && alpn == ALPNGRPC {
			return nil
		}
		_, err := c.VerifyPeer(cs, ExpectClient(alpn))
		return err
	}
	return cfg
}

// ClientConfig is the configuration of a client of that protocol. nodeID, when
// set, is the only node accepted at the other end.
func (c *Credentials) ClientConfig(alpn, nodeID string) *tls.Config {
	cfg := clientConfig(alpn, func(cs tls.ConnectionState) error {
		_, err := c.VerifyPeer(cs, ExpectServer(alpn, nodeID))
		return err
	})
	cfg.GetClientCertificate = c.GetClientCertificate
	return cfg
}

func clientConfig(alpn string, verify func(tls.ConnectionState) error) *tls.Config {
	cfg := baseConfig(alpn)
	// Nodes have no host names to verify. VerifyConnection, which this does not
	// skip, verifies the chain and the SPIFFE id instead.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := checkState(cs, alpn); err != nil {
			return err
		}
		return verify(cs)
	}
	return cfg
}

// NodeID is the node at the other end of a finished handshake of that protocol.
func (c *Credentials) NodeID(cs tls.ConnectionState, alpn string) (string, error) {
	p, err := c.VerifyPeer(cs, ExpectClient(alpn))
	if err != nil {
		return "", err
	}
	return p.NodeID, nil
}

// checkState refuses what the configuration should have made impossible.
func checkState(cs tls.ConnectionState, alpn string) error {
	switch {
	case cs.Version != tls.VersionTLS13 || cs.CurveID != tls.X25519MLKEM768 || cs.DidResume:
		return errors.New("not a fresh TLS 1.3 handshake with X25519MLKEM768")
	case cs.NegotiatedProtocol != alpn:
		return fmt.Errorf("the protocol %s was not agreed on", alpn)
	}
	return nil
}

// DialTLS connects to addr and shakes hands, within ctx and a bound of its own.
// Refusals are the Err… values of this package where one fits.
func DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := net.Dialer{KeepAliveConfig: KeepAlive}
	if from, ok := ctx.Value(sourceKey{}).(netip.Addr); ok {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if reached, ok := ctx.Value(reachedKey{}).(func()); ok {
		reached()
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			err = ErrConnectionLost
		}
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return conn, nil
}

// reachedKey is under which OnReached keeps the function.
type reachedKey struct{}

// OnReached has f called when a connection that is dialled under ctx stands and
// its handshake begins.
func OnReached(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, reachedKey{}, f)
}

// sourceKey is under which DialFrom keeps the address.
type sourceKey struct{}

// DialFrom makes connections that are dialled under ctx begin at an address of
// this machine, which has several.
func DialFrom(ctx context.Context, from netip.Addr) context.Context {
	return context.WithValue(ctx, sourceKey{}, from)
}

// KeepAlive finds a peer that vanished within about a minute.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}

// GRPCConn is a gRPC client over one connection.
type GRPCConn struct {
	*grpc.ClientConn
	conn *tls.Conn
}

// GRPCOver makes a client of one connection whose handshake is done. It never
// dials: once the connection is lost, calls fail with Unavailable and the
// caller makes another, which keeps the choice of manager and the pace of
// retries in its hands. Closing the client closes the connection.
func GRPCOver(conn *tls.Conn, opts ...grpc.DialOption) (*GRPCConn, error) {
	once := make(chan net.Conn, 1)
	once <- conn
	cc, err := grpc.NewClient("passthrough:///manager", append([]grpc.DialOption{
		grpc.WithTransportCredentials(authz.TLSCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, ErrConnectionLost
			}
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(),
	}, opts...)...)
	if err != nil {
		conn.Close()
		return nil, err
	}
	cc.Connect()
	return &GRPCConn{cc, conn}, nil
}

// Close closes the client and its connection, which gRPC may not have taken
// over yet.
func (c *GRPCConn) Close() error {
	err := c.ClientConn.Close()
	c.conn.Close() // closed already, as a rule
	return err
}

// TLS returns the connection itself.
func (c *GRPCConn) TLS() *tls.Conn { return c.conn }
