package peer

import "time"

// abandon ends an exchange with its connection. The node with the higher id may have
// confirmed what the other then committed, or not: it cannot know, and keeps both. The
// other has switched or has not, and knows. What the two have may thus differ until
// they meet again, and they may be kept from meeting.
func (x *exchange) abandon() {
	offered := x.offered
	x.offered = nil
	switch {
	case offered == nil:
	case x.lower || x.mem.inForce == nil: // it knows, or has no tunnel that could end
		offered.wipe()
	default:
		x.mem.doubt.wipe()
		x.mem.doubt = offered
	}
}

// resolve finds out by the tunnel itself which of two secrets a peer has that cannot be
// reached on its port: WireGuard shakes hands again once a session is rekeyAfter old,
// and does so with the right one alone. Each is given trialFor in turn. The old session
// carries what there is to carry meanwhile, until a minute later. ages are how long ago
// peers shook hands last. p.mu is held.
func (p *Peers) resolve(ages map[string]time.Duration, now time.Time) {
	for id, pr := range p.pairs {
		if pr.doubt == nil || pr.link != nil && pr.link.x.heard != nil {
			pr.tried = time.Time{} // or it is settled by what they say to each other
			continue
		}
		age, shook := ages[id]
		switch {
		case shook && !pr.tried.IsZero() && now.Add(-age).After(pr.tried):
			p.log.Info("a peer that cannot be reached shook hands: its pre-shared key is known", "node", id)
			pr.doubt.wipe()
			pr.doubt, pr.tried = nil, time.Time{}
		case shook && age < rekeyAfter:
		case pr.tried.IsZero():
			pr.tried = now
		case now.Sub(pr.tried) >= trialFor:
			pr.inForce, pr.doubt, pr.tried = pr.doubt, pr.inForce, now
			p.refresh(pr)
		}
	}
}
