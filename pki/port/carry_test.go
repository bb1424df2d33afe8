package port

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// TestManyThroughOneFollower: far more nodes than the leader lets one address
// have half-open come through a follower at once, as after a change of leader.
// Each gets through at its first attempt, and raft of that follower with them.
func TestManyThroughOneFollower(t *testing.T) {
	const many, each = 60, 2*maxCarrying + 4 // of this side, whose handshakes end a little later
	ca := pkitest.New(t)
	lead, follower := newHost(t, ca, Limits{HalfOpenPerSource: each}), newHost(t, ca, Limits{HalfOpenPerSource: many})
	follower.follow(lead)
	accepted := lead.echo(t, pki.ALPNGRPC)
	lead.echo(t, pki.ALPNRaft)
	var drained sync.WaitGroup
	drained.Go(func() {
		for {
			select {
			case <-accepted:
			case <-t.Context().Done():
				return
			}
		}
	})
	t.Cleanup(drained.Wait)
	peer := ca.NewNode(t, manager)
	var nodes []*pkitest.Node
	for range many {
		nodes = append(nodes, ca.NewNode(t, worker))
	}
	var failed atomic.Int32
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			ctx := pki.DialFrom(t.Context(), netip.AddrFrom4([4]byte{127, 2, byte(i >> 8), byte(i) | 1}))
			conn, err := pki.DialTLS(ctx, follower.addr, n.ClientConfig(pki.ALPNGRPC, ""))
			if err != nil {
				failed.Add(1)
				return
			}
			conn.Close()
		})
	}
	for range 5 {
		if _, err := ping(t, lead.addr, peer.ClientConfig(pki.ALPNRaft, lead.node.Record.GetId())); err != nil {
			t.Errorf("raft meanwhile: %v", err)
		}
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d nodes did not come through", n, many)
	}
}

// TestCarriedRaft: a follower that carries raft here, as no honest one does, and
// names another one's address for it, takes nothing of that one's raft.
func TestCarriedRaft(t *testing.T) {
	ca := pkitest.New(t)
	h := newHost(t, ca, Limits{HandshakeBurst: 2, HandshakeRate: 1})
	h.echo(t, pki.ALPNRaft)
	liar, peer := ca.NewNode(t, manager), ca.NewNode(t, manager)
	for i := range 6 {
		ctx := pki.DialFrom(t.Context(), netip.AddrFrom4([4]byte{127, 3, 0, byte(i) + 1}))
		outer, err := pki.DialTLS(ctx, h.addr, liar.ClientConfig(pki.ALPNLeader, h.node.Record.GetId()))
		if err != nil {
			t.Fatal(err)
		}
		outer.SetDeadline(time.Now().Add(patience))
		if _, err := outer.Write(lp.Append(nil, []byte("127.0.0.1:7"))); err != nil {
			t.Fatal(err)
		}
		if err := tls.Client(outer, peer.ClientConfig(pki.ALPNRaft, "")).HandshakeContext(t.Context()); err == nil {
			t.Error("raft was carried")
		}
		outer.Close()
	}
	for lane := range h.handshakes.Owed() {
		if strings.HasSuffix(lane, " raft") {
			t.Errorf("what the liar carried was measured as raft of %s", lane)
		}
	}
	if _, err := ping(t, h.addr, peer.ClientConfig(pki.ALPNRaft, h.node.Record.GetId())); err != nil {
		t.Errorf("raft afterwards: %v", err)
	}
}
