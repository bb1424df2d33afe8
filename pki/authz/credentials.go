package authz

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/redoubt-cluster/redoubt/internal/peercred"
	"github.com/redoubt-cluster/redoubt/pki/profile"
)

// Conn is a connection whose TLS handshake is complete. Package port makes
// them.
type Conn interface {
	net.Conn
	ConnectionState() tls.ConnectionState
	// Peer is the peer whose chain was verified; nil when it showed no
	// certificate.
	Peer() *Peer
}

// Peer is a verified certificate, of a node or a person.
type Peer struct {
	profile.Identity
	Leaf *x509.Certificate
	// External: a CA outside of the cluster may have issued it.
	External bool
	// Chain is what was presented, in DER, leaf first.
	Chain [][]byte
	// Source is where the connection came from; behind a splice, the caller's own
	// address. Nil where nobody said.
	Source net.Addr
}

// ConnInfo is what gRPC's peer.Peer carries for a Conn. The embedded TLSInfo
// gives handlers the connection's exporter.
type ConnInfo struct {
	credentials.TLSInfo
	Peer *Peer
	conn net.Conn
}

// LocalInfo is what gRPC's peer.Peer carries for uid 0 on a local socket.
type LocalInfo struct {
	credentials.CommonAuthInfo
	PID  int32
	conn net.Conn
}

// AuthType implements credentials.AuthInfo.
func (LocalInfo) AuthType() string { return "local-root" }

// TLSState returns the TLS state of the connection that a call came over.
func TLSState(ctx context.Context) (tls.ConnectionState, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return tls.ConnectionState{}, false
	}
	info, ok := p.AuthInfo.(*ConnInfo)
	if !ok {
		return tls.ConnectionState{}, false
	}
	return info.State, true
}

// TLSCredentials returns transport credentials for connections whose handshake
// is done: a server's listener hands out Conns, and a client's dialer returns
// anything with a ConnectionState.
func TLSCredentials() credentials.TransportCredentials { return doneCreds{} }

type doneCreds struct{}

func (doneCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := raw.(Conn)
	if !ok {
		return nil, nil, fmt.Errorf("authz: %T is not a verified connection", raw)
	}
	state := conn.ConnectionState()
	if !state.HandshakeComplete {
		return nil, nil, errors.New("authz: the handshake is not complete")
	}
	return conn, &ConnInfo{TLSInfo: tlsInfo(state), Peer: conn.Peer(), conn: conn}, nil
}

func (doneCreds) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := raw.(interface{ ConnectionState() tls.ConnectionState })
	if !ok || !conn.ConnectionState().HandshakeComplete {
		return nil, nil, fmt.Errorf("authz: %T is not a connection with a complete handshake", raw)
	}
	return raw, tlsInfo(conn.ConnectionState()), nil
}

func tlsInfo(s tls.ConnectionState) credentials.TLSInfo {
	return credentials.TLSInfo{
		State:          s,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
}

func (doneCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (doneCreds) Clone() credentials.TransportCredentials { return doneCreds{} }
func (doneCreds) OverrideServerName(string) error         { return nil }

// LocalCredentials returns transport credentials for a server on a local
// socket: only uid 0 gets through. Clients need none (insecure credentials).
func LocalCredentials() credentials.TransportCredentials { return localCreds{} }

type localCreds struct{}

func (localCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	uc, err := unixConn(raw)
	if err != nil {
		return nil, nil, err
	}
	cred, err := peercred.Of(uc)
	if err != nil {
		return nil, nil, err
	}
	if cred.Uid != 0 {
		return nil, nil, fmt.Errorf("uid %d (pid %d) may not use this socket: only root may", cred.Uid, cred.Pid)
	}
	info := &LocalInfo{PID: cred.Pid, conn: raw,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	return raw, info, nil
}

// unixConn is the unix socket whose peer a connection is of: itself, or that which it
// says is below it.
func unixConn(raw net.Conn) (*net.UnixConn, error) {
	if under, ok := raw.(interface{ NetConn() net.Conn }); ok {
		raw = under.NetConn()
	}
	uc, ok := raw.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("authz: %T is not a local socket", raw)
	}
	return uc, nil
}

func (localCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("authz: local credentials are for servers")
}

func (localCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "local-root"}
}
func (localCreds) Clone() credentials.TransportCredentials { return localCreds{} }
func (localCreds) OverrideServerName(string) error         { return nil }
