package outside

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

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
		want   []string // begins of what was admitted
	}{
		"as it should be":  {func(*tls.Config) {}, nil},
		"all certificates": {func(c *tls.Config) { c.VerifyConnection = nil }, []string{"one with a certificate of another CA"}},
		"nobody is asked": {func(c *tls.Config) { c.VerifyConnection, c.ClientAuth = nil, tls.NoClientCert },
			[]string{"one without a certificate", "one with a certificate of another CA"}},
		"any key exchange": {func(c *tls.Config) {
			c.CurvePreferences = nil
			verify := c.VerifyConnection
			c.VerifyConnection = func(cs tls.ConnectionState) error { cs.CurveID = tls.X25519MLKEM768; return verify(cs) }
		}, []string{"a member without a key exchange"}},
	} {
		seen, err := Look(t.Context(), serve(t, other, c.change), other.Record.GetId(), as.Credentials)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.EqualFunc(seen.Admitted, c.want, strings.HasPrefix) || seen.Group != tls.X25519MLKEM768 || !seen.Shown.Equal(other.Leaf()) {
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
