package fabric

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Somebody caught one packet of each direction and sent it as his own. Then both
// nodes call him, and hear nobody.
func TestStrayedPeersAreCalledWhereTheyWere(t *testing.T) {
	l := newLab(t, 2)
	l.connect()
	l.overlays(4097)
	a, b := l.nodes[0], l.nodes[1]
	l.wire.Plug(9)
	b.echo()
	a.reaches(b)
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		key := wgtypes.Key(x[1].state().GetPublicKey())
		x[0].f.mu.Lock()
		err := x[0].f.inside(func(*netlink.Handle) error {
			return x[0].f.tell([]wgtypes.PeerConfig{{PublicKey: key, UpdateOnly: true, Endpoint: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 9}}})
		})
		x[0].f.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := time.Now()
	a.reaches(b)
	t.Logf("found again after %v", time.Since(at).Round(time.Millisecond))
	for _, p := range a.state().GetPeers() {
		if p.GetEndpoint() != b.under()+":51820" {
			t.Errorf("its endpoint is %s", p.GetEndpoint())
		}
	}
}

// Who is called where, second by second.
func TestWhomToCallWhere(t *testing.T) {
	var k wgtypes.Key
	k[0] = 1
	home, away, further := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), netip.MustParseAddrPort("192.0.2.3:3")
	type second struct {
		at             netip.AddrPort
		received, sent int64
		call           netip.AddrPort // zero: nobody
	}
	var none netip.AddrPort
	for name, seconds := range map[string][]second{
		"at home, silent":            {{home, 1, 1, none}, {home, 1, 2, none}, {home, 1, 3, none}, {home, 1, 4, none}, {home, 1, 5, none}},
		"away, and heard":            {{away, 1, 1, none}, {away, 2, 2, none}, {away, 3, 3, none}, {away, 4, 4, none}, {away, 5, 5, none}},
		"away, and not spoken to":    {{away, 1, 1, none}, {away, 1, 1, none}, {away, 1, 1, none}, {away, 1, 1, none}, {away, 1, 1, none}},
		"away, and silent":           {{away, 1, 1, none}, {away, 1, 2, none}, {away, 1, 3, none}, {away, 1, 4, home}, {home, 2, 5, none}, {home, 2, 6, none}, {home, 2, 9, none}, {home, 2, 12, none}},
		"silent at home as well":     {{away, 1, 1, none}, {away, 1, 2, none}, {away, 1, 3, none}, {away, 1, 4, home}, {home, 1, 5, none}, {home, 1, 6, none}, {home, 1, 7, away}, {away, 2, 8, none}},
		"away again, somewhere else": {{away, 1, 1, none}, {away, 1, 2, none}, {further, 1, 3, none}, {further, 1, 4, home}, {home, 1, 5, none}, {home, 1, 6, none}, {home, 1, 7, further}},
		"nobody knows where it is":   {{none, 0, 1, none}, {none, 0, 2, none}, {none, 0, 3, none}, {none, 0, 4, none}},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, err := New(Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			f.have = entries{k: {endpoint: home}}
			for i, s := range seconds {
				st := &status{peers: map[wgtypes.Key]peerStatus{k: {entry: entry{endpoint: s.at}, received: s.received, sent: s.sent}}}
				var got netip.AddrPort
				for _, c := range f.callStrays(st, time.Now()) {
					got = c.Endpoint.AddrPort()
					got = netip.AddrPortFrom(got.Addr().Unmap(), got.Port())
				}
				if got != s.call {
					t.Errorf("%s: second %d: called %v, want %v", name, i, got, s.call)
				}
				time.Sleep(time.Second)
			}
		})
	}
}
