package peer

import (
	"strings"
	"testing"
	"time"
)

// What a node's tunnels take is told, follows a change, and reaches the other's
// netd; what cannot be is refused.
func TestMTUsAreTold(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.know(a, b)
		after(time.Second)
		w.joined(a, b)
		for _, mtu := range []uint32{8920, 1420} {
			b.netd.setMTU(mtu)
			after(3 * time.Second)
			if got := a.netd.peer(b.id()).Mtu; got != mtu {
				t.Errorf("node 1's netd has an MTU of %d for a peer with %d", got, mtu)
			}
		}
		w.joined(a, b)
		a.netd.setMTU(8920)
		after(3 * time.Second)
		if s := a.of(b); s.MTU != 1420 {
			t.Errorf("%+v", s)
		}
		if s := b.of(a); s.MTU != 0 {
			t.Errorf("%+v", s)
		}
		if n := a.State().Exchanges; n != 1 {
			t.Errorf("%d exchanges", n)
		}
	})
}

// A node that leaves an address ends what it had from there and calls anew at
// once; the connection of an address that it keeps stays.
func TestConnectionsOfAnAddressThatIsGone(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world) {
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		b.netd.setUnderlay("192.0.2.2", "198.51.100.2")
		w.know(a, b, c)
		after(5 * time.Second)
		w.joined(a, b, c)
		b.mu.Lock()
		b.pairs[a.id()].link.local = "198.51.100.2"
		stays, goes := b.pairs[c.id()].link, b.pairs[a.id()].link
		b.mu.Unlock()
		b.netd.setUnderlay("192.0.2.2", "203.0.113.2")
		after(2 * time.Second)
		b.mu.Lock()
		if b.pairs[c.id()].link != stays {
			t.Error("a connection of an address that stayed was ended")
		}
		if l := b.pairs[a.id()].link; l == goes || l == nil {
			t.Errorf("the connection of an address that is gone: %v, before %v", l != nil, l == goes)
		}
		b.mu.Unlock()
		w.joined(a, b, c)
	})
}

// A peer that cannot be reached is said to be so, with the reason, and not before
// it had time.
func TestAPeerWithoutATunnelIsSaid(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world) {
		a, b := w.nodes[0], w.nodes[1]
		w.cut[a.address+" "+b.address], w.cut[b.address+" "+a.address] = true, true
		w.know(a, b)
		after(time.Second)
		if s := a.State(); s.Unreached != 0 {
			t.Errorf("after a second: %+v", s)
		}
		after(time.Minute)
		s := a.State()
		if s.Unreached != 1 || s.Broken || !strings.Contains(s.Peers[0].Degraded, "no tunnel: there is no pre-shared key") {
			t.Errorf("%+v", s)
		}
	})
}

func (k *kernel) setMTU(mtu uint32) {
	k.mu.Lock()
	k.mtu = mtu
	k.mu.Unlock()
}

func (k *kernel) setUnderlay(addrs ...string) {
	k.mu.Lock()
	k.underlay = addrs
	k.mu.Unlock()
}
