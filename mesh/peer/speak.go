package peer

import (
	"crypto/x509"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// speech is what this node says of its own endpoints to the peers of each network
// (Share, Tell), and to whom it did.
//
// A change is a new statement, signed once. Up to direct peers hear it from this
// node. Where a network has more, some of them are told and pass it on to the others,
// each to its share; who has not confirmed it a moment later is told by this node
// after all, so that a relay that fails or lies costs no more than that moment. A peer
// whose connection is down is left to two relays. A new connection begins with all
// there is to say.
type speech struct {
	boot     uint64
	sequence uint64
	shared   map[string]map[string]bool // network → its nodes, other than this one
	words    map[string]*words          // by network
	pending  map[string]bool            // networks of which something is due
}

// words are what is said of one network.
type words struct {
	tasks    map[string]bool
	sequence uint64 // of the last statement; 0: nothing was said
	made     time.Time
	said     *peerpb.Said      // signed; nil: when it is first sent
	leaf     *x509.Certificate // with which
	due      time.Time         // of the next statement; zero: nothing has changed
	sweep    time.Time         // who did not confirm is told then; zero: nobody is waited for
}

// Share says which nodes are on a network that this node is on; none: it is on that
// network no more. Statements of these, and to these alone, are of interest.
func (p *Peers) Share(network string, nodes []string) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	old, next := p.speech.shared[network], make(map[string]bool, len(nodes))
	for _, id := range nodes {
		if id != p.o.ID {
			next[id] = true
		}
	}
	for id := range old {
		if pr := p.pairs[id]; !next[id] && pr != nil {
			delete(pr.told, network)
			p.unhear(pr, network)
		}
	}
	if len(nodes) == 0 {
		delete(p.speech.shared, network)
		delete(p.speech.words, network)
		delete(p.speech.pending, network)
		return
	}
	p.speech.shared[network] = next
	for id := range next {
		pr := p.pairs[id]
		if old[id] || pr == nil || !pr.link.open() {
			continue
		}
		p.owe(pr.link, network, nil)
		if _, has := pr.heard[network]; !has { // it may have spoken before we listened
			pr.link.ask(network)
		}
		p.talk(pr.link, now)
	}
	poke(p.kick)
}

// Tell says of this node's own tasks on a network whether names and virtual
// addresses may lead to them: all of them that there is something to say of. That may
// be none, and takes back what an earlier process said. It is heard by peers as long
// as this node is on the network (Share).
func (p *Peers) Tell(network string, tasks map[string]bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.speech.words[network]
	if w == nil {
		w = &words{}
		p.speech.words[network] = w
	}
	tasks = bounded(tasks)
	if w.tasks != nil && maps.Equal(w.tasks, tasks) {
		return
	}
	w.tasks = tasks
	if w.due.IsZero() {
		w.due = now
		if again := w.made.Add(sayAgain); again.After(now) {
			w.due = again
		}
	}
	p.speech.pending[network] = true
	if !w.due.After(now) {
		p.state(network, w, now)
	}
	poke(p.kick)
}

// bounded leaves out what a statement has no room for: managers tell it all the
// same. What is withdrawn comes first.
func bounded(tasks map[string]bool) map[string]bool {
	out := make(map[string]bool, min(len(tasks), maxSaid))
	if len(tasks) <= maxSaid {
		maps.Copy(out, tasks)
		return out
	}
	for _, serving := range []bool{false, true} {
		for _, id := range slices.Sorted(maps.Keys(tasks)) {
			if tasks[id] == serving && len(out) < maxSaid {
				out[id] = serving
			}
		}
	}
	return out
}

// discourse does what is due of it and returns when something will be. p.mu is held.
func (p *Peers) discourse(now time.Time) (next time.Time) {
	for network := range p.speech.pending {
		w := p.speech.words[network]
		if !w.due.IsZero() && !now.Before(w.due) {
			p.state(network, w, now)
		}
		if !w.sweep.IsZero() && !now.Before(w.sweep) {
			w.sweep = time.Time{}
			for id := range p.speech.shared[network] {
				if pr := p.pairs[id]; pr != nil && pr.link.open() && pr.told[network] < w.sequence {
					p.counts.Swept++
					p.owe(pr.link, network, nil)
					p.talk(pr.link, now)
				}
			}
		}
		if w.due.IsZero() && w.sweep.IsZero() {
			delete(p.speech.pending, network)
			continue
		}
		next = earlier(earlier(next, w.due), w.sweep)
	}
	return next
}

// state makes a new statement and begins to spread it. p.mu is held.
func (p *Peers) state(network string, w *words, now time.Time) {
	p.speech.sequence++
	w.sequence, w.made, w.said, w.due, w.sweep = p.speech.sequence, now, nil, time.Time{}, time.Time{}
	var near, far []string // those with a connection, and without
	for id := range p.speech.shared[network] {
		switch pr := p.pairs[id]; {
		case pr == nil:
		case pr.link.open():
			near = append(near, id)
		default:
			far = append(far, id)
		}
	}
	shuffle(near)
	pass := map[string][]string{}
	if len(near) > p.o.direct {
		heads := max(p.o.relays, (len(near)+maxPass/2)/(maxPass/2+1))
		for i, id := range near[heads:] {
			head := near[i%heads]
			pass[head] = append(pass[head], id)
		}
		near = near[:heads]
		w.sweep = now.Add(confirmWithin)
	}
	shuffle(far)
	for i := range 2 * len(far) { // each by two of them
		if len(near) == 0 {
			break
		}
		if head := near[(i+i/len(near))%len(near)]; len(pass[head]) < maxPass && !slices.Contains(pass[head], far[i/2]) {
			pass[head] = append(pass[head], far[i/2])
		}
	}
	for _, id := range near {
		p.owe(p.pairs[id].link, network, pass[id])
		p.talk(p.pairs[id].link, now)
	}
}

func shuffle(ids []string) {
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
}

// open reports whether the peer lets us in and goes on to listen; nil does not.
func (l *link) open() bool { return l != nil && !l.over && !l.resting && l.x.heard != nil }

// owe notes that the peer is to be told what there is of a network. p.mu is held.
func (p *Peers) owe(l *link, network string, pass []string) {
	if w := p.speech.words[network]; w == nil || w.sequence == 0 || l.pair.told[network] >= w.sequence && len(pass) == 0 {
		return
	}
	if l.owed == nil {
		l.owed = map[string][]string{}
	}
	l.owed[network] = pass
}

// ask has the peer say what there is of a network.
func (l *link) ask(network string) {
	if l.asks == nil {
		l.asks = map[string]bool{}
	}
	l.asks[network] = true
}

// greet begins a connection with all there is to say. p.mu is held.
func (p *Peers) greet(l *link, now time.Time) {
	id := l.pair.view.ID
	l.pair.told = map[string]uint64{}
	for network := range p.speech.words {
		if p.speech.shared[network][id] {
			p.owe(l, network, nil)
		}
	}
	p.talk(l, now)
}

// talk says what is owed, at the pace at which a peer is sure to listen, and returns
// when it will go on; zero: there is no more. p.mu is held.
func (p *Peers) talk(l *link, now time.Time) (next time.Time) {
	for network, pass := range l.owed {
		if !l.words.take(now) {
			return l.words.next()
		}
		delete(l.owed, network)
		w := p.speech.words[network]
		if w == nil || !p.speech.shared[network][l.pair.view.ID] {
			continue
		}
		said, err := p.sign(network, w)
		if err != nil {
			p.refusals.Warn(network, "what this node says of its endpoints cannot be signed", "network", network, "err", err)
			l.owed[network] = pass
			return now.Add(signAgain)
		}
		l.pair.told[network] = w.sequence
		p.counts.Told++
		p.utter(l, &peerpb.Frame{Message: &peerpb.Frame_Said{Said: &peerpb.Said{Statement: said.Statement, Signature: said.Signature, Chain: said.Chain, Pass: pass}}})
	}
	for network := range l.asks {
		if !l.words.take(now) {
			return l.words.next()
		}
		delete(l.asks, network)
		p.utter(l, &peerpb.Frame{Message: &peerpb.Frame_Got{Got: &peerpb.Got{Network: network}}})
	}
	return next
}

// sign gives the statement, signed with the leaf that the node has now.
func (p *Peers) sign(network string, w *words) (*peerpb.Said, error) {
	if w.said != nil && w.leaf.Equal(p.o.TLS.Leaf()) {
		return w.said, nil
	}
	leaf := p.o.TLS.Leaf()
	b, err := (&statement{network, number{p.speech.boot, w.sequence}, w.made, w.tasks}).encode()
	if err != nil {
		return nil, err
	}
	chain, signature, err := p.o.TLS.Say(signedOf(p.o.ID, b))
	if err != nil {
		return nil, err
	}
	w.said, w.leaf = &peerpb.Said{Statement: b, Signature: signature, Chain: chain}, leaf
	return w.said, nil
}

// utter is say for what nothing depends on but itself. p.mu is held.
func (p *Peers) utter(l *link, f *peerpb.Frame) {
	if err := p.say(l, []*peerpb.Frame{f}); err != nil {
		p.drop(l, err, time.Now())
		l.cut()
	}
}

// A budget is how much may be said: some at once, and then one each time.
type budget struct {
	left   int
	filled time.Time
	most   int
	every  time.Duration
}

func (b *budget) take(now time.Time) bool {
	if n := int(now.Sub(b.filled) / b.every); n > 0 {
		b.left, b.filled = min(b.left+n, b.most), b.filled.Add(time.Duration(n)*b.every)
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

// next is when there will be something to take again.
func (b *budget) next() time.Time { return b.filled.Add(b.every) }
