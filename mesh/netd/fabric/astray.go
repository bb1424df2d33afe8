package fabric

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// WireGuard sends to where the last good packet came from. Whoever catches one
// on its way and sends it as his own is from then on where the peer is believed
// to be; done once in each direction, neither ever hears the other again, and
// no timer of WireGuard's ends that. So a peer that is silent where it was heard
// last is called where it was declared, and there, in turns, until it is heard.
// One that roams and is heard is left alone, wherever it is.

// A stray is a peer that was heard from somewhere else than it was declared.
type stray struct {
	roamed         netip.AddrPort
	received, sent int64
	asked          time.Time // since then it owes an answer; zero: it owes none
	said           bool      // in the log
}

// followStrays looks for silent ones and returns after what time to look again.
func (f *Fabric) followStrays(ctx context.Context) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || f.closed || f.driver == nil || len(f.have) == 0 {
		return strayEvery
	}
	began := time.Now()
	err := f.inside(func(*netlink.Handle) error {
		s, err := f.driver.read()
		if err != nil {
			return err
		}
		return f.tell(f.callStrays(s, began))
	})
	if err != nil {
		f.log.Warn("peers that went astray not looked for; it is tried again", "err", err)
	}
	return max(strayEvery, turnFactor*time.Since(began))
}

// callStrays notes who is where, and returns where to call whom.
func (f *Fabric) callStrays(s *status, now time.Time) (calls []wgtypes.PeerConfig) {
	for k := range f.strays {
		if _, ok := s.peers[k]; !ok {
			delete(f.strays, k)
		}
	}
	for k, p := range s.peers {
		home := f.have[k].endpoint
		x, known := f.strays[k]
		switch {
		case !home.IsValid() || !p.endpoint.IsValid():
			continue
		case !known && p.endpoint == home:
			continue
		case !known:
			x = &stray{}
			f.strays[k] = x
		case p.received != x.received && p.endpoint == home:
			delete(f.strays, k)
			continue
		}
		if p.endpoint != home {
			x.roamed = p.endpoint
		}
		switch {
		case !known || p.received != x.received:
			x.received, x.sent, x.asked = p.received, p.sent, time.Time{}
		case p.sent == x.sent:
		case x.asked.IsZero():
			x.asked = now
		case now.Sub(x.asked) >= straySilence:
			to := home
			if p.endpoint == home {
				to = x.roamed
			}
			if !x.said {
				f.log.Warn("a peer is silent where it was heard last, calling it elsewhere", "node", f.plan.keys[k], "silent", p.endpoint.String(), "called", to.String())
				x.said = true
			}
			calls = append(calls, wgtypes.PeerConfig{PublicKey: k, UpdateOnly: true, Endpoint: net.UDPAddrFromAddrPort(to)})
			x.sent, x.asked = p.sent, time.Time{}
		}
	}
	return calls
}
