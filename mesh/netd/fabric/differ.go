package fabric

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// An entry is what the device has under one public key.
type entry struct {
	psk       psk
	endpoint  netip.AddrPort // as declared; the device follows the peer when it roams
	keepalive time.Duration
	addr      netip.Addr // invalid: a key that waits for its first handshake
}

type entries map[wgtypes.Key]entry

// want is the entry that is to be under a key. A peer that announced its next
// key has an entry more, without an address, until that key has shaken hands:
// then the address goes over to it and the old key is no peer any more.
func (p *plan) want(k wgtypes.Key, turned map[wgtypes.Key]bool) (entry, bool) {
	x := p.peers[p.keys[k]]
	switch {
	case x == nil:
		return entry{}, false
	case x.next == nil:
		return entry{psk: x.psk, endpoint: x.endpoint, keepalive: x.keepalive, addr: x.addr}, true
	case k == x.next.key && turned[k]:
		return entry{psk: x.next.psk, endpoint: x.endpoint, keepalive: x.keepalive, addr: x.addr}, true
	case k == x.next.key:
		return entry{psk: x.next.psk, endpoint: x.endpoint}, true
	case turned[x.next.key]:
		return entry{}, false
	}
	return entry{psk: x.psk, endpoint: x.endpoint, keepalive: x.keepalive, addr: x.addr}, true
}

// diff is what has to be told to a device that has have. Only the keys touched
// are looked at, all where it is nil. Whoever gains an address comes first, in
// one message with the one who loses it, and removals come last: a packet finds
// the old owner or the new one.
func (p *plan) diff(have entries, touched, turned map[wgtypes.Key]bool) []wgtypes.PeerConfig {
	if touched == nil {
		touched = make(map[wgtypes.Key]bool, len(have)+len(p.keys))
		for k := range have {
			touched[k] = true
		}
		for k := range p.keys {
			touched[k] = true
		}
	}
	var gains, others, removals []wgtypes.PeerConfig
	for k := range touched {
		old, had := have[k]
		e, wanted := p.want(k, turned)
		switch {
		case !wanted && had:
			removals = append(removals, wgtypes.PeerConfig{PublicKey: k, Remove: true, UpdateOnly: true})
		case !wanted || had && e == old:
		default:
			c := change(k, old, e, had)
			if e.addr.IsValid() && e.addr != old.addr {
				gains = append(gains, c)
			} else {
				others = append(others, c)
			}
		}
	}
	return slices.Concat(gains, others, removals)
}

// change makes the entry under k what it is to be. Of one that exists only what
// differs is told: nothing that would cost its session.
func change(k wgtypes.Key, old, e entry, had bool) wgtypes.PeerConfig {
	c := wgtypes.PeerConfig{PublicKey: k, UpdateOnly: had}
	if !had || e.psk != old.psk {
		c.PresharedKey = (*wgtypes.Key)(&e.psk)
	}
	if e.endpoint.IsValid() && e.endpoint != old.endpoint {
		c.Endpoint = net.UDPAddrFromAddrPort(e.endpoint)
	}
	if !had || e.keepalive != old.keepalive {
		c.PersistentKeepaliveInterval = &e.keepalive
	}
	if !had || e.addr != old.addr {
		c.ReplaceAllowedIPs = true
		if e.addr.IsValid() {
			c.AllowedIPs = []net.IPNet{{IP: e.addr.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		}
	}
	return c
}

// wake makes each of the peers shake hands now rather than at its first packet:
// turning the keepalive on sends one. Whichever of the two nodes learns of the
// other last thus begins, and none waits for the retry of a handshake that came
// too early.
func (p *plan) wake(keys []wgtypes.Key, turned map[wgtypes.Key]bool) (off, on, as []wgtypes.PeerConfig) {
	zero, second := time.Duration(0), time.Second
	for _, k := range keys {
		e, ok := p.want(k, turned)
		if !ok || !e.addr.IsValid() || !e.endpoint.IsValid() {
			continue
		}
		if e.keepalive > 0 {
			off = append(off, wgtypes.PeerConfig{PublicKey: k, UpdateOnly: true, PersistentKeepaliveInterval: &zero})
		}
		on = append(on, wgtypes.PeerConfig{PublicKey: k, UpdateOnly: true, PersistentKeepaliveInterval: &second})
		as = append(as, wgtypes.PeerConfig{PublicKey: k, UpdateOnly: true, PersistentKeepaliveInterval: &e.keepalive})
	}
	return off, on, as
}

// apply records in have what was told to the device.
func (p *plan) apply(have entries, told []wgtypes.PeerConfig, turned map[wgtypes.Key]bool) {
	for _, c := range told {
		if c.Remove {
			delete(have, c.PublicKey)
			continue
		}
		e, _ := p.want(c.PublicKey, turned)
		have[c.PublicKey] = e
	}
}
