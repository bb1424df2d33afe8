package peer

import (
	"net/netip"
	"time"
)

// A pair is this node and one other.
type pair struct {
	view  View
	since time.Time // it is a peer
	memory
	link     *link        // nil: there is no connection
	keys     keys         // as announced last
	proven   map[key]bool // those of them that it has shown to be its own
	port     uint16
	mtu      int            // of its tunnels; 0: not known
	endpoint netip.AddrPort // of its WireGuard; zero: not known
	// away: it could not be dialled, or came from elsewhere than it should; calls:
	// it says so of this node.
	away, calls bool

	dialling bool
	fails    int
	nextDial time.Time
	resting  bool // it has no connection because nothing is to be said
	err      error

	hearkening

	told  map[string]uint64 // by network: sequence of ours that it has, or that is under way
	heard map[string]number // by network: of its statement that holds

	hold    time.Time // until then the other's netd is waited for; zero: it is not
	mute    bool      // netd is not to call the peer
	entry   *entry    // what netd is to have; nil: what it has, or nothing
	settled uint64    // epoch that netd has
	tried   time.Time // netd was told then what is in doubt (doubt.go)
}

// add makes a pair. p.mu is held.
func (p *Peers) add(v View, now time.Time) {
	pr := &pair{view: v, since: now, nextDial: now, told: map[string]uint64{}, heard: map[string]number{}, proven: map[key]bool{}}
	if !p.lower(v.ID) {
		pr.nextDial = now.Add(helpAfter)
		if _, came := p.unwelcome[v.ID]; came { // it knew of us first
			pr.nextDial = now
		}
	}
	delete(p.unwelcome, v.ID)
	p.pairs[v.ID] = pr
	p.declared.dirty[v.ID] = true
}

// forget ends a pair and returns its connection, to be cut. p.mu is held.
func (p *Peers) forget(pr *pair) *link {
	id := pr.view.ID
	delete(p.pairs, id)
	p.unclaim(pr)
	for network := range pr.heard {
		p.unhear(pr, network)
	}
	pr.inForce.wipe()
	pr.doubt.wipe()
	pr.entry = nil
	p.declared.dirty[id] = true
	l := pr.link
	pr.link = nil
	return l
}

func (p *Peers) unclaim(pr *pair) {
	for _, k := range []key{pr.keys.current, pr.keys.next} {
		if p.claims[k] == pr.view.ID {
			delete(p.claims, k)
		}
	}
}
