package fabric

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// announce declares to each peer that n is about to use its next key.
func (l *lab) announce(n *node, next []byte) {
	l.t.Helper()
	for _, o := range l.others(n) {
		req := o.request(l.others(o)...)
		for _, p := range req.Peers {
			if p.NodeId == n.id {
				p.Next = &netdpb.FabricKey{PublicKey: next, PresharedKey: pair(req.OwnPublicKey, next)}
			}
		}
		o.declare(req)
	}
}

func (n *node) rotate() []byte {
	n.lab.t.Helper()
	r, err := n.f.Rotate(n.lab.t.Context())
	if err != nil {
		n.lab.t.Fatal(err)
	}
	return r.GetNextPublicKey()
}

// turn puts the next key in force.
func (n *node) turn(next []byte, peers ...*node) {
	req := n.request(peers...)
	req.OwnPublicKey = next
	for i, p := range peers {
		req.Peers[i].PresharedKey = pair(next, p.state().GetPublicKey())
	}
	n.declare(req)
}

// A flow says something every few milliseconds and notes the longest silence.
type flow struct {
	conn    net.Conn
	stop    chan struct{}
	done    sync.WaitGroup
	err     error
	said    int
	longest time.Duration
}

func (n *node) flow(to *node) *flow {
	t := n.lab.t
	t.Helper()
	c, err := n.dial(to)
	if err != nil {
		t.Fatal(err)
	}
	f := &flow{conn: c, stop: make(chan struct{})}
	f.done.Go(func() {
		defer c.Close()
		for {
			select {
			case <-f.stop:
				return
			default:
			}
			began := time.Now()
			if f.err = say(c, canary); f.err != nil {
				return
			}
			f.said++
			f.longest = max(f.longest, time.Since(began))
		}
	})
	return f
}

func (f *flow) end(t testing.TB) {
	t.Helper()
	close(f.stop)
	f.done.Wait()
	if f.err != nil {
		t.Errorf("the connection was lost: %v", f.err)
	}
	t.Logf("%d exchanges, the longest took %s", f.said, f.longest.Round(time.Millisecond))
}

// Keys change under connections in both directions, again and again; none is
// lost, and nothing of it is on the wire in clear.
func TestKeysChangeUnderConnections(t *testing.T) {
	l := newLab(t, 3)
	l.connect()
	l.overlays(4097)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	for _, n := range l.nodes {
		n.echo()
	}
	tap := l.tap()
	flows := []*flow{a.flow(b), b.flow(a), c.flow(a), b.flow(c)}
	for _, n := range []*node{a, b, a} {
		next := n.rotate()
		if again := n.rotate(); string(again) != string(next) {
			t.Error("a second rotation makes another key")
		}
		l.announce(n, next)
		n.turn(next, l.others(n)...)
		for _, o := range l.others(n) {
			o.waitForKey(n, next)
		}
		if got := n.state(); string(got.GetPublicKey()) != string(next) || len(got.GetNextPublicKey()) != 0 {
			t.Errorf("the next key is not in force: %v", got)
		}
		// What the peers are told afterwards is what they have already.
		for _, o := range l.others(n) {
			o.declare(o.request(l.others(o)...))
		}
	}
	for _, f := range flows {
		f.end(t)
		if f.longest > 5*time.Second {
			t.Errorf("a connection stood still for %s", f.longest)
		}
	}
	tap.end()
	if tap.frames == 0 || tap.canaries != 0 || tap.clear != 0 {
		t.Errorf("of %d frames on the wire %d hold the canary and %d are VXLAN in clear", tap.frames, tap.canaries, tap.clear)
	}
}

// waitForKey waits until the peer's address is its next key's.
func (n *node) waitForKey(peer *node, key []byte) {
	n.lab.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); time.Now().Before(end); <-tick.C {
		for _, p := range n.state().GetPeers() {
			if p.GetNodeId() == peer.id && string(p.GetPublicKey()) == string(key) && p.HandshakeAgeMs != nil {
				return
			}
		}
	}
	n.lab.t.Fatalf("node %d does not use the next key of node %d", n.i, peer.i)
}

// A peer that is alive and did not confirm cannot be cut off; one that is not
// alive does not hold up the others.
func TestRotationLeavesNobodyBehind(t *testing.T) {
	l := newLab(t, 3)
	a, b, c := l.nodes[0], l.nodes[1], l.nodes[2]
	a.declare(a.request(b, c))
	b.declare(b.request(a)) // c never answers
	two := &lab{t: t, wire: l.wire, nodes: []*node{a, b}}
	two.overlays(4097)
	b.echo()
	a.reaches(b)
	next := a.rotate()
	req := a.request(c)
	req.OwnPublicKey = next
	req.Peers[0].PresharedKey = pair(next, c.state().GetPublicKey())
	_, err := a.f.Declare(t.Context(), req)
	wantError(t, err, "node "+b.id+" has a session")
	a.gen--
	if string(a.state().GetPublicKey()) == string(next) {
		t.Fatal("the next key is in force")
	}
	a.reaches(b)
	two.announce(a, next)
	a.turn(next, b)
	b.waitForKey(a, next)
	a.reaches(b)
}

// What is made for a key that is not the node's is refused: after a restart, all
// is made anew. The kernel's WireGuard would have kept its key.
func TestRestart(t *testing.T) {
	l := newLabOf(t, best(t), best(t))
	l.connect()
	l.overlays(4097)
	a, b := l.nodes[0], l.nodes[1]
	b.echo()
	a.reaches(b)
	stale := a.request(b)
	f := a.flow(b)
	a.stop()
	a.start()
	_, err := a.f.Declare(t.Context(), stale)
	wantError(t, err, "is not this node's")
	began := time.Now()
	b.declare(b.request(a))
	a.declare(a.request(b))
	// The VXLAN device, its addresses and what may pass survived.
	a.reaches(b)
	t.Logf("traffic goes on %s after the declaration", time.Since(began).Round(time.Millisecond))
	f.end(t)
}

func TestKeysAreNotPrinted(t *testing.T) {
	s, err := newSecret()
	if err != nil {
		t.Fatal(err)
	}
	defer s.wipe()
	p := peer{psk: psk{1, 2, 3}, next: &nextKey{psk: psk{1, 2, 3}}}
	for _, x := range []any{s, *s, p, &p, *p.next, entry{psk: psk{1, 2, 3}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			text := fmt.Sprintf(verb, x)
			for _, k := range []any{psk{1, 2, 3}, *s.key()} {
				for _, form := range []string{"%v", "%s", "%x", "%d"} {
					if _, hidden := k.(psk); hidden {
						k = wgtypes.Key(k.(psk))
					}
					if plain := fmt.Sprintf(form, k); len(plain) > 20 && strings.Contains(text, plain) {
						t.Errorf("%s of %T prints a key", verb, x)
					}
				}
			}
		}
	}
}
