package e2e

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkipb"
	"github.com/redoubt-cluster/redoubt/pki/port"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
	"github.com/redoubt-cluster/redoubt/scheduler/schedulerpb"
)

type attack struct {
	*cluster
	leader, follower string // host:port
	from             string // the host on which the operator works
}

func (c *cluster) addr2377(name string) string {
	return net.JoinHostPort(c.host(name).Address, "2377")
}

// token makes a join token.
func (a *attack) token(t *testing.T, role string, flags ...string) pki.Token {
	t.Helper()
	text := a.ok(a.from, append([]string{"join-token", role, "-q"}, flags...)...)
	tok, err := pki.ParseToken(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// uses is how often a token was used, as the operator sees it.
func (a *attack) uses(t *testing.T, tok pki.Token) string {
	t.Helper()
	for line := range strings.Lines(a.ok(a.from, "join-token", "ls")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == tok.ID() {
			return f[2]
		}
	}
	t.Fatal("the token is not listed")
	return ""
}

// stolen are the credentials in a file of a host.
func (a *attack) stolen(t *testing.T, host, file string) *pki.Credentials {
	t.Helper()
	var f struct {
		Chain [][]byte
		Key   []byte
	}
	readFile(t, filepath.Join(a.host(host).DataDir, "control", file), &f)
	key, err := x509.ParsePKCS8PrivateKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	chain := &profilepb.CertificateChain{Certificates: f.Chain}
	trust, err := pki.TrustFromChain(chain, nil)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(chain, key.(crypto.Signer), trust)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// admitted makes a worker of the test itself.
func (a *attack) admitted(t *testing.T, name string) *pki.Credentials {
	t.Helper()
	j, err := pki.Join(t.Context(), pki.JoinRequest{Token: a.token(t, "worker"), Managers: []string{a.follower}, NodeName: name})
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(j.Leaf, j.Key, j.Trust)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// anyone is a caller who verifies nothing and shows creds, or nothing.
func anyone(creds *pki.Credentials, alpn ...string) *tls.Config {
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: alpn, MinVersion: tls.VersionTLS13}
	if creds != nil {
		cfg.GetClientCertificate = creds.GetClientCertificate
	}
	return cfg
}

// dial returns a client of addr.
func dial(t *testing.T, addr string, cfg *tls.Config) (*pki.GRPCConn, error) {
	t.Helper()
	conn, err := pki.DialTLS(t.Context(), addr, cfg)
	if err != nil {
		return nil, err
	}
	cc, err := pki.GRPCOver(conn)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { cc.Close() })
	return cc, nil
}

// call makes one call on a connection of its own and returns its code:
// Unavailable where the connection was refused.
func call(t *testing.T, addr string, cfg *tls.Config, method string, req proto.Message) codes.Code {
	t.Helper()
	cc, err := dial(t, addr, cfg)
	if err != nil {
		return codes.Unavailable
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return status.Code(cc.Invoke(ctx, method, req, &pkipb.LockStatusResponse{}))
}

// hungUp reports whether addr ends a TLS connection by itself after saying
// nothing, or did not begin one.
func hungUp(t *testing.T, addr string, cfg *tls.Config) bool {
	t.Helper()
	conn, err := pki.DialTLS(t.Context(), addr, cfg)
	if err != nil {
		return true
	}
	defer conn.Close()
	return ends(conn, 15*time.Second)
}

func ends(conn net.Conn, within time.Duration) bool {
	conn.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, conn)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// session opens a session and waits until the manager has answered.
func (a *attack) session(t *testing.T, addr string, creds *pki.Credentials, d *schedulerpb.NodeDescription) (*pki.GRPCConn, grpc.BidiStreamingClient[schedulerpb.AgentMessage, schedulerpb.ManagerMessage]) {
	t.Helper()
	cc, err := port.DialGRPC(t.Context(), creds, []string{addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	s, err := schedulerpb.NewDispatcherClient(cc).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&schedulerpb.AgentMessage{Message: &schedulerpb.AgentMessage_Hello{Hello: &schedulerpb.Hello{Description: d}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatalf("no session at %s: %v", addr, err)
	}
	return cc, s
}
