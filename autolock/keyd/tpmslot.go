package keyd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/redoubt-cluster/redoubt/autolock"
	"github.com/redoubt-cluster/redoubt/autolock/keyd/keydpb"
	"github.com/redoubt-cluster/redoubt/internal/lp"
	"github.com/redoubt-cluster/redoubt/internal/oneline"
	"github.com/redoubt-cluster/redoubt/internal/tpm"
)

// device is this machine's TPM, or why there is none.
func (s *Server) device() (*tpm.TPM, error) {
	switch {
	case s.cfg.TPM != nil:
		return s.cfg.TPM, nil
	case s.cfg.Section.TPM == "":
		return nil, refuse(keydpb.Code_CODE_NO_TPM, "no TPM is configured for this node: name it in config.yaml (keyd.tpm: /dev/tpmrm0) and restart redoubt-node")
	}
	return nil, refuse(keydpb.Code_CODE_NO_TPM, "the TPM could not be used when keyd started: %v; mend it and restart redoubt-node", s.cfg.TPMErr)
}

// tpmError is what a call of the TPM failed with, in one line and with a code.
func tpmError(err error) error {
	switch {
	case errors.Is(err, tpm.ErrDevice):
		return refuse(keydpb.Code_CODE_NO_TPM, "%v: mend it and restart redoubt-node", oneline.Text(err.Error(), maxSaid))
	case errors.Is(err, tpm.ErrPCRs):
		return refuse(keydpb.Code_CODE_NO_TPM, "%v", tpm.ErrPCRs)
	case errors.Is(err, tpm.ErrBlob), errors.Is(err, tpm.ErrAuth):
		return refuse(keydpb.Code_CODE_NO_TPM, "this machine's TPM does not open it: it was sealed by another, or that one was cleared")
	}
	return refuse(keydpb.Code_CODE_NO_TPM, "the TPM refuses: %s", oneline.Text(err.Error(), maxSaid))
}

// seedAuth is what the TPM must be told to give back the seed of a slot. keyd tells
// it nothing else for anybody, so what it opens for redoubtd is never a seed.
func seedAuth(slotID string) []byte {
	sum := sha256.Sum256(lp.Append([]byte("redoubt tpm slot v1\x00"), []byte(slotID)))
	return sum[:]
}

func registers(pcrs []uint32) (out []int) {
	for _, p := range pcrs {
		out = append(out, int(p))
	}
	return out
}

// fromTPM is what a verb needs of the TPM. It is asked for before the verb has mu: a
// TPM takes its time, and one that hangs stops nobody else.
type fromTPM struct {
	seeds map[string]madeSeed // by slot
	// attestationKey is the name of this machine's, where its own leaf is to have it.
	attestationKey []byte
	keyErr         error
}

// madeSeed is a seed that the TPM sealed, or why it did not.
type madeSeed struct {
	seed *ownSeed
	err  error
}

// askTPM asks what that request needs. The caller does not hold mu.
func (s *Server) askTPM(ctx context.Context, req *keydpb.Request) (out fromTPM) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TPMTime)
	defer cancel()
	for _, slot := range s.slotsToMake(req) {
		if out.seeds == nil {
			out.seeds = map[string]madeSeed{}
		}
		seed, err := s.makeTPMSeed(ctx, slot)
		out.seeds[slot.GetId()] = madeSeed{seed, err}
	}
	if req.GetSignOwn().GetAttested() {
		out.attestationKey, out.keyErr = s.ownAttestationKey(ctx)
	}
	return out
}

// slotsToMake are the TPM's in the set that a request brings, which this manager has
// no seed for.
func (s *Server) slotsToMake(req *keydpb.Request) (out []*keydpb.Slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var set *keydpb.SlotSet
	switch v := req.GetVerb().(type) {
	case *keydpb.Request_Reseal:
		set = v.Reseal.GetSlots()
	case *keydpb.Request_ImportKeyset:
		set = v.ImportKeyset.GetSlots()
	case *keydpb.Request_FinishRestore:
		if s.restoring != nil {
			set = s.restoring.facts.GetSlots()
		}
	}
	if set == nil || s.closed || s.broken != nil || autolock.CheckSlotSet(set) != nil {
		return nil // refused without asking the TPM
	}
	for _, slot := range set.GetSlots() {
		if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_TPM && s.ownSeedOf(slot.GetId()) == nil {
			out = append(out, slot)
		}
	}
	return out
}

// makeTPMSeed makes a seed and has the TPM seal it to its present state.
func (s *Server) makeTPMSeed(ctx context.Context, slot *keydpb.Slot) (*ownSeed, error) {
	t, err := s.device()
	if err != nil {
		return nil, err
	}
	seed, recipient, err := newSeed(slot.GetKind())
	defer clear(seed)
	if err != nil {
		return nil, err
	}
	sealed, err := t.Seal(ctx, registers(slot.GetPcrs()), seed, seedAuth(slot.GetId()))
	if err != nil {
		return nil, tpmError(err)
	}
	return &ownSeed{recipient, sealed}, nil
}

var errNotMade = refuse(keydpb.Code_CODE_NO_TPM, "this manager had no TPM when the slot was added: remove the slot and add it again")

// openTPMSeed has the TPM open the seed of a slot, which the caller wipes. It needs no
// lock.
func (s *Server) openTPMSeed(ctx context.Context, slot *keydpb.Slot, own *ownSeed) ([]byte, error) {
	t, err := s.device()
	switch {
	case err != nil:
		return nil, err
	case own == nil:
		return nil, errNotMade
	}
	seed, err := t.Unseal(ctx, own.sealed, seedAuth(slot.GetId()))
	if err != nil {
		return nil, tpmError(err)
	}
	return seed, nil
}

// openByTPM opens a manager with its TPM when keyd starts, and notes why a slot
// does not open it. One that does not open stays locked for people.
func (s *Server) openByTPM(ctx context.Context, slot *keydpb.Slot) {
	seed, err := s.openTPMSeed(ctx, slot, s.ownSeedOf(slot.GetId()))
	defer clear(seed)
	if err == nil && s.secrets == nil {
		_, err = s.openWith(slot.GetKind(), seed, "by itself: by its TPM")
	}
	if err == nil {
		return
	}
	s.lack(slot.GetId(), err)
	s.log.Warn("the TPM does not open this manager", "slot", autolock.SlotName(slot), "err", err)
}

// lack notes why a slot does not open this manager by itself; the caller holds mu.
func (s *Server) lack(slotID string, why error) {
	if s.lacks == nil {
		s.lacks = map[string]string{}
	}
	s.lacks[slotID] = oneline.Text(why.Error(), maxSaid)
}

// testOwn says whether this machine opens a slot by itself. Nothing changes. The caller
// does not hold mu.
func (s *Server) testOwn(ctx context.Context, name string) (*keydpb.TestSlotResponse, error) {
	slot, own, epoch, err := s.findOwn(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TPMTime)
	defer cancel()
	var seed []byte
	if slot.GetKind() == keydpb.SlotKind_SLOT_KIND_TPM {
		seed, err = s.openTPMSeed(ctx, slot, own)
	} else {
		seed, err = s.readFileSeed(slot)
	}
	defer clear(seed)
	if err != nil {
		return nil, err
	}
	recipient, err := autolock.SeedRecipient(slot.GetKind(), seed)
	if err != nil || own == nil || !bytes.Equal(own.recipient, recipient) {
		return nil, fmt.Errorf("%w (slot %s has another seed)", errStateDamaged, autolock.SlotName(slot))
	}
	return &keydpb.TestSlotResponse{SlotId: slot.GetId(), Epoch: epoch}, nil
}

// findOwn finds a slot that this machine opens by itself, by name or id, and what this
// manager has of it.
func (s *Server) findOwn(name string) (slot *keydpb.Slot, own *ownSeed, epoch uint64, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.hasState(); err != nil {
		return nil, nil, 0, err
	}
	set := s.file.state.GetSlots()
	at := slices.IndexFunc(set.GetSlots(), func(o *keydpb.Slot) bool { return o.GetId() == name || autolock.SlotName(o) == name })
	if at < 0 {
		return nil, nil, 0, invalid("this manager has no slot %q", name)
	}
	slot = set.GetSlots()[at]
	switch slot.GetKind() {
	case keydpb.SlotKind_SLOT_KIND_TPM, keydpb.SlotKind_SLOT_KIND_FILE:
		return slot, s.ownSeedOf(slot.GetId()), set.GetEpoch(), nil
	case keydpb.SlotKind_SLOT_KIND_RELEASE:
		return nil, nil, 0, invalid("slot %s is opened by the other managers, not by this machine: what keeps them from it, `redoubt status` says while this manager is locked", autolock.SlotName(slot))
	}
	return nil, nil, 0, invalid("slot %s is opened by people: give its key or a share", autolock.SlotName(slot))
}
