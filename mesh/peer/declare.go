package peer

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/netd/netdpb"
)

// An entry is what netd is to have of one peer.
type entry struct {
	own      key // of this node, for which it was made
	key      key
	psk      psk
	next     key // zero: none is announced
	nextPSK  psk
	endpoint netip.AddrPort
	address  netip.Addr
	mtu      int  // 0: not known
	calls    bool // it cannot call this node, whose NAT is to be kept open
	epoch    uint64
}

// declared is what is known of netd. Fields of the second part are the declarer's
// alone, which is one goroutine.
type declared struct {
	dirty   map[string]bool // nodes that may differ
	whole   bool            // everything may
	trouble error           // netd does not answer, or refuses
	state   *netdpb.FabricStateResponse

	generation uint64           // in force; 0: nothing of ours
	known      map[string]entry // what netd has; of an earlier process without keys
	failed     int
	said       map[string]bool // as Tunnels was told; nil: not yet
}

// entryFor is what netd is to have of the peer under that key of this node; false:
// there is no pre-shared key for it. p.mu is held.
func (p *Peers) entryFor(pr *pair, mine key) (entry, bool) {
	s := pr.inForce
	if !pr.shown() {
		return entry{}, false
	}
	between := func(theirs key) (psk, bool) {
		if p.lower(pr.view.ID) {
			return s.between(mine, theirs)
		}
		return s.between(theirs, mine)
	}
	secret, ok := between(pr.keys.current)
	if !ok {
		return entry{}, false
	}
	e := entry{own: mine, key: pr.keys.current, psk: secret, address: pr.view.Mesh, calls: pr.calls, mtu: pr.mtu, epoch: s.epoch}
	if a := pr.endpoint.Addr(); a.IsValid() && !p.mesh.Contains(a) && !pr.mute { // not through the tunnel itself
		e.endpoint = pr.endpoint
	}
	if pr.keys.next != (key{}) {
		if secret, ok := between(pr.keys.next); ok {
			e.next, e.nextPSK = pr.keys.next, secret
		}
	}
	return e, true
}

// refresh notes what netd is to have of the peer. Where there are no pre-shared
// keys for what both have now, that is what it has: they are being made. p.mu is
// held.
func (p *Peers) refresh(pr *pair) {
	e, ok := p.entryFor(pr, p.own.current)
	if !ok || p.lower(pr.view.ID) && !pr.hold.IsZero() || pr.entry != nil && *pr.entry == e {
		return
	}
	pr.entry = &e
	p.declared.dirty[pr.view.ID] = true
	poke(p.settle)
}

func (e entry) message(id string) *netdpb.FabricPeer {
	m := &netdpb.FabricPeer{NodeId: id, PublicKey: e.key[:], PresharedKey: e.psk[:], Address: e.address.String(), Mtu: uint32(e.mtu)}
	if e.endpoint.IsValid() {
		m.Endpoint = e.endpoint.String()
	}
	if e.calls {
		m.KeepaliveSeconds = uint32(natKeepalive / time.Second)
	}
	if e.next != (key{}) {
		m.Next = &netdpb.FabricKey{PublicKey: e.next[:], PresharedKey: e.nextPSK[:]}
	}
	return m
}

// declare keeps netd as it is to be until ctx ends.
func (p *Peers) declare(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var looked time.Time
	every := p.o.look
	for ctx.Err() == nil {
		select {
		case <-p.settle:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		var err error
		if p.declared.failed > 0 || now.Sub(looked) >= every {
			err = p.look(ctx)
			looked = time.Now()
			every = max(p.o.look, min(lookShare*looked.Sub(now), lookMost))
		}
		if err == nil {
			err = p.tell(ctx, now)
		}
		if err == nil {
			p.sayTunnels()
		}
		if err == nil {
			err = p.beginTurn(ctx, now)
		}
		p.note(ctx, err)
		next := every
		if err != nil {
			next = min(declareMin<<min(p.declared.failed, 10), declareMax)
		}
		timer.Reset(next)
	}
}

// sayTunnels says what netd has by now.
func (p *Peers) sayTunnels() {
	d := &p.declared
	if p.o.Tunnels == nil {
		return
	}
	p.mu.Lock()
	same := d.said != nil && len(d.said) == len(d.known)
	for id := range d.known {
		same = same && d.said[id]
	}
	if !same {
		d.said = make(map[string]bool, len(d.known))
		for id := range d.known {
			d.said[id] = true
		}
	}
	p.mu.Unlock()
	if !same {
		p.o.Tunnels(maps.Clone(d.said))
	}
}

// note keeps what went wrong, and says it once.
func (p *Peers) note(ctx context.Context, err error) {
	if err == nil {
		p.declared.failed = 0
	} else {
		p.declared.failed++
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && ctx.Err() == nil && (p.declared.trouble == nil || p.declared.trouble.Error() != err.Error()) {
		p.log.Warn("the mesh is not as it should be", "err", err)
	}
	p.declared.trouble = err
}

// look reads what netd has, and notices that it was started anew.
func (p *Peers) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, netdTimeout)
	defer cancel()
	s, err := p.o.Netd.State(ctx)
	if err != nil {
		return err
	}
	if len(s.GetPublicKey()) != len(key{}) || s.GetListenPort() > 65535 {
		return errors.New("netd answered FabricState with something else")
	}
	d, now := &p.declared, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.moved(d.state.GetUnderlay(), s.GetUnderlay(), now) {
		defer l.cut()
	}
	if d.state.GetMtu() != s.GetMtu() {
		poke(p.kick)
	}
	d.state = s
	ages := map[string]time.Duration{}
	for _, q := range s.GetPeers() {
		if pr := p.pairs[q.GetNodeId()]; pr != nil {
			p.counted(pr, q.GetReceivedBytes(), q.GetSentBytes(), now)
		}
		if q.HandshakeAgeMs != nil {
			ages[q.GetNodeId()] = time.Duration(q.GetHandshakeAgeMs()) * time.Millisecond
		}
	}
	p.resolve(ages, now)
	if s.GetListenPort() != 0 && p.own.port != uint16(s.GetListenPort()) {
		p.own.port = uint16(s.GetListenPort())
		poke(p.kick)
	}
	switch k := key(s.GetPublicKey()); {
	case k == p.own.current && s.GetGeneration() == d.generation:
		return nil
	case k == p.own.current: // its sessions go on, but it was told nothing
		d.generation, d.whole = 0, true
		return nil
	case p.own.current == (key{}) && s.GetGeneration() != 0 && s.GetDriver() == "": // the node left a cluster, and nothing is in force
		p.own.current = k
	case p.own.current == (key{}) && s.GetGeneration() != 0: // an earlier process of ours told it
		d.generation, d.known = s.GetGeneration(), map[string]entry{}
		for _, q := range s.GetPeers() {
			d.known[q.GetNodeId()] = entry{}
			d.dirty[q.GetNodeId()] = true
		}
		p.own.current = k
	case k == p.own.next && p.own.current != (key{}): // what was declared last came into force after all
		d.generation, d.whole = 0, true
		p.turned(now)
	default:
		if p.own.current != (key{}) {
			p.log.Info("netd has another WireGuard key: the pre-shared keys are made again")
		}
		p.own.current, p.own.next, p.own.wanted = k, key{}, false
		d.generation, d.known, d.whole = 0, map[string]entry{}, true
		for _, pr := range p.pairs {
			pr.entry = nil
		}
	}
	p.schedule(now)
	for _, pr := range p.pairs {
		p.refresh(pr)
	}
	poke(p.kick)
	return nil
}

// tell declares what differs.
func (p *Peers) tell(ctx context.Context, now time.Time) error {
	d := &p.declared
	p.mu.Lock()
	if !p.isSet || p.own.current == (key{}) || !p.mesh.IsValid() && d.generation == 0 && len(d.known) == 0 {
		p.mu.Unlock()
		return nil
	}
	turn := p.mayTurn(now)
	whole := d.whole || d.generation == 0 || turn || !p.mesh.IsValid()
	req, sent := p.request(whole, turn)
	if !whole && len(req.GetPeers())+len(req.GetRemoved()) == 0 {
		clear(d.dirty)
		p.mu.Unlock()
		return nil
	}
	dirty := d.dirty
	d.dirty, d.whole = map[string]bool{}, false
	if turn {
		p.own.tried = now
	}
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, netdTimeout)
	defer cancel()
	resp, err := p.o.Netd.Declare(ctx, req)
	for _, m := range req.GetPeers() {
		clear(m.GetPresharedKey())
		clear(m.GetNext().GetPresharedKey())
	}
	if err == nil && resp.GetListenPort() > 65535 {
		err = errors.New("netd answered Fabric with something else")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		for id := range dirty {
			d.dirty[id] = true
		}
		// What is wrong with a difference may be right with the whole. But for a
		// turn, which is tried again by itself.
		d.whole = d.whole || whole && !turn || !whole && d.failed > 0
		if turn {
			p.own.err = err
		}
		return err
	}
	p.accepted(req, sent, turn, now)
	if n := uint16(resp.GetListenPort()); n != 0 && n != p.own.port {
		p.own.port = n
	}
	return nil
}

// request is what is to be declared, and of whom what. p.mu is held.
func (p *Peers) request(whole, turn bool) (*netdpb.FabricRequest, map[string]entry) {
	d := &p.declared
	req := &netdpb.FabricRequest{Generation: p.generated.Next(), Base: d.generation}
	if whole {
		req.Base = 0
	}
	sent := map[string]entry{}
	if !p.mesh.IsValid() {
		req.Base = 0
		return req, sent
	}
	mine := p.own.current
	if turn {
		mine = p.own.next
	}
	req.OwnPublicKey, req.Address, req.ListenPort, req.UnderlayMtu = slices.Clone(mine[:]), p.mesh.String(), uint32(p.o.Port), uint32(p.o.UnderlayMTU)
	add := func(id string, pr *pair) {
		if pr.entry == nil {
			return
		}
		e := *pr.entry
		if turn {
			var ok bool
			if e, ok = p.ready(pr); !ok {
				return
			}
		}
		if had, ok := d.known[id]; e.own != mine || !whole && ok && had == e {
			return
		}
		sent[id] = e
		req.Peers = append(req.Peers, e.message(id))
	}
	if whole {
		for id, pr := range p.pairs {
			add(id, pr)
		}
		return req, sent
	}
	for id := range d.dirty {
		_, had := d.known[id]
		switch pr := p.pairs[id]; {
		case pr != nil:
			add(id, pr)
		case had:
			req.Removed = append(req.Removed, id)
		}
	}
	return req, sent
}

// accepted notes what netd has now. p.mu is held.
func (p *Peers) accepted(req *netdpb.FabricRequest, sent map[string]entry, turn bool, now time.Time) {
	d := &p.declared
	if d.generation = req.GetGeneration(); req.GetBase() == 0 {
		d.known = map[string]entry{}
	}
	for _, id := range req.GetRemoved() {
		delete(d.known, id)
	}
	if turn {
		p.turned(now)
		for _, pr := range p.pairs {
			pr.entry = nil
		}
	}
	for id, e := range sent {
		d.known[id] = e
		pr := p.pairs[id]
		if pr == nil {
			continue // it was removed meanwhile, and is dirty
		}
		if turn {
			pr.entry = &e
		}
		pr.settled = e.epoch
	}
	poke(p.kick)
	if turn {
		for _, pr := range p.pairs {
			p.refresh(pr)
		}
	}
	if !p.mesh.IsValid() {
		d.generation = 0
	}
}
