package port

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redoubt-cluster/redoubt/pki"
	"github.com/redoubt-cluster/redoubt/pki/pkitest"
)

// TestManyThroughOneFollower: far more nodes than the leader lets one address
// have half-open come through a follower at once, as after a change of leader.
// Each gets through at its first attempt, and raft of that follower with them.
func TestManyThroughOneFollower(t *testing.T) {
	const many, each = 40, maxCarrying + 8
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
