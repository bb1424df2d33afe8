package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Status is what there is to see of the mesh on this node. It has no secret.
type Status struct {
	PublicKey []byte
	// NextPublicKey is set while the key is being changed.
	NextPublicKey []byte
	// KeyAge is since when this process knows the key in force.
	KeyAge     time.Duration
	ListenPort uint16
	Address    netip.Prefix
	// Interface, MTU, Driver (kernel, embedded) and Mode are netd's word, Repairs and
	// Dropped its counters.
	Interface, Driver, Mode string
	MTU                     int
	Repairs                 uint64
	Dropped                 map[string]uint64
	// Exchanges and Refused count what was agreed on and who was turned away.
	Exchanges, Refused uint64
	Statements         Statements
	// Degraded says what is not as it should be; empty: nothing.
	Degraded []string
	// Broken: among that is something of this node's own, so that it cannot make
	// tunnels. What is between it and some peers is not.
	Broken bool
	// Unreached peers have no working tunnel with this node.
	Unreached int
	Peers     []PeerStatus
}

// PeerStatus is a peer.
type PeerStatus struct {
	NodeID    string
	Mesh      netip.Addr
	Connected bool
	// Resting: there is no connection, because nothing is to be said.
	Resting bool
	// Declared: netd has it, with a pre-shared key.
	Declared bool
	// Epoch of the pre-shared key; 0: there is none. Age is since it was made.
	Epoch uint64
	Age   time.Duration
	// Stale: it should have been made again long ago.
	Stale bool
	// Silent: it answers neither on its port nor in the tunnel.
	Silent bool
	// Err is why there is no connection.
	Err string
	// The rest is netd's word. Handshake is how long ago the last one was; negative:
	// there was none.
	Endpoint       string
	Handshake      time.Duration
	Received, Sent uint64
	// MTU is what goes to it in one piece, where that is less than to others.
	MTU int
	// Degraded says what is wrong with the tunnel; empty: nothing.
	Degraded string
}

// State is what there is to see.
func (p *Peers) State() Status {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	fabric := p.declared.state
	s := Status{ListenPort: p.own.port, Address: p.mesh, Interface: fabric.GetInterface(), Driver: fabric.GetDriver(), Mode: fabric.GetMode(),
		MTU: int(fabric.GetMtu()), Repairs: fabric.GetRepairs(), Dropped: fabric.GetDropped(), Exchanges: p.counts.exchanges, Refused: p.counts.refused, Statements: p.counts.Statements}
	if p.own.current != (key{}) {
		s.PublicKey, s.KeyAge = slices.Clone(p.own.current[:]), now.Sub(p.own.since)
	}
	if p.own.next != (key{}) {
		s.NextPublicKey = slices.Clone(p.own.next[:])
	}
	for _, err := range []error{p.declared.trouble, p.own.err} {
		if err != nil && !errors.Is(err, p.declared.trouble) || err != nil && len(s.Degraded) == 0 {
			s.Degraded = append(s.Degraded, err.Error())
		}
	}
	if text := fabric.GetDegraded(); text != "" {
		s.Degraded = append(s.Degraded, text)
	}
	s.Broken = len(s.Degraded) > 0
	for id, pr := range p.pairs {
		s.Peers = append(s.Peers, p.status(id, pr, now))
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return strings.Compare(a.NodeID, b.NodeID) })
	for _, f := range fabric.GetPeers() {
		i, ok := slices.BinarySearchFunc(s.Peers, f.GetNodeId(), func(a PeerStatus, id string) int { return strings.Compare(a.NodeID, id) })
		if !ok {
			continue
		}
		q := &s.Peers[i]
		q.Endpoint, q.Received, q.Sent = f.GetEndpoint(), f.GetReceivedBytes(), f.GetSentBytes()
		if f.HandshakeAgeMs != nil {
			q.Handshake = time.Duration(f.GetHandshakeAgeMs()) * time.Millisecond
		}
	}
	old, mute := 0, 0
	for i := range s.Peers {
		q := &s.Peers[i]
		q.Degraded = q.wrong(now.Sub(p.pairs[q.NodeID].since))
		switch {
		case q.Stale:
			old++
		case q.Degraded != "":
			mute++
		}
	}
	s.Unreached = mute
	if old > 0 {
		s.Degraded = append(s.Degraded, fmt.Sprintf("the pre-shared keys of %d peers are older than %s: look at TCP port %d between them", old, staleAfter, DefaultPort))
	}
	return s
}

func (p *Peers) status(id string, pr *pair, now time.Time) PeerStatus {
	q := PeerStatus{NodeID: id, Mesh: pr.view.Mesh, Connected: pr.link != nil && pr.link.x.heard != nil, Resting: pr.resting, Silent: pr.silent, Handshake: -1}
	_, q.Declared = p.declared.known[id]
	if own := p.ownMTU(); pr.mtu != 0 && pr.mtu < own {
		q.MTU = pr.mtu
	}
	if s := pr.inForce; s != nil {
		q.Epoch, q.Age = s.epoch, now.Sub(s.made)
		q.Stale = q.Age > staleAfter
	}
	if pr.err != nil {
		q.Err = pr.err.Error()
	}
	return q
}
