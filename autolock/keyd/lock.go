package keyd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/atomicfile"
)

// unlock opens the state with a slot's seed. Whatever fails changes nothing.
func (s *Server) unlock(seed []byte) (*keydpb.UnlockResponse, error) {
	now := time.Now()
	if err := s.hasState(); err != nil {
		return nil, err
	}
	switch {
	case s.secrets != nil:
		return nil, refuse(keydpb.Code_CODE_NOT_LOCKED, "this manager is not locked")
	case len(seed) != autolock.KeyLen:
		return nil, invalid("the seed is %d bytes, not %d", len(seed), autolock.KeyLen)
	}
	if err := s.wrong.check(now); err != nil {
		return nil, err
	}
	resp, err := s.openWith(keydpb.SlotKind_SLOT_KIND_OPERATOR, seed, "")
	if codeOf(err) == keydpb.Code_CODE_WRONG_KEY {
		s.wrong.fail(now)
		s.log.Warn("unlock with a wrong key", "failures", s.wrong.fails)
		if nerr := s.note(entry{Event: eventUnlock, Outcome: outcomeWrongKey}); nerr != nil {
			return nil, nerr
		}
	}
	return resp, err
}

// openWith opens the state with the seed of a slot of that kind; the caller holds
// mu. how is for the journal.
func (s *Server) openWith(kind keydpb.SlotKind, seed []byte, how string) (*keydpb.UnlockResponse, error) {
	opened, slotID, err := s.file.open(kind, seed)
	if err != nil {
		return nil, err
	}
	if err := s.journal.unlock(opened.local.journal); err != nil {
		// The manager must come up all the same; the loss is told everywhere.
		s.log.Error("the journal does not verify", "err", err)
		if err := s.reportDamage(); err != nil {
			s.journal.key = nil
			opened.destroy()
			return nil, err
		}
	}
	if err := s.note(entry{Event: eventUnlock, Detail: strings.TrimSpace("slot " + slotID + " " + how)}); err != nil {
		s.journal.key = nil
		opened.destroy()
		return nil, err
	}
	s.wrong.reset()
	s.shares.drop()
	s.session.destroy()
	s.secrets, s.session = opened, nil
	s.rearm()
	s.notify()
	s.log.Info("unlocked", "slot", slotID)
	return &keydpb.UnlockResponse{SlotId: slotID}, nil
}

// waitUnlocked returns when keyd is unlocked. It takes mu by itself.
func (s *Server) waitUnlocked(ctx context.Context) error {
	for {
		s.mu.Lock()
		phase, changed, broken := s.phase(), s.changed, s.broken
		s.mu.Unlock()
		switch {
		case broken != nil:
			return broken
		case phase == keydpb.LockState_LOCK_STATE_UNLOCKED:
			return nil
		case phase == keydpb.LockState_LOCK_STATE_EMPTY:
			return errEmpty
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) openStore(req *keydpb.OpenStoreRequest) (*keydpb.OpenStoreResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	resp := &keydpb.OpenStoreResponse{DekEpoch: opened.local.dekEpoch, ClusterId: opened.keyset.clusterID, NodeId: s.file.state.GetNodeId(),
		Incarnation: opened.incarnation}
	if sealed := req.GetSealedLeaf(); len(sealed) > maxSealedLeaf {
		return nil, invalid("the sealed leaf is larger than %d bytes", maxSealedLeaf)
	} else if len(sealed) > 0 {
		if resp.LeafKey, err = opened.openLeaf(s.file.state.GetNodeId(), sealed); err != nil {
			return nil, refuse(keydpb.Code_CODE_DAMAGED, "this manager's sealed certificate key does not open: it is damaged, or it and keyd's directory are of two managers; restore both from one copy, or run `redoubt leave --force` and join again")
		}
	}
	resp.Dek = bytes.Clone(opened.local.dek)
	resp.FormerDek, resp.DekState = bytes.Clone(opened.local.formerDEK), opened.local.state()
	if err := s.note(entry{Event: "open-store"}); err != nil {
		wipeResponse(&keydpb.Response{Result: &keydpb.Response_OpenStore{OpenStore: resp}})
		return nil, err
	}
	return resp, nil
}

// sealLeaf seals a P-256 key and nothing else, so that keyd is no oracle for
// sealing what redoubtd likes.
func (s *Server) sealLeaf(req *keydpb.SealLeafRequest) (*keydpb.SealLeafResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	if len(req.GetLeafKey()) > maxSealedLeaf-autolock.Overhead {
		return nil, invalid("the leaf key is too large")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(req.GetLeafKey())
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, invalid("the leaf key is not a P-256 key in PKCS #8")
	}
	wipeECDSA(key)
	sealed, err := opened.sealLeaf(s.file.state.GetNodeId(), req.GetLeafKey())
	return &keydpb.SealLeafResponse{SealedLeaf: sealed}, err
}

// reseal replaces the slots. Asking twice for the same set is no error.
func (s *Server) reseal(req *keydpb.ResealRequest, made map[string]madeSeed) (*keydpb.ResealResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	set, now := req.GetSlots(), s.file.state.GetSlots()
	if err := autolock.CheckSlotSet(set); err != nil {
		return nil, invalid("%v", err)
	}
	switch {
	case proto.Equal(set, now):
		return &keydpb.ResealResponse{Epoch: now.GetEpoch()}, nil
	case set.GetEpoch() > math.MaxUint32:
		return nil, invalid("the slot epoch is too large")
	case set.GetEpoch() <= now.GetEpoch():
		return nil, refuse(keydpb.Code_CODE_STALE_EPOCH, "slot epoch %d is not newer than epoch %d in use", set.GetEpoch(), now.GetEpoch())
	}
	if err := s.reseals.check(resealRate, time.Now()); err != nil {
		return nil, err
	}
	if err := s.note(entry{Event: "reseal", Outcome: "begun", Detail: slotDetail(set)}); err != nil {
		return nil, err
	}
	if err := s.save(opened, s.file.state.GetNodeId(), set, made); err != nil {
		return nil, err
	}
	s.log.Info("resealed", "epoch", set.GetEpoch(), "slots", len(set.GetSlots()))
	return &keydpb.ResealResponse{Epoch: set.GetEpoch()}, nil
}

// save seals everything to set and replaces the state file; the caller holds mu. made
// is what the TPM sealed for slots that are new.
func (s *Server) save(opened *secrets, nodeID string, set *keydpb.SlotSet, made map[string]madeSeed) error {
	own, err := s.ownSeeds(opened, nodeID, set, made)
	if err != nil {
		return err
	}
	_, raw, err := opened.sealState(nodeID, set, own)
	if err != nil {
		return err
	}
	file, err := decodeState(raw)
	if err != nil {
		return err
	}
	if err := s.write(s.path(stateName), raw); err != nil {
		return err
	}
	s.file = file
	if err := s.dropOwnSeeds(); err != nil {
		// It opens nothing any more; the next start tries again.
		s.log.Error("a seed that is not needed any more could not be removed", "dir", s.cfg.Dir, "err", err)
	}
	return nil
}

// forget returns to EMPTY. The journal stays: it is evidence, and no secret.
func (s *Server) forget() error {
	if s.file != nil && s.broken == nil {
		if err := s.note(entry{Event: "forget"}); err != nil {
			return err
		}
	}
	if err := atomicfile.Remove(s.path(stateName)); err != nil {
		return err
	}
	s.file = nil
	if err := errors.Join(s.dropOwnSeeds(), s.dropCheckpoint()); err != nil {
		return err
	}
	if codeOf(s.broken) == keydpb.Code_CODE_DAMAGED {
		s.broken = nil // what was damaged is gone
	}
	s.joins, s.wrong, s.lacks = replays{}, backoff{}, nil
	err := s.wipe()
	s.notify()
	s.log.Info("all keys forgotten")
	return err
}
