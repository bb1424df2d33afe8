package keyd

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"math"
	"time"

	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
)

// state says of the data keys all but the keys.
func (l *local) state() *keydpb.DEKState {
	return &keydpb.DEKState{Epoch: l.dekEpoch, MadeAt: l.madeAt, SlotEpoch: l.slotEpoch, FormerEpoch: l.formerEpoch}
}

// rotateDEK makes the next DEK, and the next key for the manager leaf. Those in use
// become the former ones: what is sealed under them opens until dropDEK. It is
// asked for by number, so that who is asked twice makes one key.
func (s *Server) rotateDEK(req *keydpb.RotateDEKRequest) (*keydpb.RotateDEKResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	l, now := opened.local, time.Now()
	switch {
	case req.GetEpoch() == l.dekEpoch: // asked before, and not heard
	case l.dekEpoch == math.MaxUint32 || req.GetEpoch() != l.dekEpoch+1:
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "data key epoch %d does not follow %d", req.GetEpoch(), l.dekEpoch)
	case l.formerEpoch != 0:
		return nil, denied("the data key of epoch %d is kept until nothing is sealed under it: drop it first", l.formerEpoch)
	default:
		if err := s.managers.check(managerRate, now); err != nil {
			return nil, err
		}
		next := &local{dekEpoch: l.dekEpoch + 1, madeAt: now.Unix(), slotEpoch: s.file.state.GetSlots().GetEpoch(), formerEpoch: l.dekEpoch,
			keydSeed: l.keydSeed, journal: l.journal, formerLeafKey: l.leafKey, formerDEK: l.dek}
		next, err := next.lay(func(l *local) {
			rand.Read(l.leafKey)
			rand.Read(l.dek)
		})
		if err == nil {
			err = s.replaceLocal("rotate-dek", fmt.Sprintf("epoch %d", req.GetEpoch()), next)
		}
		if err != nil {
			return nil, err
		}
	}
	l = s.secrets.local
	return &keydpb.RotateDEKResponse{Dek: bytes.Clone(l.dek), State: l.state()}, nil
}

// dropDEK forgets the former keys.
func (s *Server) dropDEK(req *keydpb.DropDEKRequest) (*keydpb.DropDEKResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	l := opened.local
	switch {
	case l.formerEpoch == 0 && req.GetEpoch() != 0 && req.GetEpoch() < l.dekEpoch: // asked before
	case req.GetEpoch() == 0 || req.GetEpoch() != l.formerEpoch:
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "there is no former data key of epoch %d: the one in use is of epoch %d", req.GetEpoch(), l.dekEpoch)
	default:
		next := &local{dekEpoch: l.dekEpoch, madeAt: l.madeAt, slotEpoch: l.slotEpoch, keydSeed: l.keydSeed, leafKey: l.leafKey, dek: l.dek, journal: l.journal}
		next, err := next.lay(nil)
		if err == nil {
			err = s.replaceLocal("drop-dek", fmt.Sprintf("epoch %d", req.GetEpoch()), next)
		}
		if err != nil {
			return nil, err
		}
	}
	return &keydpb.DropDEKResponse{State: s.secrets.local.state()}, nil
}

// replaceLocal takes a manager's next own secrets into use, on disk first. The
// caller holds mu.
func (s *Server) replaceLocal(event, detail string, next *local) error {
	opened := s.secrets
	changed := *opened
	changed.local = next
	err := s.note(entry{Event: event, Outcome: "begun", Detail: detail})
	if err == nil {
		err = s.save(&changed, s.file.state.GetNodeId(), s.file.state.GetSlots(), nil)
	}
	if err != nil {
		next.destroy()
		return err
	}
	s.secrets, s.journal.key = &changed, next.journal
	opened.local.destroy()
	s.log.Info("data keys changed", "verb", event, "epoch", next.dekEpoch, "former", next.formerEpoch)
	return nil
}
