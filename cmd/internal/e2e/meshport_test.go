package e2e

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	"github.com/redoubt-cluster/redoubt/pki"
)

// peersPort is where nodes speak to each other, and what they say they speak.
const (
	peersPort     = "7946"
	peersProtocol = "redoubt-peer/1"
)

// welcome reports whether a node's peers' port speaks to whoever has these
// credentials. In TLS 1.3 the caller's side of the handshake ends before the
// other has looked at its certificate: what counts is that a word comes.
func (c *cluster) welcome(host string, cfg *tls.Config) bool {
	c.t.Helper()
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(c.host(host).Address, peersPort), 10*time.Second)
	if err != nil {
		c.t.Fatalf("the peers' port of %s is not open: %v", host, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	tc := tls.Client(conn, cfg)
	if err := tc.Handshake(); err != nil {
		return false
	}
	n, err := tc.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("%s neither speaks to a caller nor hangs up", host)
	}
	return n > 0
}

func peerConfig(creds *pki.Credentials) *tls.Config { return anyone(creds, peersProtocol) }
