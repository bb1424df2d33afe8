package keyd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/awnumar/memguard"
	"google.golang.org/protobuf/proto"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/backup"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// sealBackup makes the head of a backup. That there shall be one is redoubtd's
// word: what it gets is nothing that a slot's seed is not needed for.
func (s *Server) sealBackup(req *keydpb.SealBackupRequest) (*keydpb.SealBackupResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	if req.GetIndex() == 0 || len(req.GetVersion()) > maxVersion {
		return nil, invalid("a backup needs the index of its state, and a version of %d bytes at most", maxVersion)
	}
	now := time.Now()
	if err := s.managers.check(managerRate, now); err != nil {
		return nil, err
	}
	st := s.file.state
	facts := &keydpb.BackupFacts{ClusterId: opened.keyset.clusterID, Incarnation: opened.incarnation, CreatedAt: now.Unix(),
		Slots: st.GetSlots(), Index: req.GetIndex(), NodeId: st.GetNodeId(), Version: req.GetVersion()}
	if err := s.note(entry{Event: "backup", Detail: fmt.Sprintf("index %d, %s", req.GetIndex(), slotDetail(st.GetSlots()))}); err != nil {
		return nil, err
	}
	head, stateKey, err := backup.Seal(facts, opened.keyset.buf.Bytes())
	if err != nil {
		return nil, err
	}
	return &keydpb.SealBackupResponse{Head: head, StateKey: stateKey}, nil
}

// restoring is an opened backup that waits for FinishRestore.
type restoring struct {
	head     []byte
	facts    *keydpb.BackupFacts
	keyset   *keyset
	stateKey *memguard.LockedBuffer
}

func (r *restoring) destroy() {
	if r != nil {
		r.keyset.destroy()
		r.stateKey.Destroy()
	}
}

// openBackup opens a backup's head with a slot's seed. It answers root alone.
func (s *Server) openBackup(req *keydpb.OpenBackupRequest) (*keydpb.OpenBackupResponse, error) {
	now := time.Now()
	switch {
	case s.closed:
		return nil, errLocked
	case s.broken != nil:
		return nil, s.broken
	case req.GetRestore() && s.file != nil:
		return nil, errAlready
	}
	if err := s.wrong.check(now); err != nil {
		return nil, err
	}
	head, err := backup.Parse(req.GetHead())
	if err != nil {
		return nil, invalid("%v", err)
	}
	kind, seed, err := credential(req.GetSeed(), req.GetShares(), head.Facts.GetClusterId(), head.Facts.GetSlots())
	defer clear(seed)
	if err != nil {
		return nil, err
	}
	plain, stateKey, err := head.Open(kind, seed)
	defer clear(stateKey)
	switch {
	case errors.Is(err, autolock.ErrWrongSeed):
		s.wrong.fail(now)
		return nil, refuse(keydpb.Code_CODE_WRONG_KEY, "wrong key: no slot of the backup opens with it; it needs an operator key or shares of the day it was made")
	case err != nil:
		return nil, invalid("%v", err)
	case len(plain) == 0:
		return nil, invalid("%v", backup.ErrDamaged)
	}
	k, err := openKeyset(memguard.NewBufferFromBytes(plain)) // wipes plain
	if err != nil {
		return nil, invalid("the backup's keyset cannot be used: %v", err)
	}
	if k.clusterID != head.Facts.GetClusterId() {
		k.destroy()
		return nil, invalid("the backup's keyset is of another cluster")
	}
	s.wrong.reset()
	if !req.GetRestore() {
		k.destroy()
		return &keydpb.OpenBackupResponse{StateKey: bytes.Clone(stateKey)}, nil
	}
	s.restoring.destroy()
	s.restoring = &restoring{head: bytes.Clone(req.GetHead()), facts: head.Facts, keyset: k, stateKey: memguard.NewBufferFromBytes(stateKey)}
	s.log.Info("a backup was opened to be restored", "cluster", k.clusterID, "incarnation", head.Facts.GetIncarnation())
	return &keydpb.OpenBackupResponse{}, nil
}

// finishRestore makes this keyd a manager's of the next incarnation of the
// cluster. Every key of a manager's own is new.
func (s *Server) finishRestore(ctx context.Context, req *keydpb.FinishRestoreRequest, made map[string]madeSeed) (*keydpb.FinishRestoreResponse, error) {
	r := s.restoring
	switch {
	case s.file != nil:
		return nil, errAlready
	case r == nil:
		return nil, denied("no backup was opened with a key: run `redoubt backup restore`")
	case !bytes.Equal(r.head, req.GetHead()):
		return nil, denied("another backup was opened with a key than is to be restored: run `redoubt backup restore` again")
	case !ident.Valid(req.GetNodeId()):
		return nil, invalid("malformed node id")
	}
	reqs, err := s.firstRequests(req.GetManagerCsr(), req.GetBootCsr())
	if err != nil {
		return nil, err
	}
	leaf, boot, err := s.issueAll(ctx, r.keyset, reqs, req.GetNodeId(), time.Now())
	if err != nil {
		return nil, err
	}
	opened := &secrets{keyset: r.keyset, incarnation: r.facts.GetIncarnation() + 1}
	if opened.local, err = newLocal(s.prepared, r.facts.GetSlots().GetEpoch()); err != nil {
		return nil, err
	}
	if err := s.found(opened, req.GetNodeId(), proto.CloneOf(r.facts.GetSlots()), made, "restore"); err != nil {
		opened.local.destroy()
		return nil, err
	}
	resp := &keydpb.FinishRestoreResponse{ClusterId: r.keyset.clusterID, Manager: leaf, Boot: boot,
		Incarnation: opened.incarnation, StateKey: bytes.Clone(r.stateKey.Bytes())}
	r.stateKey.Destroy() // the keyset is in use now
	s.restoring = nil
	return resp, nil
}

// credential is the seed that was given, or that shares make, and the kind of slot
// it opens. The caller wipes it.
func credential(seed []byte, raw [][]byte, clusterID string, set *keydpb.SlotSet) (keydpb.SlotKind, []byte, error) {
	const operator, shamir = keydpb.SlotKind_SLOT_KIND_OPERATOR, keydpb.SlotKind_SLOT_KIND_SHAMIR
	switch {
	case len(raw) == 0 && len(seed) == autolock.KeyLen:
		return operator, bytes.Clone(seed), nil
	case len(raw) == 0:
		return operator, nil, invalid("the seed is %d bytes, not %d", len(seed), autolock.KeyLen)
	case len(seed) > 0 || len(raw) > autolock.MaxShares:
		return operator, nil, invalid("a seed or at most %d shares open a slot", autolock.MaxShares)
	}
	var slot *keydpb.Slot
	shares := make([]autolock.Share, len(raw))
	defer func() {
		for i := range shares {
			shares[i].Wipe()
		}
	}()
	for i := range raw {
		var err error
		if shares[i], err = autolock.ReadShare(raw[i]); err != nil {
			return shamir, nil, invalid("%v", err)
		}
		of, err := findShare(&shares[i], clusterID, set)
		switch {
		case err != nil:
			return shamir, nil, err
		case of == nil:
			return shamir, nil, refuse(keydpb.Code_CODE_WRONG_KEY, "share %d is of no slot that there is, or was on the day of the backup", shares[i].Number())
		case slot != nil && of != slot:
			return shamir, nil, refuse(keydpb.Code_CODE_WRONG_KEY, "the shares are of two slots")
		}
		slot = of
	}
	made, err := autolock.Join(clusterID, slot, shares)
	if err != nil {
		return shamir, nil, refuse(keydpb.Code_CODE_WRONG_KEY, "%v", err)
	}
	return shamir, made, nil
}

// authorizeRecovery lets the incarnation be raised once, within recoveryTime. It
// answers root alone, and for the key alone: to be unlocked is not enough.
func (s *Server) authorizeRecovery(req *keydpb.AuthorizeRecoveryRequest) error {
	if err := s.hasState(); err != nil {
		return err
	}
	if s.secrets == nil && len(req.GetShares()) == 0 {
		if _, err := s.unlock(req.GetSeed()); err != nil {
			return err
		}
	} else {
		kind, seed, err := credential(req.GetSeed(), req.GetShares(), s.file.state.GetClusterId(), s.file.state.GetSlots())
		defer clear(seed)
		if err != nil {
			return err
		}
		if s.secrets == nil {
			_, err = s.openWith(kind, seed, "by shares")
		} else {
			_, err = s.checkSeed(kind, seed, "authorize-recovery")
		}
		if err != nil {
			return err
		}
	}
	if err := s.note(entry{Event: "authorize-recovery"}); err != nil {
		return err
	}
	s.recovery = time.Now().Add(recoveryTime)
	return nil
}

// checkSeed says which slot of this manager a seed opens. event is for the journal.
func (s *Server) checkSeed(kind keydpb.SlotKind, seed []byte, event string) (string, error) {
	now := time.Now()
	if s.broken != nil {
		return "", s.broken
	}
	if len(seed) != autolock.KeyLen {
		return "", invalid("the seed is %d bytes, not %d", len(seed), autolock.KeyLen)
	}
	if err := s.wrong.check(now); err != nil {
		return "", err
	}
	kek, slotID, err := s.file.openKEK(kind, seed)
	if err != nil {
		if codeOf(err) == keydpb.Code_CODE_WRONG_KEY {
			s.wrong.fail(now)
			if s.secrets == nil { // without the key a line of this kind cannot be written
				event = eventUnlock
			}
			return "", errors.Join(err, s.note(entry{Event: event, Outcome: outcomeWrongKey}))
		}
		return "", err
	}
	kek.Destroy()
	s.wrong.reset()
	return slotID, nil
}

// raiseIncarnation begins the next incarnation of the cluster.
func (s *Server) raiseIncarnation(req *keydpb.RaiseIncarnationRequest) (*keydpb.RaiseIncarnationResponse, error) {
	opened, err := s.opened()
	if err != nil {
		return nil, err
	}
	now, to := opened.incarnation, req.GetIncarnation()
	switch {
	case to == now:
		return &keydpb.RaiseIncarnationResponse{}, nil
	case to != now+1:
		return nil, denied("incarnation %d does not follow %d", to, now)
	case time.Now().After(s.recovery):
		return nil, denied("a recovery needs an operator key or shares: run `redoubt recover`")
	}
	if err := s.note(entry{Event: "raise-incarnation", Outcome: "begun", Detail: fmt.Sprintf("to %d", to)}); err != nil {
		return nil, err
	}
	opened.incarnation = to
	if err := s.save(opened, s.file.state.GetNodeId(), s.file.state.GetSlots(), nil); err != nil {
		opened.incarnation = now
		return nil, err
	}
	s.recovery = time.Time{}
	s.log.Warn("a new incarnation of the cluster begins", "incarnation", to)
	return &keydpb.RaiseIncarnationResponse{}, nil
}
