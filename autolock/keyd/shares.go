package keyd

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/awnumar/memguard"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// pools are the shares that have come while keyd is locked, by slot. Each share was
// found to be one of its slot's by its digest alone, so that whoever gives a wrong
// one spoils nothing. keyd forgets them shareLife after the last new one came, when it
// is opened, when it ends, and when it is told to.
type pools struct {
	of map[string]*pool
	// last is the slot whose share came last.
	last   string
	expiry *time.Timer // drops them; nil while there are none
}

type pool struct {
	slot  *keydpb.Slot
	buf   *memguard.LockedBuffer // share n at (n-1)·ShareLen
	here  []uint32               // numbers, ascending
	typed []uint32               // those that were typed on this machine
	until time.Time
}

// add keeps a share and reports whether it was here already.
func (p *pools) add(slot *keydpb.Slot, share *autolock.Share, typed bool, now time.Time) (_ *pool, had bool) {
	if p.of == nil {
		p.of = map[string]*pool{}
	}
	in := p.of[slot.GetId()]
	if in == nil {
		in = &pool{slot: slot, buf: memguard.NewBuffer(len(slot.GetShares()) * autolock.ShareLen)}
		p.of[slot.GetId()] = in
	}
	n := uint32(share.Number())
	if had = slices.Contains(in.here, n); !had {
		raw := share.Bytes()
		in.buf.Melt()
		copy(in.buf.Bytes()[(n-1)*autolock.ShareLen:], raw)
		in.buf.Freeze()
		clear(raw)
		in.here = append(in.here, n)
		slices.Sort(in.here)
		if typed {
			in.typed = append(in.typed, n)
		}
		in.until, p.last = now.Add(shareLife), slot.GetId()
	}
	return in, had
}

// complete reports whether there are enough.
func (p *pool) complete() bool { return len(p.here) >= int(p.slot.GetThreshold()) }

// seed makes the slot's seed, which the caller wipes.
func (p *pool) seed(clusterID string) ([]byte, error) {
	shares := make([]autolock.Share, 0, len(p.here))
	defer func() {
		for i := range shares {
			shares[i].Wipe()
		}
	}()
	for _, n := range p.here {
		share, err := autolock.ReadShare(p.buf.Bytes()[(n-1)*autolock.ShareLen : n*autolock.ShareLen])
		if err != nil {
			return nil, err
		}
		shares = append(shares, share)
		share.Wipe()
	}
	return autolock.Join(clusterID, p.slot, shares)
}

func (p *pool) progress() *keydpb.ShareProgress {
	return &keydpb.ShareProgress{SlotId: p.slot.GetId(), SlotName: autolock.SlotName(p.slot), Threshold: p.slot.GetThreshold(),
		Of: uint32(len(p.slot.GetShares())), Numbers: slices.Clone(p.here), ForgottenAt: p.until.Unix()}
}

// latest is how far the slot is whose share came last; nil where there is none.
func (p *pools) latest(now time.Time) *keydpb.ShareProgress {
	in := p.of[p.last]
	if in == nil || now.After(in.until) {
		return nil
	}
	return in.progress()
}

// drop forgets all shares and says how many there were.
func (p *pools) drop() (dropped uint32) {
	for _, in := range p.of {
		dropped += uint32(len(in.here))
		in.buf.Destroy()
	}
	if p.expiry != nil {
		p.expiry.Stop()
	}
	*p = pools{}
	return dropped
}

// forgetLater has shares dropped when nobody adds one for shareLife; the caller
// holds mu.
func (s *Server) forgetLater() {
	if s.shares.expiry != nil {
		s.shares.expiry.Stop()
	}
	var timer *time.Timer
	timer = time.AfterFunc(shareLife, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.shares.expiry != timer { // dropped, or another share came meanwhile
			return
		}
		if n := s.shares.drop(); n > 0 {
			s.log.Warn("shares were forgotten: nobody added one in time", "shares", n, "after", shareLife)
		}
	})
	s.shares.expiry = timer
}

// takeShare adds a share to those that are here and opens the manager where they
// are enough; the caller holds mu and has looked that keyd is locked.
func (s *Server) takeShare(share *autolock.Share, typed bool) (progress *keydpb.ShareProgress, unlocked, had bool, err error) {
	slot, err := s.slotOf(share)
	if err != nil {
		return nil, false, false, err
	}
	in, had := s.shares.add(slot, share, typed, time.Now())
	progress = in.progress()
	if !had { // one that is given again keeps nobody's in memory
		s.forgetLater()
		s.log.Info("a share came", "slot", autolock.SlotName(slot), "number", share.Number(), "here", len(in.here), "needed", slot.GetThreshold())
	}
	if !in.complete() {
		return progress, false, had, nil
	}
	seed, err := in.seed(s.file.state.GetClusterId())
	defer clear(seed)
	if err != nil {
		s.shares.drop()
		return nil, false, had, refuse(keydpb.Code_CODE_DAMAGED, "%v; the shares were forgotten", err)
	}
	_, err = s.openWith(slot.GetKind(), seed, fmt.Sprintf("by shares %v, typed here %v", in.here, in.typed))
	return progress, err == nil, had, err
}

// slotOf is the slot that a share is of. Why it is of none is told as exactly as
// can be known.
func (s *Server) slotOf(share *autolock.Share) (*keydpb.Slot, error) {
	st := s.file.state
	slot, err := findShare(share, st.GetClusterId(), st.GetSlots())
	if slot == nil && err == nil {
		switch epoch := st.GetSlots().GetEpoch(); {
		case share.Since() > epoch:
			err = refuse(keydpb.Code_CODE_STALE_EPOCH, "the share is newer (slot epoch %d) than what this manager is sealed to (%d): it was away; open it once with what opened it before", share.Since(), epoch)
		default:
			err = refuse(keydpb.Code_CODE_STALE_EPOCH, "the share is of a slot of epoch %d that this manager does not have any more: use shares of a slot that `redoubt unlock-key slot ls` shows", share.Since())
		}
	}
	return slot, err
}

// findShare is the slot of a set that a share is of; nil and no error where there
// is none.
func findShare(share *autolock.Share, clusterID string, set *keydpb.SlotSet) (*keydpb.Slot, error) {
	if !share.OfCluster(clusterID) {
		return nil, refuse(keydpb.Code_CODE_WRONG_KEY, "the share is of another cluster")
	}
	for _, slot := range set.GetSlots() {
		if share.Of(clusterID, slot) {
			if err := share.Check(clusterID, slot); err != nil {
				return nil, refuse(keydpb.Code_CODE_WRONG_KEY, "%v", err)
			}
			return slot, nil
		}
	}
	return nil, nil
}

// knowsOthers reports whether keyds of a set seal to each other's sessions.
func knowsOthers(set *keydpb.SlotSet) bool {
	return slices.ContainsFunc(set.GetSlots(), func(s *keydpb.Slot) bool {
		return s.GetKind() == keydpb.SlotKind_SLOT_KIND_SHAMIR || s.GetKind() == keydpb.SlotKind_SLOT_KIND_RELEASE
	})
}

// hasState returns an error unless there are slots to look at; the caller holds mu.
func (s *Server) hasState() error {
	switch {
	case s.closed:
		return errLocked
	case s.broken != nil:
		return s.broken
	case s.file == nil:
		return errEmpty
	}
	return nil
}

// testSlot says which slot a seed opens, or a share is of. Nothing changes.
func (s *Server) testSlot(ctx context.Context, req *keydpb.TestSlotRequest) (*keydpb.TestSlotResponse, error) {
	switch {
	case len(req.GetSeed()) > 0 && len(req.GetShare()) > 0:
		return nil, invalid("a seed or a share is tested, not both")
	case req.GetSlot() != "" && len(req.GetSeed())+len(req.GetShare()) > 0:
		return nil, invalid("a slot that this machine opens needs no seed and no share")
	case req.GetSlot() != "":
		return s.testOwn(ctx, req.GetSlot())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.hasState(); err != nil {
		return nil, err
	}
	epoch := s.file.state.GetSlots().GetEpoch()
	if len(req.GetShare()) > 0 {
		share, err := autolock.ReadShare(req.GetShare())
		if err != nil {
			return nil, invalid("%v", err)
		}
		defer share.Wipe()
		slot, err := s.slotOf(&share)
		return &keydpb.TestSlotResponse{SlotId: slot.GetId(), Epoch: epoch, Number: uint32(share.Number())}, err
	}
	slotID, err := s.checkSeed(keydpb.SlotKind_SLOT_KIND_OPERATOR, req.GetSeed(), "test-slot")
	return &keydpb.TestSlotResponse{SlotId: slotID, Epoch: epoch}, err
}
