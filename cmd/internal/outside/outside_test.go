package outside

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
	"github.com/redoubt-cluster/redoubt/pki/profile/profilepb"
)

// serve has a manager answer, by its configuration as a change makes it.
func serve(t *testing.T, n *pkitest.Node, change func(*tls.Config)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := n.ServerConfig(protocol)
	change(cfg)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// TestLook: a manager as it should be answers no stranger; each that is changed is
// seen for what was changed.
func TestLook(t *testing.T) {
	ca := pkitest.New(t)
	as, other := ca.NewNode(t, profilepb.Role_ROLE_MANAGER), ca.NewNode(t, profilepb.Role_ROLE_MANAGER)
	for name, c := range map[string]struct {
		change func(*tls.Config)
		want   []string // begins of what was admitted, by the first of the protocols
		group  tls.CurveID
	}{
		"as it should be":  {func(*tls.Config) {}, nil, tls.X25519MLKEM768},
		"all certificates": {func(c *tls.Config) { c.VerifyConnection = nil }, []string{"one with a certificate of another CA"}, tls.X25519MLKEM768},
		"nobody is asked": {func(c *tls.Config) { c.VerifyConnection, c.ClientAuth = nil, tls.NoClientCert },
			[]string{"one without a certificate", "one with a certificate of another CA"}, tls.X25519MLKEM768},
		"any key exchange": {func(c *tls.Config) {
			c.CurvePreferences = nil
			verify := c.VerifyConnection
			c.VerifyConnection = func(cs tls.ConnectionState) error { cs.CurveID = tls.X25519MLKEM768; return verify(cs) }
		}, []string{"a member without a key exchange"}, tls.X25519MLKEM768},
		"the key exchange of before": {func(c *tls.Config) {
			c.CurvePreferences = []tls.CurveID{tls.X25519}
			verify := c.VerifyConnection
			c.VerifyConnection = func(cs tls.ConnectionState) error { cs.CurveID = tls.X25519MLKEM768; return verify(cs) }
		}, []string{"a member without a key exchange"}, tls.X25519},
		"by another protocol": {func(c *tls.Config) {
			own := c.Clone()
			c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if hello.SupportedProtos[0] == protocol {
					return own, nil
				}
				other := own.Clone()
				other.NextProtos, other.VerifyConnection, other.ClientAuth = hello.SupportedProtos, nil, tls.NoClientCert
				return other, nil
			}
		}, []string{"one without a certificate, by " + pki.ALPNRaft, "one without a certificate, by " + pki.ALPNLeader,
			"one with a certificate of another CA, by " + pki.ALPNRaft, "one with a certificate of another CA, by " + pki.ALPNLeader}, tls.X25519MLKEM768},
	} {
		seen, err := Look(t.Context(), serve(t, other, c.change), other.Record.GetId(), as.Credentials)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.EqualFunc(seen.Admitted, c.want, strings.HasPrefix) || seen.Group != c.group || !seen.Shown.Equal(other.Leaf()) {
			t.Errorf("%s: %q, %v, %s", name, seen.Admitted, seen.Group, seen.Shown.Subject)
		}
	}
	if _, err := Look(t.Context(), serve(t, other, func(*tls.Config) {}), as.Record.GetId(), as.Credentials); err == nil {
		t.Error("another manager is taken for it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := Look(t.Context(), l.Addr().String(), other.Record.GetId(), as.Credentials); err == nil {
		t.Error("nobody is there, and nothing is wrong")
	}
}

// TestSilenceIsNoRefusal: who closes without an alert has not said whom it lets in.
func TestSilenceIsNoRefusal(t *testing.T) {
	ca := pkitest.New(t)
	n := ca.NewNode(t, profilepb.Role_ROLE_MANAGER)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if in, err := answered(t.Context(), l.Addr().String(), n.ClientConfig(protocol, "")); in || err == nil {
		t.Errorf("%t, %v", in, err)
	}
	l.Close()
	<-done
}
