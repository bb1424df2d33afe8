package fabric

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"pgregory.net/rapid"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// newDevice is a real wireguard-go that is never set up.
func newDevice(t interface{ Cleanup(func()) }) *embedded {
	dev := device.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	dev.SetPrivateKey(device.NoisePrivateKey(k.Bytes()))
	t.Cleanup(dev.Close)
	return &embedded{dev: dev}
}

func (e *embedded) tell(t rapid.TB, peers []wgtypes.PeerConfig) {
	t.Helper()
	for _, p := range peers {
		if p.PresharedKey != nil && *p.PresharedKey == (wgtypes.Key{}) || len(p.AllowedIPs) > 1 {
			t.Fatalf("a peer without a pre-shared key, or with %d addresses", len(p.AllowedIPs))
		}
	}
	if err := e.set(encode(wgtypes.Config{Peers: peers})); err != nil {
		t.Fatal(err)
	}
}

// Whatever sequence of declarations comes, whole or as differences, with next
// keys that come into use or do not: the device is as if the last had come alone
// to a new one, and no address is ever without the peer that keeps it.
func TestAnySequenceEndsAsItsLastDeclaration(t *testing.T) {
	var ids []string
	var keys []wgtypes.Key
	for i := range 12 {
		ids = append(ids, ident.New())
		keys = append(keys, wgtypes.Key(key(byte(i+1))))
	}
	rapid.Check(t, func(rt *rapid.T) {
		e := newDevice(rt)
		p, have, turned := emptyPlan(), entries{}, map[wgtypes.Key]bool{}
		for step := range rapid.IntRange(1, 8).Draw(rt, "steps") {
			d := declaration{settings: settings{generation: uint64(step + 1), address: netip.MustParsePrefix("198.18.0.1/15")}}
			if step > 0 && rapid.Bool().Draw(rt, "difference") {
				d.base = uint64(step)
			}
			free := slices.Clone(keys)
			addr := byte(10)
			for _, id := range ids {
				if !rapid.Bool().Draw(rt, "peer") {
					if d.base != 0 && p.peers[id] != nil && rapid.Bool().Draw(rt, "remove") {
						d.removed = append(d.removed, id)
					}
					continue
				}
				take := func() wgtypes.Key {
					i := rapid.IntRange(0, len(free)-1).Draw(rt, "key")
					k := free[i]
					free = slices.Delete(free, i, i+1)
					return k
				}
				if len(free) < 2 {
					break
				}
				addr++
				x := &peer{node: id, key: take(), psk: psk{byte(rapid.IntRange(1, 3).Draw(rt, "psk"))}, addr: netip.AddrFrom4([4]byte{198, 18, 0, addr}),
					keepalive: time.Duration(rapid.IntRange(0, 2).Draw(rt, "keepalive")) * time.Second}
				if rapid.Bool().Draw(rt, "endpoint") {
					x.endpoint = netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:5", rapid.IntRange(1, 3).Draw(rt, "host")))
				}
				if rapid.Bool().Draw(rt, "next") {
					x.next = &nextKey{key: take(), psk: psk{9, byte(rapid.IntRange(1, 3).Draw(rt, "next psk"))}}
				}
				d.upsert = append(d.upsert, x)
			}
			to, touched, err := p.merge(d)
			if err != nil {
				continue // addresses or keys of peers that stay
			}
			p = to
			for k := range turned {
				if !p.announced[k] {
					delete(turned, k)
				}
			}
			told := p.diff(have, touched, turned)
			e.tell(rt, told)
			p.apply(have, told, turned)
			for k := range p.announced {
				if rapid.Bool().Draw(rt, "turn") {
					turned[k] = true
				}
			}
			told = p.diff(have, nil, turned)
			e.tell(rt, told)
			p.apply(have, told, turned)
			if more := p.diff(have, nil, turned); len(more) != 0 {
				rt.Fatalf("%d changes are left", len(more))
			}
		}
		fresh := newDevice(rt)
		fresh.tell(rt, p.diff(entries{}, nil, turned))
		got, err := e.read()
		if err != nil {
			rt.Fatal(err)
		}
		want, err := fresh.read()
		if err != nil {
			rt.Fatal(err)
		}
		if len(got.peers) != len(want.peers) {
			rt.Fatalf("%d peers, want %d", len(got.peers), len(want.peers))
		}
		for k, w := range want.peers {
			g, ok := got.peers[k]
			if !w.endpoint.IsValid() {
				g.endpoint = w.endpoint // WireGuard forgets none
			}
			if !ok || g.entry != w.entry || g.moreAllowed {
				rt.Fatalf("peer at %s, keepalive %s, endpoint %s; want %s, %s, %s", g.addr, g.keepalive, g.endpoint, w.addr, w.keepalive, w.endpoint)
			}
			if e, ok := p.want(k, turned); !ok || e.addr != w.addr {
				rt.Fatalf("the device has %s, the plan %s", w.addr, e.addr)
			}
		}
	})
}

// What is told to the device for an unchanged session is nothing.
func TestADifferenceTouchesNobodyElse(t *testing.T) {
	p := emptyPlan()
	var d declaration
	d.generation, d.address = 1, netip.MustParsePrefix("198.18.0.1/15")
	for i := range 5 {
		d.upsert = append(d.upsert, &peer{node: ident.New(), key: wgtypes.Key(key(byte(i + 1))), psk: psk{1}, addr: netip.AddrFrom4([4]byte{198, 18, 0, byte(10 + i)})})
	}
	p, _, err := p.merge(d)
	if err != nil {
		t.Fatal(err)
	}
	have := entries{}
	p.apply(have, p.diff(have, nil, nil), nil)
	changed := *d.upsert[3]
	changed.psk = psk{2}
	p, touched, err := p.merge(declaration{settings: settings{generation: 2, address: d.address}, base: 1, upsert: []*peer{&changed}})
	if err != nil {
		t.Fatal(err)
	}
	told := p.diff(have, touched, nil)
	if len(told) != 1 || told[0].PublicKey != changed.key || !told[0].UpdateOnly || told[0].Endpoint != nil || told[0].ReplaceAllowedIPs || told[0].PersistentKeepaliveInterval != nil {
		t.Errorf("%d changes, of one key alone one is wanted", len(told))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("private_key=00\nlisten_port=5\npublic_key=" + fmt.Sprintf("%x", key(1)) + "\nallowed_ip=198.18.0.1/32\nendpoint=[::1]:5\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err == nil {
			s.entries()
		}
	})
}
