package port

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/strangers"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// TestWaitingEnds: who is overtaken until its time is over is let go, and does not
// wait on for a turn with a connection that nobody holds any more; at the leader
// and at a follower.
func TestWaitingEnds(t *testing.T) {
	ca := pkitest.New(t)
	lead, follower := newHost(t, ca, Limits{Handshake: time.Second}), newHost(t, ca, Limits{Handshake: time.Second})
	follower.follow(lead)
	for _, c := range []struct {
		name  string
		host  *host
		turns *strangers.Turns
	}{{"leader", lead, lead.turns}, {"follower", follower, follower.carrying}} {
		taken := 0
		for ; c.turns.Idle() > 0; taken++ { // nobody else uses them yet
			if err := c.turns.Take(t.Context(), strangers.New); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := net.Dial("tcp", c.host.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		if err := tls.Client(conn, ca.NewNode(t, worker).ClientConfig(pki.ALPNGRPC, "")).HandshakeContext(t.Context()); err == nil {
			t.Errorf("%s: a handshake was made without a turn", c.name)
		}
		conn.Close()
		eventually(t, func() bool {
			return c.host.half.Len() == 0 && c.turns.Waiting(strangers.New) == 0
		})
		for range taken {
			c.turns.Give()
		}
	}
}
