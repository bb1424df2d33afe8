package peer

import (
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/ident"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// Statements counts them; each of the lower ones was refused and changed nothing.
type Statements struct {
	// Told to peers; Swept of them because a relay did not. Heard from their node
	// itself, or Relayed by another; Passed on for others.
	Told, Swept, Heard, Relayed, Passed uint64
	// Repeated: what was heard already, as from two relays. Replayed: older than that. Forged: not signed by whom it names.
	// Stale: relayed, and made too long ago. Foreign: of a network that the node it is
	// of, or who passed it on, is not on. Malformed: no statement.
	Repeated, Replayed, Forged, Stale, Foreign, Malformed uint64
}

// said takes a statement from a connection. Signatures are verified without p.mu. One
// that cannot be accepted is counted and forgotten: nothing about it is worth the
// connection, which the pair's keys depend on. What it costs is bounded by the pace.
func (p *Peers) said(l *link, m *peerpb.Said) error {
	now := time.Now()
	s, err := parseStatement(m.GetStatement())
	if err == nil {
		err = checkSaid(m)
	}
	sender := l.pair.view.ID
	if err == nil && m.GetNode() == sender {
		err = errors.New("a statement names its sender")
	}
	if err != nil {
		p.mu.Lock()
		p.counts.Malformed++
		p.mu.Unlock()
		p.refusals.Warn(sender, "refused a statement of endpoints", "from", sender, "reason", err)
		return nil
	}
	node := m.GetNode()
	if node == "" {
		node = sender
	}
	p.mu.Lock()
	pr, err := p.mayHear(l, node, s, now)
	p.mu.Unlock()
	if err != nil || pr == nil {
		return err
	}
	by, err := p.o.TLS.SaidBy(signedOf(node, m.GetStatement()), m.GetChain(), m.GetSignature())
	if err == nil && by != node {
		err = fmt.Errorf("node %s signed it", by)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.counts.Forged++
		p.refusals.Warn(sender, "refused a statement of endpoints", "node", node, "from", sender, "reason", err)
		return nil
	}
	if pr, err = p.mayHear(l, node, s, now); err != nil || pr == nil {
		return err
	}
	pr.heard[s.network] = s.number
	if node == sender {
		l.boot = s.boot
		p.counts.Heard++
	} else {
		p.counts.Relayed++
		if pr.link.open() && pr.link.words.take(now) {
			p.utter(pr.link, &peerpb.Frame{Message: &peerpb.Frame_Got{Got: &peerpb.Got{Network: s.network, Boot: s.boot, Sequence: s.sequence}}})
		}
	}
	if p.o.Heard != nil {
		p.o.Heard(node, s.network, s.tasks)
	}
	p.pass(node, sender, s.network, m, now)
	return nil
}

// mayHear returns the pair of the node whose statement it is; nil: it is of no
// interest. p.mu is held.
func (p *Peers) mayHear(l *link, node string, s *statement, now time.Time) (*pair, error) {
	sender := l.pair.view.ID
	pr, on := p.pairs[node], p.speech.shared[s.network]
	had, again := number{}, false
	if pr != nil {
		had, again = pr.heard[s.network]
	}
	switch {
	case l.over:
		return nil, errReplaced
	case l.x.heard == nil:
		return nil, errors.New("a statement before the announcement")
	case pr == nil || !on[node] || !on[sender]:
		p.counts.Foreign++
		return nil, nil // managers may have told it first: it is asked again once they told us (Share)
	case node == sender && again && s.boot != had.boot:
		// It was started anew, whatever its clock says: nobody else speaks here.
	case again && s.number == had:
		p.counts.Repeated++
		return nil, nil
	case again && !s.after(had):
		p.counts.Replayed++
		return nil, nil
	case node == sender:
	case now.Sub(s.made).Abs() > relayWithin:
		p.counts.Stale++
		return nil, nil
	case again && s.boot != had.boot && pr.link.open() && pr.link.boot == had.boot:
		p.counts.Replayed++ // of a process that it is not, as it tells us itself
		return nil, nil
	}
	return pr, nil
}

// pass tells a statement to whom its sender asks us to. p.mu is held.
func (p *Peers) pass(node, sender, network string, m *peerpb.Said, now time.Time) {
	on := p.speech.shared[network]
	if p.o.lazy {
		return
	}
	for _, id := range m.GetPass() {
		to := p.pairs[id]
		if to == nil || !on[id] || id == node || id == sender || !to.link.open() || !to.link.words.take(now) {
			continue
		}
		p.counts.Passed++
		p.utter(to.link, &peerpb.Frame{Message: &peerpb.Frame_Said{Said: &peerpb.Said{Node: node,
			Statement: m.GetStatement(), Signature: m.GetSignature(), Chain: m.GetChain()}}})
	}
}

// got takes what the peer has of our statements. p.mu is held.
func (p *Peers) got(l *link, m *peerpb.Got, now time.Time) error {
	network := m.GetNetwork()
	if !ident.Valid(network) {
		return errors.New("it has heard of no network")
	}
	w := p.speech.words[network]
	switch {
	case w == nil || !p.speech.shared[network][l.pair.view.ID]:
	case m.GetSequence() == 0:
		delete(l.pair.told, network)
		p.owe(l, network, nil)
		p.talk(l, now)
	case m.GetBoot() == p.speech.boot && m.GetSequence() <= w.sequence:
		l.pair.told[network] = max(l.pair.told[network], m.GetSequence())
	}
	return nil
}

// unhear forgets what a peer said of a network. p.mu is held.
func (p *Peers) unhear(pr *pair, network string) {
	if _, ok := pr.heard[network]; !ok {
		return
	}
	delete(pr.heard, network)
	if p.o.Heard != nil {
		p.o.Heard(pr.view.ID, network, nil)
	}
}
