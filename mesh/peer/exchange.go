package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/redoubt-cluster/redoubt/mesh/peer/peerpb"
)

// An announcement is what a node says of itself.
type announcement struct {
	keys      keys
	port      uint16 // UDP
	epoch     uint64
	inForce   tag // zero: none
	undialled bool
	mtu       int            // 0: not known
	source    netip.AddrPort // its end of the connection; zero: not known
}

// memory is what a pair keeps from one connection to the next.
type memory struct {
	epoch   uint64   // the highest there was, also of exchanges that came to nothing
	inForce *secrets // nil: none
	doubt   *secrets // the other may have these in force instead; nil: it has not
	ready   uint64   // epoch that the other has in force
	asked   bool     // new ones are wanted here
}

// An exchange is what the two ends of one connection agree on. It does no I/O:
// it is told what comes and what time it is, and returns what is to be sent. An
// error means that the other side does not keep to the protocol: the connection
// is to be closed.
//
//	both           Announce   keys, port, what is in force
//	lower → higher Propose    epoch, the keys of both as it knows them
//	higher → lower Confirm    tag: it has made the same; nothing has changed yet
//	lower → higher Commit     tag: the lower one has switched; now the other does
//	both           Ready      netd has it in force
//
// The node with the lower id proposes, whoever dialled, so two never do.
type exchange struct {
	ids    [2]string // the lower and the higher one
	lower  bool      // this node has the lower one
	export exporter
	mem    *memory

	told, heard *announcement // nil: not yet
	offered     *secrets      // proposed or confirmed here, and not in force
	// since is when the present wait for the other side began; zero: there is
	// none.
	since   time.Time
	differs bool // the other has something else in force
	asked   bool // the other wants new ones
	readied uint64
	lastAsk time.Time
}

// The two sides' keys by id; both have announced.
func (x *exchange) sides() (lower, higher keys) {
	if x.lower {
		return x.told.keys, x.heard.keys
	}
	return x.heard.keys, x.told.keys
}

// tell announces this node, again where something changed.
func (x *exchange) tell(a announcement, now time.Time) []*peerpb.Frame {
	a.epoch, a.inForce = x.mem.epoch, tag{}
	if x.mem.inForce != nil {
		a.inForce = x.mem.inForce.commit
	}
	if x.told != nil && x.told.keys != a.keys {
		x.offered.wipe()
		x.offered = nil // it was made for other keys
	}
	if x.told == nil {
		x.since = now
	}
	x.told = &a
	m := &peerpb.Announce{Keys: a.keys.message(), ListenPort: uint32(a.port), Epoch: a.epoch, Undialled: a.undialled, Mtu: uint32(a.mtu)}
	if a.source.IsValid() {
		m.Source = a.source.String()
	}
	if a.inForce != (tag{}) {
		m.InForce = a.inForce[:]
	}
	return []*peerpb.Frame{{Message: &peerpb.Frame_Announce{Announce: m}}}
}

func parseAnnounce(m *peerpb.Announce) (a announcement, err error) {
	if a.keys, err = parseKeys(m.GetKeys()); err != nil {
		return a, err
	}
	if m.GetListenPort() == 0 || m.GetListenPort() > 65535 {
		return a, fmt.Errorf("UDP port %d is out of range", m.GetListenPort())
	}
	if len(m.GetInForce()) > 0 {
		if a.inForce, err = parseTag(m.GetInForce()); err != nil {
			return a, err
		}
	}
	if m.GetMtu() != 0 && (m.GetMtu() < minMTU || m.GetMtu() > maxMTU) {
		return a, fmt.Errorf("an MTU of %d is out of range", m.GetMtu())
	}
	if m.GetSource() != "" {
		if a.source, err = netip.ParseAddrPort(m.GetSource()); err != nil || a.source.Addr().Zone() != "" || a.source.String() != m.GetSource() {
			return a, fmt.Errorf("%.60q is no address and port", m.GetSource())
		}
	}
	a.port, a.epoch, a.undialled, a.mtu = uint16(m.GetListenPort()), m.GetEpoch(), m.GetUndialled(), int(m.GetMtu())
	return a, nil
}

// announced takes what the other says of itself.
func (x *exchange) announced(a announcement) error {
	if a.epoch > x.mem.epoch+maxEpochStep {
		return fmt.Errorf("epoch %d is too far ahead of %d", a.epoch, x.mem.epoch)
	}
	x.mem.epoch = max(x.mem.epoch, a.epoch)
	if x.heard != nil && x.heard.keys != a.keys {
		x.offered.wipe()
		x.offered = nil // of keys that it has no more: both take it back
	}
	x.heard = &a
	x.differs = x.mem.inForce == nil || !same(a.inForce, x.mem.inForce.commit)
	return nil
}

// hear takes any other frame. switched says that other secrets are in force now.
func (x *exchange) hear(f *peerpb.Frame, now time.Time) (out []*peerpb.Frame, switched bool, err error) {
	if x.told == nil || x.heard == nil {
		return nil, false, errors.New("a frame before the announcement")
	}
	switch m := f.GetMessage().(type) {
	case *peerpb.Frame_Propose:
		out, err = x.proposed(m.Propose, now)
	case *peerpb.Frame_Confirm:
		return x.confirmed(m.Confirm)
	case *peerpb.Frame_Commit:
		switched, err = x.committed(m.Commit)
	case *peerpb.Frame_Ready:
		if x.mem.inForce != nil && m.Ready.GetEpoch() == x.mem.inForce.epoch {
			x.mem.ready = m.Ready.GetEpoch()
		}
	case *peerpb.Frame_Ask:
		if !x.lower {
			return nil, false, errors.New("the node with the lower id asks: it is to propose")
		}
		x.asked = true
	default:
		err = errors.New("a frame without a message")
	}
	return out, switched, err
}

func (x *exchange) proposed(m *peerpb.Propose, now time.Time) ([]*peerpb.Frame, error) {
	lower, err := parseKeys(m.GetLower())
	if err != nil {
		return nil, err
	}
	higher, err := parseKeys(m.GetHigher())
	if err != nil {
		return nil, err
	}
	switch {
	case x.lower:
		return nil, errors.New("the node with the higher id proposes")
	case lower != x.heard.keys:
		return nil, errors.New("it proposes keys that it did not announce")
	case m.GetEpoch() <= x.mem.epoch || m.GetEpoch() > x.mem.epoch+maxEpochStep:
		return nil, fmt.Errorf("epoch %d does not follow %d: an old exchange, or a wrong one", m.GetEpoch(), x.mem.epoch)
	}
	x.mem.epoch = m.GetEpoch()
	if higher != x.told.keys {
		return nil, nil // what is announced now is under way to it
	}
	x.offered.wipe()
	if x.offered, err = draw(x.export, x.ids, m.GetEpoch(), lower, higher, now); err != nil {
		return nil, err
	}
	x.since = now
	return []*peerpb.Frame{{Message: &peerpb.Frame_Confirm{Confirm: &peerpb.Confirm{Epoch: x.offered.epoch, Tag: x.offered.confirm[:]}}}}, nil
}

func (x *exchange) confirmed(m *peerpb.Confirm) ([]*peerpb.Frame, bool, error) {
	t, err := parseTag(m.GetTag())
	switch {
	case err != nil:
		return nil, false, err
	case !x.lower || m.GetEpoch() > x.mem.epoch:
		return nil, false, errors.New("it confirms what nobody proposed")
	case x.offered == nil || m.GetEpoch() != x.offered.epoch:
		return nil, false, nil // of a proposal that was taken back
	case !same(t, x.offered.confirm):
		return nil, false, errors.New("it confirms other keys than were proposed")
	}
	x.take()
	s := x.mem.inForce
	return []*peerpb.Frame{{Message: &peerpb.Frame_Commit{Commit: &peerpb.Commit{Epoch: s.epoch, Tag: s.commit[:]}}}}, true, nil
}

func (x *exchange) committed(m *peerpb.Commit) (bool, error) {
	t, err := parseTag(m.GetTag())
	switch {
	case err != nil:
		return false, err
	case x.lower || m.GetEpoch() > x.mem.epoch:
		return false, errors.New("it commits what was not proposed")
	case x.offered == nil || m.GetEpoch() != x.offered.epoch:
		return false, nil // announced anew meanwhile: it finds that this differs
	case !same(t, x.offered.commit):
		return false, errors.New("it commits other keys than were confirmed")
	}
	x.take()
	return true, nil
}

// take puts what is offered in force.
func (x *exchange) take() {
	x.mem.inForce.wipe()
	x.mem.doubt.wipe()
	x.mem.inForce, x.mem.doubt, x.offered = x.offered, nil, nil
	x.mem.asked, x.asked, x.differs = false, false, false
	x.since = time.Time{}
}

// missing reports whether the pair cannot go on with what is in force.
func (x *exchange) missing() bool {
	return x.differs || !x.mem.inForce.cover(x.sides())
}

// act does what is due: it proposes, or asks, or gives up. next is when to call it
// again at the latest.
func (x *exchange) act(now time.Time) (out []*peerpb.Frame, next time.Time, err error) {
	if !x.since.IsZero() {
		if next = x.since.Add(exchangeTimeout); !now.Before(next) {
			return nil, next, errors.New("it announces, proposes or confirms nothing")
		}
	}
	if x.told == nil || x.heard == nil || x.offered != nil {
		return nil, next, nil
	}
	missing := x.missing()
	if !missing && x.offered == nil {
		x.since = time.Time{} // the wait was for the announcement
	}
	due := x.wanted(missing)
	switch {
	case due.After(now):
		return nil, earlier(next, due), nil
	case x.lower:
		out, err = x.propose(now)
		return out, x.since.Add(exchangeTimeout), err
	case missing:
		if x.since.IsZero() {
			x.since = now
		}
		return nil, x.since.Add(exchangeTimeout), nil
	}
	if again := x.lastAsk.Add(exchangeTimeout); !x.lastAsk.IsZero() && now.Before(again) {
		return nil, earlier(next, again), nil
	}
	x.lastAsk = now
	return []*peerpb.Frame{{Message: &peerpb.Frame_Ask{Ask: &peerpb.Ask{}}}}, earlier(next, now.Add(exchangeTimeout)), nil
}

// wanted is when new secrets are due: long ago where they are missing.
func (x *exchange) wanted(missing bool) time.Time {
	if missing {
		return time.Time{}
	}
	s := x.mem.inForce
	switch {
	case x.mem.asked || x.asked:
		return s.made.Add(askAgain)
	case x.lower:
		return s.due
	}
	return s.made.Add(askAfter)
}

func (x *exchange) propose(now time.Time) ([]*peerpb.Frame, error) {
	lower, higher := x.sides()
	var err error
	x.mem.epoch++
	if x.offered, err = draw(x.export, x.ids, x.mem.epoch, lower, higher, now); err != nil {
		return nil, err
	}
	x.since = now
	return []*peerpb.Frame{{Message: &peerpb.Frame_Propose{Propose: &peerpb.Propose{
		Epoch: x.offered.epoch, Lower: lower.message(), Higher: higher.message()}}}}, nil
}

// earlier of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
