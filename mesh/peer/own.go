package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// own is this node's own WireGuard. netd has the private keys.
//
// A change of the key, on schedule or when asked: netd makes the next one
// (FabricRotate) and this node announces it; each pair makes a pre-shared key for it, and
// the peers' netd takes it beside the one in force; when all have said that they are
// ready, a whole declaration puts it in force. A pair of which both nodes have a
// next key lets the higher id go first (couples).
//
// A change that a peer does not confirm is given up and tried again later, so that
// who cuts connections does not end tunnels by it. Where somebody asked for the
// change, or the key is twice as old as it should be, that peer is left out
// instead, which netd allows once its session is over.
type own struct {
	current, next key // next is zero but while it is being changed
	port          uint16
	turning       time.Time // the change began
	tried         time.Time // the last attempt to put it in force
	due           time.Time // of the next change; zero: none is scheduled
	wanted        bool      // it is to begin now
	asked         bool      // the change under way was asked for
	since         time.Time // current is in force, as far as is known
	err           error     // of the last change
}

func (o *own) known() bool { return o.current != (key{}) && o.port != 0 }
func (o *own) keys() keys  { return keys{o.current, o.next} }

// RotateKey changes this node's WireGuard key now: it returns once that has begun
// or cannot, and is done when Status names another key.
func (p *Peers) RotateKey() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.own.known() || !p.mesh.IsValid():
		return errors.New("this node has no WireGuard key in use: it shares no network with others, or netd is not answering")
	case p.own.next != (key{}):
		return errors.New("this node's WireGuard key is being changed already")
	}
	p.own.wanted = true
	poke(p.settle)
	return nil
}

// schedule sets when the key changes next. p.mu is held.
func (p *Peers) schedule(now time.Time) {
	p.own.due, p.own.since = time.Time{}, now
	if d := p.o.RotateEvery; d > 0 {
		p.own.due = now.Add(time.Duration((0.9 + 0.2*rand.Float64()) * float64(d)))
	}
}

// beginTurn makes the next key where it is time.
func (p *Peers) beginTurn(ctx context.Context, now time.Time) error {
	p.mu.Lock()
	begin := p.own.known() && p.mesh.IsValid() && p.own.next == (key{}) && (p.own.wanted || !p.own.due.IsZero() && !now.Before(p.own.due))
	p.mu.Unlock()
	if !begin {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, netdTimeout)
	defer cancel()
	r, err := p.o.Netd.Rotate(ctx)
	if err != nil {
		return fmt.Errorf("make the next WireGuard key: %w", err)
	}
	if len(r.GetPublicKey()) != len(key{}) || len(r.GetNextPublicKey()) != len(key{}) {
		return errors.New("netd answered FabricRotate with something else")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if key(r.GetPublicKey()) != p.own.current {
		return nil // netd was restarted: that is noticed next, and is a change as well
	}
	p.own.next, p.own.turning, p.own.tried = key(r.GetNextPublicKey()), now, time.Time{}
	p.own.asked, p.own.wanted = p.own.wanted, false
	poke(p.kick)
	return nil
}

// mayTurn reports whether the next key can be put in force, or gives the change
// up. p.mu is held.
func (p *Peers) mayTurn(now time.Time) bool {
	if p.own.next == (key{}) {
		return false
	}
	behind := ""
	for id, pr := range p.pairs {
		if pr.entry == nil {
			continue
		}
		if _, ok := p.ready(pr); !ok {
			behind = id
			break
		}
	}
	age := now.Sub(p.own.turning)
	switch {
	case behind == "":
		return true
	case age >= rotateTimeout:
		p.own.err = fmt.Errorf("the WireGuard key was not changed: node %s did not confirm the next one", behind)
		p.log.Warn("the WireGuard key was not changed", "node", behind, "again_in", rotateAgain)
		p.own.next, p.own.due = key{}, now.Add(rotateAgain)
		p.own.wanted = false
		poke(p.kick)
		return false
	}
	alone := p.own.asked || now.Sub(p.own.since) > 2*p.o.RotateEvery
	return alone && age >= rotateAlone && now.Sub(p.own.tried) >= rotateAlone
}

// ready is what netd is to have of a peer once the next key is in force; false: the
// peer's netd would not know that key. p.mu is held.
func (p *Peers) ready(pr *pair) (entry, bool) {
	e, ok := p.entryFor(pr, p.own.next)
	return e, ok && pr.ready == pr.inForce.epoch
}

// turned notes that the next key is in force.
func (p *Peers) turned(now time.Time) {
	p.own.current, p.own.next, p.own.err = p.own.next, key{}, nil
	p.schedule(now)
	p.log.Info("the WireGuard key was changed")
	poke(p.kick)
}
