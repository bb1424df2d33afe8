package peer

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

var errMoved = errors.New("this node has left the address that it was made from")

// moved ends the connections from addresses that this node had and has no more, and
// has the peers called from where it is now. Nothing that is sent on them arrives,
// but TCP would find out after a minute. p.mu is held; the caller cuts what is
// returned.
func (p *Peers) moved(before, now []string, at time.Time) (over []*link) {
	gone := make(map[string]bool)
	for _, a := range before {
		if !slices.Contains(now, a) {
			gone[a] = true
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for _, pr := range p.pairs {
		if l := pr.link; l != nil && gone[l.local] {
			p.drop(l, errMoved, at)
			pr.fails, pr.nextDial = 0, at
			over = append(over, l)
		}
	}
	return over
}

// judge decides from the connection whether the peer can be called: it was, or came
// from where managers say that it is.
func (pr *pair) judge() {
	l := pr.link
	if l == nil {
		return
	}
	if l.dialled {
		pr.away = false
	} else if l.translated {
		pr.away = true // of a NAT managers see the same address as we do
	} else if host, _, err := net.SplitHostPort(pr.view.Underlay); err != nil {
		pr.away = true // nobody can call it
	} else if a, err := netip.ParseAddr(host); err == nil {
		pr.away = a.Unmap() != l.remote.Addr()
	}
}

// ownMTU is what this node's tunnels take in one piece; 0: not known. p.mu is held.
func (p *Peers) ownMTU() int {
	if m := int(p.declared.state.GetMtu()); m >= minMTU && m <= maxMTU {
		return m
	}
	return 0
}
