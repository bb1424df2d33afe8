package peer

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// What a proof is for, besides the exporter of its connection (docs/formats.md, Port
// 7946).
const (
	proofLabel   = "redoubt peer key v1\x00"
	proofContext = "EXPORTER-redoubt-peer-proof"
)

var (
	errUnproven  = errors.New("it does not show that the WireGuard key it announces is its own")
	errNotItsOwn = errors.New("the key is not its own")
)

// proving is how far the two ends of a connection are with showing each other that
// they have the keys they announced. A peer whose key is not shown to be its own is
// none to netd. What the tags are made of, netd alone has: it is asked for those of
// this node and for those that the peer has to show, as both can make both.
type proving struct {
	of     [2]keys       // for which it was asked: this node's, and the peer's
	asking bool          // netd is
	again  time.Time     // it failed: when it is asked again
	want   [2][]byte     // tags that the peer has to show, for its current and next key; nil: not known yet
	got    *peerpb.Prove // what it showed last
	since  time.Time     // they are known
}

// proofOf is what a tag is over: who shows which key to whom, on one connection.
func proofOf(export exporter, from, to string, shown, against key) ([]byte, error) {
	exported, err := export(proofContext, nil, 32)
	if err != nil {
		return nil, err
	}
	b := []byte(proofLabel)
	for _, part := range [][]byte{[]byte(from), []byte(to), shown[:], against[:], exported} {
		b = lp.Append(b, part)
	}
	return b, nil
}

// prove asks netd for the tags that are not known yet, and returns when it is to be
// called again. p.mu is held.
func (p *Peers) prove(l *link, now time.Time) (next time.Time, err error) {
	v := &l.proving
	if l.x.told == nil || l.x.heard == nil {
		return next, nil
	}
	if of := [2]keys{l.x.told.keys, l.x.heard.keys}; of != v.of {
		*v = proving{of: of, asking: v.asking, got: v.got}
	}
	switch {
	case !v.since.IsZero() && !l.pair.shown():
		if next = v.since.Add(exchangeTimeout); !now.Before(next) {
			return next, errUnproven
		}
		return next, nil
	case !v.since.IsZero() || v.asking:
		return next, nil
	case now.Before(v.again):
		return v.again, nil
	}
	v.asking = true
	of, peer := v.of, l.pair.view.ID
	p.wg.Go(func() {
		mine, theirs, err := p.tags(l, peer, of)
		p.mu.Lock()
		defer p.mu.Unlock()
		defer poke(p.kick)
		v.asking = false
		switch {
		case l.over || v.of != of:
		case err != nil:
			v.again = time.Now().Add(proveAgain)
			p.refusals.Warn(peer, "cannot show a peer that this node has its WireGuard key", "node", peer, "err", err)
		default:
			v.want, v.since = theirs, time.Now()
			if err := p.say(l, []*peerpb.Frame{{Message: &peerpb.Frame_Prove{Prove: &peerpb.Prove{Current: mine[0], Next: mine[1]}}}}); err != nil {
				p.drop(l, err, time.Now())
				l.cut()
				return
			}
			p.compare(l)
		}
	})
	return next, nil
}

// tags are those for this node's keys and for the peer's.
func (p *Peers) tags(l *link, peer string, of [2]keys) (mine, theirs [2][]byte, err error) {
	req := &netdpb.FabricProveRequest{}
	var to []*[]byte
	add := func(tag *[]byte, from, at string, shown, against, own key) {
		if shown == (key{}) || err != nil {
			return
		}
		other := against
		if other == own {
			other = shown
		}
		var b []byte
		if b, err = proofOf(l.x.export, from, at, shown, against); err == nil {
			req.Proofs = append(req.Proofs, &netdpb.FabricProof{OwnPublicKey: own[:], PeerPublicKey: other[:], Context: b})
			to = append(to, tag)
		}
	}
	ours, others := of[0], of[1]
	add(&mine[0], p.o.ID, peer, ours.current, others.current, ours.current)
	add(&mine[1], p.o.ID, peer, ours.next, others.current, ours.next)
	add(&theirs[0], peer, p.o.ID, others.current, ours.current, ours.current)
	add(&theirs[1], peer, p.o.ID, others.next, ours.current, ours.current)
	if err != nil {
		return mine, theirs, err
	}
	ctx, cancel := context.WithTimeout(p.ctx, netdTimeout)
	defer cancel()
	resp, err := p.o.Netd.Prove(ctx, req)
	if err != nil {
		return mine, theirs, err
	}
	if len(resp.GetTags()) != len(to) {
		return mine, theirs, errOther
	}
	for i, tag := range resp.GetTags() {
		if len(tag) != proofSize {
			return mine, theirs, errOther
		}
		*to[i] = tag
	}
	return mine, theirs, nil
}

// proved takes what the peer shows. p.mu is held.
func (p *Peers) proved(l *link, m *peerpb.Prove) error {
	if len(m.GetCurrent()) != proofSize || len(m.GetNext()) != 0 && len(m.GetNext()) != proofSize {
		return fmt.Errorf("%w: a proof is not 32 bytes long", errUnproven)
	}
	l.proving.got = m
	return p.compare(l)
}

// compare holds what the peer showed against what it had to show. A difference may be
// that one of the two has announced other keys meanwhile: it is shown again then. p.mu
// is held.
func (p *Peers) compare(l *link) error {
	v, pr := &l.proving, l.pair
	if v.got == nil || v.since.IsZero() || v.of[1] != pr.keys {
		return nil
	}
	for i, shown := range [2][]byte{v.got.GetCurrent(), v.got.GetNext()} {
		k := [2]key{pr.keys.current, pr.keys.next}[i]
		if k == (key{}) || pr.proven[k] || len(shown) == 0 || subtle.ConstantTimeCompare(shown, v.want[i]) != 1 {
			continue
		}
		if err := p.free(pr, k); err != nil {
			return err
		}
		pr.proven[k] = true
		p.claims[k] = pr.view.ID
	}
	if pr.shown() {
		p.refresh(pr)
		poke(p.kick)
	}
	return nil
}

// shown reports whether the peer has shown all the keys that it announced.
func (pr *pair) shown() bool {
	return pr.proven[pr.keys.current] && (pr.keys.next == (key{}) || pr.proven[pr.keys.next])
}
